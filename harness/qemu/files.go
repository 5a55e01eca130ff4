package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// firmware are the files that a machine of package machine may load besides its kernel.
var firmware = []string{"bios-256k.bin", "bios.bin", "kvmvapic.bin", "linuxboot.bin", "linuxboot_dma.bin", "multiboot.bin", "multiboot_dma.bin", "pvh.bin"}

// Files are the paths of a QEMU's program and of the firmware that it would load.
func Files(ctx context.Context, binary string) ([]string, error) {
	path, err := lookup(binary)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-L", "help").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its firmware: %w", path, err)
	}
	files := []string{path}
	for _, name := range firmware {
		for dir := range strings.Lines(string(out)) {
			file := filepath.Join(strings.TrimSpace(dir), name)
			if _, err := os.Stat(file); err == nil {
				files = append(files, file)
				break
			}
		}
	}
	if len(files) == 1 {
		return nil, fmt.Errorf("ask %s for its firmware: nothing in %s", path, strings.Join(strings.Fields(string(out)), ", "))
	}
	return files, nil
}
