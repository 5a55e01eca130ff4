package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
)

func TestFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		trace string
		want  int
	}{
		"none":   {"", 0},
		"intel":  {"vtd_dmar_fault sid 0x100 fault 5 addr 0x5000000 write 1\nvtd_dmar_fault sid 0x100 fault 6 addr 0x5000004 write 0\n", 2},
		"virtio": {"virtio_iommu_report_fault reason=1 flags=2 endpoint=256 address =0x200000\n", 1},
		"amd": {"amdvi_translation_result devid: 01:00.0 gpa 0xffffe000 hpa 0x8be5000\n" +
			"amdvi_translation_result devid: 01:00.0 gpa 0x5000000 hpa 0x0\n" +
			"amdvi_translation_result devid: 01:00.0 gpa 0x5000004 hpa 0x05000\n", 1},
		"other events":       {"vtd_fault_disabled Fault processing disabled\nvtd_dmar_faulty x\n x vtd_dmar_fault\n", 0},
		"half a line at end": {"vtd_dmar_fault sid 0x100 fault 5\nvtd_dmar_fault sid 0x1", 1},
		"long line":          {strings.Repeat("x", 9000) + "vtd_dmar_fault \nvtd_dmar_fault sid\n", 1},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			assert.NilError(t, os.WriteFile(filepath.Join(dir, machine.TraceLog), []byte(tt.trace), 0o644))
			got, err := Faults(dir)
			assert.NilError(t, err)
			assert.Equal(t, got, tt.want)
		})
	}
	t.Run("no trace", func(t *testing.T) {
		got, err := Faults(t.TempDir())
		assert.NilError(t, err)
		assert.Equal(t, got, 0)
	})
}

func TestTail(t *testing.T) {
	var s tail
	for range 3000 {
		_, err := s.Write([]byte("0123456789"))
		assert.NilError(t, err)
	}
	_, err := s.Write([]byte("the end \xff\n"))
	assert.NilError(t, err)
	assert.Assert(t, len(s.String()) < maxStderr+16)
	assert.Assert(t, strings.HasPrefix(s.String(), "... "))
	assert.Assert(t, strings.HasSuffix(s.String(), "the end \uFFFD"))
}

func TestExitStateString(t *testing.T) {
	for want, s := range map[string]ExitState{
		"running":           {},
		"exit status 1":     {Ended: true, Code: 1},
		"exit status 0":     {Ended: true},
		"killed by SIGABRT": {Ended: true, Code: -1, Signal: "SIGABRT"},
		"killed by SIGXFSZ: the guest filled a log": {Ended: true, Code: -1, Signal: "SIGXFSZ"},
		"host-signal":                 {Ended: true, Shutdown: "host-signal"},
		"exit status 1 after a panic": {Ended: true, Code: 1, Shutdown: "guest-panic", Panicked: true},
	} {
		assert.Equal(t, s.String(), want)
	}
}
