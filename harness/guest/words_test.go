package guest

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestCommand(t *testing.T) {
	assert.Equal(t, Command(), "")
	assert.Equal(t, Command("/bin/agent", "it's", "", "a b\n$HOME"), `'/bin/agent' 'it'\''s' '' 'a b`+"\n"+`$HOME'`)
}
