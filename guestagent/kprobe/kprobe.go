// Package kprobe sees a function of the kernel being called, where nothing else lets user space see that it
// was: it counts the calls, or makes an event of them that a trace instance records.
//
// It owns the probes that it made through tracefs. What a call means is for its reader to say; traces of
// events that the kernel defines itself do not belong here.
package kprobe

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const group = "nestbed"

// ErrNoSymbol says that the kernel has no function of that name, or none that can be probed.
var ErrNoSymbol = errors.New("no such function in this kernel")

// ErrNoProbes says that the kernel has no probes at all (CONFIG_KPROBE_EVENTS).
var ErrNoProbes = errors.New("this kernel has no kprobe_events")

// Counter counts the calls of one function. A probe of a module's function holds no reference of the module.
type Counter struct {
	dir  string
	name string
}

// Count begins to count the calls of a function.
func Count(root, symbol string) (*Counter, error) {
	c, err := define(root, symbol)
	if err != nil {
		return nil, err
	}
	if err := c.enable("1"); err != nil {
		return nil, errors.Join(err, c.remove())
	}
	return c, nil
}

// Event makes the calls of a function an event of the kernel's, for as long as it runs, and returns the event's
// name for a trace instance. args are the event's fields as kprobe_events has them: "ptr=%si:x64".
func Event(root, symbol string, args ...string) (string, error) {
	_, err := define(root, symbol, args...)
	return group + "/" + symbol, err
}

func define(root, symbol string, args ...string) (*Counter, error) {
	c := &Counter{filepath.Join(root, "/sys/kernel/tracing"), symbol}
	if _, err := os.Stat(filepath.Join(c.dir, "kprobe_events")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("kprobe %s: %w", symbol, ErrNoProbes)
	}
	words := append([]string{"p:" + group + "/" + symbol, symbol}, args...)
	err := c.write("kprobe_events", os.O_APPEND, strings.Join(words, " "))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("kprobe %s: %w", symbol, ErrNoSymbol)
	}
	return c, err
}

// Hits is how often the function was called.
func (c *Counter) Hits() (int, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "kprobe_profile"))
	if err != nil {
		return 0, fmt.Errorf("kprobe %s: %w", c.name, err)
	}
	for line := range strings.Lines(string(text)) {
		var name string
		var hits, missed int
		if n, _ := fmt.Sscan(line, &name, &hits, &missed); n == 3 && name == c.name {
			if missed > 0 {
				return 0, fmt.Errorf("kprobe %s: %d calls were not counted", c.name, missed)
			}
			return hits, nil
		}
	}
	return 0, fmt.Errorf("kprobe %s: not in the kernel's list", c.name)
}

// Close takes the probe away.
func (c *Counter) Close() error { return errors.Join(c.enable("0"), c.remove()) }

func (c *Counter) enable(value string) error {
	return c.write(filepath.Join("events", group, c.name, "enable"), 0, value)
}

func (c *Counter) remove() error { return c.write("kprobe_events", os.O_APPEND, "-:"+group+"/"+c.name) }

func (c *Counter) write(file string, flags int, text string) error {
	f, err := os.OpenFile(filepath.Join(c.dir, file), os.O_WRONLY|flags, 0)
	if err == nil {
		_, err = f.WriteString(text + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("kprobe %s: %w", c.name, err)
	}
	return nil
}
