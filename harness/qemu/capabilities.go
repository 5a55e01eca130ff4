package qemu

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nestbed/nestbed/harness/machine"
)

// askTimeout bounds the whole examination of one QEMU, which takes about a second.
const askTimeout = time.Minute

// Capabilities is what one QEMU can do, as it says itself.
type Capabilities struct {
	Path     string
	Version  string              // "7.2.22"
	Machines []string            // machine types, aliases included
	Devices  map[string][]string // by name; properties only of those in machine.Drivers
	Traces   []string            // trace events
}

// HasMachine says whether there is a machine type of that name or alias.
func (c Capabilities) HasMachine(name string) bool { return slices.Contains(c.Machines, name) }

// HasDevice says whether there is a device of that name. Aliases ("virtio-net") are not known here.
func (c Capabilities) HasDevice(name string) bool {
	_, ok := c.Devices[name]
	return ok
}

// HasProperty says whether one of machine.Drivers has a property.
func (c Capabilities) HasProperty(device, property string) bool {
	return slices.Contains(c.Devices[device], property)
}

// HasTrace says whether there is a trace event of that name.
func (c Capabilities) HasTrace(event string) bool { return slices.Contains(c.Traces, event) }

// Ask starts a QEMU without a machine and asks it what it can do. Errors are as of Start.
func Ask(ctx context.Context, binary string) (c Capabilities, err error) {
	path, err := lookup(binary)
	if err != nil {
		return c, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, askTimeout, fmt.Errorf("no end within %v", askTimeout))
	defer cancel()
	p, err := spawn(ctx, path, []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", "-accel", "tcg",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
	}, "", []string{"qmp"}, nil)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	c = Capabilities{Path: path, Version: p.qmp.Version().String()}

	type named struct {
		Name  string `json:"name"`
		Alias string `json:"alias"`
	}
	ask := func(command string, args any) (names []string) {
		if err != nil {
			return nil
		}
		var out []named
		err = p.qmp.Do(ctx, command, args, &out)
		for _, n := range out {
			names = append(names, n.Name)
			if n.Alias != "" {
				names = append(names, n.Alias)
			}
		}
		return names
	}
	c.Machines = ask("query-machines", nil)
	c.Traces = ask("trace-event-get-state", map[string]string{"name": "*"})
	c.Devices = make(map[string][]string)
	ours := machine.Drivers()
	for _, name := range ask("qom-list-types", map[string]any{"implements": "device", "abstract": false}) {
		c.Devices[name] = nil
		// Not of every device: among hundreds, some abort QEMU 7.2 when they are asked.
		if slices.Contains(ours, name) {
			c.Devices[name] = ask("device-list-properties", map[string]string{"typename": name})
		}
	}
	if err != nil {
		return Capabilities{}, fmt.Errorf("ask QEMU: %w", err)
	}
	return c, nil
}
