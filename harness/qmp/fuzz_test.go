package qmp

import (
	"bufio"
	"bytes"
	"testing"

	"gotest.tools/v3/assert"
)

// Whatever a QEMU writes, its monitor answers a waiting call at most once and never blocks or panics.
func FuzzDispatch(f *testing.F) {
	for _, seed := range []string{
		`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}`,
		`{"event": "DEVICE_DELETED", "data": {"device": "dut1"}, "timestamp": {"seconds": 1, "microseconds": 2}}`,
		`{"event": "STOP", "data": 7}`,
		`{"return": {}, "id": 1}`, `{"return": [], "id": 1}` + "\n" + `{"return": 2, "id": 1}`,
		`{"id": 1, "error": {"class": "GenericError", "desc": "no"}}`, `{"error": {"class": "x"}}`,
		`{"return": {}, "id": 18446744073709551615}`, `{"return": {}}`, `[1]`, "\x00\xff", `{"QMP": {}}` + "\n" + `{"QMP": {}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &Monitor{greeted: make(chan struct{}), pending: map[uint64]chan<- reply{}, subs: map[*subscriber]struct{}{}}
		answer := make(chan reply, 1)
		m.pending[1] = answer
		for in := bufio.NewReaderSize(bytes.NewReader(data), 16); ; {
			line, err := readLine(in)
			if err != nil {
				break
			}
			if line = bytes.TrimSpace(line); len(line) > 0 && m.dispatch(line) != nil {
				break
			}
		}
		assert.Equal(t, len(answer)+len(m.pending), 1)
	})
}
