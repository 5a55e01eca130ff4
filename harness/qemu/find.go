package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
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
	if e.Binary != DefaultBinary {
		return fmt.Sprintf("find QEMU: %v; give the path of a %s", e.Err, DefaultBinary)
	}
	return fmt.Sprintf("find QEMU: %v; to install it: apt-get install qemu-system-x86", e.Err)
}

func (e *MissingError) Unwrap() error { return e.Err }

// NotQEMUError says that a program is there and is no QEMU.
type NotQEMUError struct {
	Binary string
	Reason string
}

func (e *NotQEMUError) Error() string {
	return fmt.Sprintf("%s is no QEMU: --version: %s; give the path of a %s", e.Binary, e.Reason, DefaultBinary)
}

// oldest is the first QEMU that has everything that every machine needs (virtio-iommu on q35 came last). What
// else a QEMU can do it is asked for.
const oldest = 7

// OldError says that a QEMU is older than anything that nestbed's machines run on.
type OldError struct {
	Binary  string
	Version string
}

func (e *OldError) Error() string {
	return fmt.Sprintf("%s is QEMU %s, nestbed needs %d.0 or newer: apt-get install qemu-system-x86, or --qemu PATH", e.Binary, e.Version, oldest)
}

// Find returns the path of a QEMU and its version ("7.2.22"). An empty binary is DefaultBinary. Without such
// a program the error is a *MissingError, with another one a *NotQEMUError; an *OldError comes with path and
// version.
func Find(binary string) (path, version string, err error) {
	if path, err = lookup(binary); err != nil {
		return "", "", err
	}
	limit := fmt.Errorf("no answer within %v", versionTimeout)
	ctx, cancel := context.WithTimeoutCause(context.Background(), versionTimeout, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.WaitDelay = time.Second // a child of a script may hold the pipe
	var stderr tail
	out := head{cancel: cancel}
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Run()
	m := versionLine.FindSubmatch(out.text)
	switch {
	case context.Cause(ctx) == limit:
		err = limit
	case err == nil || out.over:
		err = fmt.Errorf("%q", bytes.TrimSpace(out.text[:min(len(out.text), 100)]))
	case m == nil && stderr.String() != "":
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	if m == nil {
		return "", "", &NotQEMUError{Binary: path, Reason: err.Error()}
	}
	version = string(m[1])
	if major, _, _ := strings.Cut(version, "."); len(major) == 1 && major < strconv.Itoa(oldest) {
		return path, version, &OldError{Binary: path, Version: version}
	}
	return path, version, nil
}

var versionLine = regexp.MustCompile(`(?m)^QEMU emulator version (\d+\.\d+(?:\.\d+)*)`)

// head keeps the beginning of what is written to it and calls cancel when there is more: a program that is
// no QEMU may go on for ever.
type head struct {
	text   []byte
	over   bool
	cancel func()
}

func (h *head) Write(p []byte) (int, error) {
	const enough = 4 << 10
	n := min(len(p), enough-len(h.text))
	h.text = append(h.text, p[:n]...)
	if n < len(p) {
		h.over = true
		h.cancel()
	}
	return len(p), nil
}

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
