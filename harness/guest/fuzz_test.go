package guest

import (
	"bufio"
	"bytes"
	"errors"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/images/control"
)

// Whatever a guest says on its control port, what is believed of it is within bounds.
func FuzzControl(f *testing.F) {
	for _, seed := range []string{
		`{"version":1,"kernel":"6.12.0","uptime":1.5}` + "\n" + `{"problem":"no clock"}` + "\n" + `{"serving":true}` + "\n",
		`{"version":1,"kernel":"6.12.0","uptime":1e999}` + "\n", `{"version":1,"kernel":"` + "\x1b" + `","uptime":-0}` + "\n",
		"[]\n", "null\n", "\n\n", "\x00\xff\n", `{"version":2}`, `{"problem":{}}` + "\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := bufio.NewReaderSize(bytes.NewReader(data), control.MaxLine)
		var ready control.Ready
		if err := readLine(lines, &ready); err == nil && checkReady(ready) == nil {
			assert.Assert(t, ready.Version == control.Version && len(ready.Kernel) <= 64 && ready.Uptime >= 0 && ready.Uptime <= 1e6)
		}
		g := &Guest{}
		for {
			_, err := g.notice(lines)
			if errors.As(err, new(*ProtocolError)) {
				continue
			} else if err != nil {
				break
			}
		}
		size := 0
		for _, p := range g.Problems() {
			size += len(p)
		}
		assert.Assert(t, len(g.Problems()) <= maxProblems && size <= maxProblems*3*control.MaxLine)
	})
}
