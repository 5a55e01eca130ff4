package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nestbed/nestbed/harness/machine"
)

// Plug hot-adds a device under an id behind root port number port, from 1. It returns when QEMU has it; the
// guest's kernel finds it later.
func (p *Process) Plug(ctx context.Context, dev machine.Device, id string, port int) error {
	if err := p.qmp.Do(ctx, "device_add", dev.Add(id, port), nil); err != nil {
		return fmt.Errorf("plug %s behind %s: %w", dev.Name, machine.PortID(port), err)
	}
	return nil
}

// Unplug asks the guest to let go of a device. It returns at once; the event DEVICE_DELETED with the id
// follows when the guest has, which may be never.
func (p *Process) Unplug(ctx context.Context, id string) error {
	if err := p.qmp.Do(ctx, "device_del", map[string]string{"id": id}, nil); err != nil {
		return fmt.Errorf("unplug %s: %w", id, err)
	}
	return nil
}

// NMI interrupts every vCPU. The kernel, as package machine boots it, dumps all CPUs and panics, unless the
// guest has cleared kernel.unknown_nmi_panic.
func (p *Process) NMI(ctx context.Context) error {
	return p.qmp.Do(ctx, "inject-nmi", nil, nil)
}

// SysRq presses Alt-SysRq and a key on the guest's keyboard: "l" for all CPUs' backtraces, "w" for blocked
// tasks, "t" for all tasks. It needs a kernel that still takes interrupts.
func (p *Process) SysRq(ctx context.Context, key string) error {
	type keyValue struct {
		Type string `json:"type"`
		Data string `json:"data"`
	}
	keys := []keyValue{{"qcode", "alt"}, {"qcode", "sysrq"}, {"qcode", key}}
	return p.qmp.Do(ctx, "send-key", map[string]any{"keys": keys}, nil)
}

// isFault tells whether a line of the trace is an IOMMU fault. AMD's event is traced for every translation;
// a refused one came to page 0, where no device's memory is.
func isFault(line []byte) bool {
	event, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(event) {
	case "vtd_dmar_fault", "virtio_iommu_report_fault":
		return true
	case "amdvi_translation_result":
		return bytes.HasSuffix(bytes.TrimSpace(rest), []byte(" hpa 0x0"))
	}
	return false
}

// Faults counts the IOMMU faults that QEMU has traced so far in a cell's folder. Kernels rate-limit their own
// lines about faults; this count is exact. A folder without a trace has none.
func Faults(dir string) (int, error) {
	f, err := os.Open(filepath.Join(dir, machine.TraceLog))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("count IOMMU faults: %w", err)
	}
	defer f.Close()
	faults := 0
	in := bufio.NewReader(f)
	for {
		// ReadSlice bounds the line; events' lines are far shorter than its buffer. A last line without its
		// end is still being written.
		line, err := in.ReadSlice('\n')
		if err == nil && isFault(line) {
			faults++
		}
		switch {
		case errors.Is(err, io.EOF):
			return faults, nil
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return faults, fmt.Errorf("count IOMMU faults: %w", err)
		}
	}
}
