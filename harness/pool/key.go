package pool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qemu"
)

// snapshotFormat changes when a guest is saved in another way or at another point of its life.
const snapshotFormat = "1"

// key is the hash of all that a saved guest was made from, in hex: QEMU's arguments with the contents of files in
// the place of their names, QEMU itself with its firmware and, where the host's CPU shows through, that.
func (p *Pool) key(ctx context.Context, spec Spec, m machine.Machine) (string, error) {
	program, err := p.program(ctx)
	if err != nil {
		return "", err
	}
	m.Kernel, m.Initrd = spec.Kernel.Hash, filepath.Base(m.Initrd) // which is a hash
	h := sha256.New()
	for _, part := range append([]string{snapshotFormat, vmlinuxFormat, program}, m.Args()...) {
		fmt.Fprintf(h, "%d %s\n", len(part), part)
	}
	if m.Accel == machine.KVM {
		if err := hostCPU(h); err != nil {
			return "", fmt.Errorf("the host's CPU: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// preparedKey is the hash of a saved guest's key and what was done to it.
func preparedKey(key string, prep Preparation) string {
	h := sha256.New()
	fmt.Fprintln(h, key)
	for _, f := range prep.Files {
		fmt.Fprintf(h, "%q %o %x\n", f.Name, f.Mode, sha256.Sum256(f.Data))
	}
	fmt.Fprintf(h, "%q\n", prep.Command)
	return hex.EncodeToString(h.Sum(nil))
}

// program is the hash of QEMU and of the firmware that it would load. It is asked for once.
func (p *Pool) program(ctx context.Context) (string, error) {
	p.programOnce.Do(func() {
		files, err := qemu.Files(ctx, p.Binary)
		h := sha256.New()
		for _, file := range files {
			if err == nil {
				fmt.Fprintln(h, filepath.Base(file))
				err = copyAll(h, file)
			}
		}
		p.programHash, p.programErr = hex.EncodeToString(h.Sum(nil)), err
	})
	return p.programHash, p.programErr
}

// hostCPU writes what a guest under KVM sees of its host.
func hostCPU(w io.Writer) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	fmt.Fprintln(w, unix.ByteSliceToString(name.Release[:]))
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(string(info), "\n\n")
	for line := range strings.Lines(first) {
		switch key, _, _ := strings.Cut(line, "\t"); key {
		case "vendor_id", "cpu family", "model", "stepping", "microcode", "flags":
			fmt.Fprint(w, line)
		}
	}
	return nil
}
