package layout_test

import (
	"encoding/json"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/images/layout"
)

// The agent reads these files too, without this package: the words below are a contract.
func TestShape(t *testing.T) {
	line, err := json.Marshal([]layout.Module{{Name: "kvm", Deps: []string{"irqbypass"}}})
	assert.NilError(t, err)
	assert.Equal(t, string(line), `[{"name":"kvm","deps":["irqbypass"]}]`)
	assert.Equal(t, layout.ModuleFile("kvm"), "/lib/nestbed/modules/kvm.ko")
	assert.Equal(t, layout.ModuleList, "/lib/nestbed/modules.json")
}
