package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"
)

// DefaultBinary is the QEMU that an empty Config.Binary means, looked up in PATH.
const DefaultBinary = "qemu-system-x86_64"

// versionTimeout bounds `qemu --version`, which takes milliseconds.
const versionTimeout = 20 * time.Second

// MissingError says that there is no QEMU to run.
type MissingError struct {
	Binary string
	Err    error
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("find QEMU: %v; to install it: apt-get install qemu-system-x86", e.Err)
}

func (e *MissingError) Unwrap() error { return e.Err }

// Find returns the path of a QEMU and its version ("7.2.22"). An empty binary is DefaultBinary. Without such
// a program the error is a *MissingError.
func Find(binary string) (path, version string, err error) {
	if path, err = lookup(binary); err != nil {
		return "", "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", "", &StartError{Binary: path, Stderr: stderr.String(), Err: err}
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", "", fmt.Errorf("%s --version: not QEMU: %q", path, bytes.TrimSpace(out[:min(len(out), 100)]))
	}
	return path, string(m[1]), nil
}

var versionLine = regexp.MustCompile(`(?m)^QEMU emulator version (\d+\.\d+(?:\.\d+)*)`)

func lookup(binary string) (string, error) {
	if binary == "" {
		binary = DefaultBinary
	}
	path, err := exec.LookPath(binary)
	if err != nil {
		// LookPath's own error names the program already; its cause is enough below ours.
		if _, ok := errors.AsType[*exec.Error](err); !ok {
			err = fmt.Errorf("%s: %w", binary, err)
		}
		return "", &MissingError{Binary: binary, Err: err}
	}
	// QEMU runs in the cell's folder, where a relative path leads elsewhere.
	return filepath.Abs(path)
}
