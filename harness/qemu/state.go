package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/nestbed/nestbed/harness/qmp"
)

// UnsavableError says that this QEMU cannot save a machine of this kind, in QEMU's own words: amd-iommu
// before 10.1, some devices.
type UnsavableError struct{ Reason string }

func (e *UnsavableError) Error() string { return "save the guest: " + e.Reason }

// Save stops the guest and writes the state of its devices, and of what memory it has outside of
// machine.Memory's file: some 300 kB. The guest never runs again, and its memory's file is what it was then. The
// error is an *UnsavableError where QEMU refuses.
func (p *Process) Save(ctx context.Context, to io.Writer) error {
	if err := p.qmp.Do(ctx, "stop", nil, nil); err != nil {
		return fmt.Errorf("save the guest: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("save the guest: %w", err)
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(to, r)
		copied <- errors.Join(err, r.Close())
	}()
	err = p.migrate(ctx, "migrate", w)
	err = errors.Join(err, <-copied) // QEMU has closed its end, by its own end at the latest
	if refused := new(qmp.CommandError); errors.As(err, &refused) && refused.Command == "migrate" {
		return &UnsavableError{Reason: refused.Desc}
	}
	if err != nil {
		return fmt.Errorf("save the guest: %w", err)
	}
	return nil
}

// Restore reads the state that Save wrote into a QEMU that was started with Incoming, and lets the guest go on.
func (p *Process) Restore(ctx context.Context, from io.Reader) error {
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("restore the guest: %w", err)
	}
	fed := make(chan struct{})
	go func() {
		defer close(fed)
		// A QEMU that reads no further says why itself.
		_, _ = io.Copy(w, from)
		_ = w.Close()
	}()
	err = p.migrate(ctx, "migrate-incoming", r)
	<-fed
	if err == nil {
		err = p.qmp.Do(ctx, "cont", nil, nil) // it was saved as a guest that is stopped
	}
	if err != nil {
		return fmt.Errorf("restore the guest: %w", err)
	}
	return nil
}

// migrate hands QEMU its end of a pipe and runs a command of migration to its end. It closes the pipe's end.
// When ctx ends first, so does QEMU: half a state is of no use, and the pipe's other end must see its end.
func (p *Process) migrate(ctx context.Context, command string, end *os.File) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			p.stop()
		}
	}()
	watching, unwatch := context.WithCancel(ctx)
	defer unwatch()
	events := p.qmp.Subscribe(watching)
	var capabilities []any
	for _, name := range []string{"events", "x-ignore-shared"} {
		capabilities = append(capabilities, map[string]any{"capability": name, "state": true})
	}
	err = p.qmp.Do(ctx, "migrate-set-capabilities", map[string]any{"capabilities": capabilities}, nil)
	if err == nil {
		err = p.qmp.SendFD(ctx, "state", end)
	}
	if closeErr := end.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = p.qmp.Do(ctx, command, map[string]any{"uri": "fd:state"}, nil)
	}
	if err != nil {
		// QEMU closes a descriptor that it has been given and no command took.
		_ = p.qmp.Do(ctx, "closefd", map[string]any{"fdname": "state"}, nil)
		return err
	}
	for e := range events {
		if e.Event != "MIGRATION" {
			continue
		}
		switch e.Data["status"] {
		case "completed":
			return nil
		case "failed", "cancelled":
			return fmt.Errorf("%s: %v; %s", command, e.Data["status"], p.Stderr())
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	<-p.done
	return fmt.Errorf("%s: %w; %s", command, p.ExitState().err(), p.Stderr())
}
