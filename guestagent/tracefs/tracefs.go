// Package tracefs owns trace instances: a ring buffer and a set of enabled events of our own, beside
// whatever else traces in the guest; and the kernel's first instance, which is everybody's.
//
// It reads them as text or as the entries that the kernel wrote. What an event means is for its reader to
// say. kprobes and tracers (function, irqsoff) do not belong here.
package tracefs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Instance is one trace instance. It holds no reference of any module: the events of the core kernel are
// built in.
type Instance struct {
	dir string
	raw []int // one reader for each CPU's buffer
}

// New makes an instance with kb KiB of buffer for each CPU. A buffer that is full drops what is oldest.
// One of this name that somebody left behind is replaced.
//
// Up to 6.5 an instance has its own copy of all events' files: making one costs 0.2 s and more under TCG,
// removing it as much.
func New(root, name string, kb int) (*Instance, error) {
	i := &Instance{dir: filepath.Join(root, "/sys/kernel/tracing/instances", name)}
	err := os.Mkdir(i.dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		if err = unix.Rmdir(i.dir); err == nil {
			err = os.Mkdir(i.dir, 0o700)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("trace instance: %w", err)
	}
	for _, setting := range [][2]string{{"buffer_size_kb", strconv.Itoa(kb)}, clock} {
		if err := i.Set(setting[0], setting[1]); err != nil {
			return nil, errors.Join(err, i.Remove())
		}
	}
	return i, nil
}

// clock orders the entries of all CPUs by a counter; one that tells the time only nearly does.
var clock = [2]string{"trace_clock", "counter"}

// Top empties the instance that the kernel itself has and takes it, with kb KiB of buffer for each CPU. It
// costs little, and whoever traces in the guest without an instance of his own shares it.
func Top(root string, kb int) (*Instance, error) {
	i := &Instance{dir: filepath.Join(root, "/sys/kernel/tracing")}
	for _, setting := range [][2]string{{"trace", ""}, {"buffer_size_kb", strconv.Itoa(kb)}, clock} {
		if err := i.Set(setting[0], setting[1]); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// Attach takes an instance that is there as it is, buffers and events included; name is "" for the kernel's own.
func Attach(root, name string) (*Instance, error) {
	i := &Instance{dir: filepath.Join(root, "/sys/kernel/tracing")}
	if name != "" {
		i.dir = filepath.Join(i.dir, "instances", name)
	}
	if _, err := os.Stat(i.dir); err != nil {
		return nil, fmt.Errorf("trace instance: %w", err)
	}
	return i, nil
}

// Set writes one of the instance's files: "options/stacktrace".
func (i *Instance) Set(file, value string) error {
	if err := os.WriteFile(filepath.Join(i.dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("trace instance: %w", err)
	}
	return nil
}

// Enable records an event ("module/module_get") where the filter holds, always if that is empty. An event
// that this kernel does not have is fs.ErrNotExist.
func (i *Instance) Enable(event, filter string) error {
	if filter != "" {
		if err := i.Set("events/"+event+"/filter", filter); err != nil {
			return err
		}
	}
	return i.Set("events/"+event+"/enable", "1")
}

// Format is how an event's entries are laid out.
func (i *Instance) Format(event string) (Format, error) {
	text, err := os.ReadFile(filepath.Join(i.dir, "events", event, "format"))
	if err != nil {
		return Format{}, fmt.Errorf("trace instance: %w", err)
	}
	return parseFormat(string(text))
}

// Text is what the buffer holds, as the kernel prints it. It stays in the buffer.
func (i *Instance) Text() (string, error) {
	text, err := os.ReadFile(filepath.Join(i.dir, "trace"))
	if err != nil {
		return "", fmt.Errorf("trace instance: %w", err)
	}
	return string(text), nil
}

// Open prepares for Drain.
func (i *Instance) Open() error {
	files, err := filepath.Glob(filepath.Join(i.dir, "per_cpu/cpu*/trace_pipe_raw"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("trace instance: %s has no buffers (%v)", i.dir, err)
	}
	for _, file := range files {
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("trace instance: %s: %w", file, err)
		}
		i.raw = append(i.raw, fd)
	}
	return nil
}

// Drain takes out what is in the buffers, in the order in which it came, without waiting. Entries that were
// dropped before they could be taken are reported as lost, and anything that rests on a count is void.
func (i *Instance) Drain() (entries []Entry, lost bool, err error) {
	for _, fd := range i.raw {
		var last uint64
		for {
			// Never reused: the entries point into it.
			page := make([]byte, pageSize)
			n, err := unix.Read(fd, page)
			if err == unix.EINTR {
				continue
			}
			if err == unix.EAGAIN || err == nil && n == 0 {
				break
			}
			if err != nil {
				return nil, false, fmt.Errorf("read trace buffer: %w", err)
			}
			gone, err := parsePage(page[:n], &last, &entries)
			if err != nil {
				return nil, false, err
			}
			lost = lost || gone
		}
	}
	if len(i.raw) > 1 {
		sortByTime(entries)
	}
	return entries, lost, nil
}

// Close ends Drain. The instance and what it records stay: guests mostly end before they would need it gone.
func (i *Instance) Close() error {
	var errs []error
	for _, fd := range i.raw {
		errs = append(errs, unix.Close(fd))
	}
	i.raw = nil
	return errors.Join(errs...)
}

// Remove closes the instance and removes it, and with it its events and buffers.
func (i *Instance) Remove() error {
	err := i.Close()
	if rm := unix.Rmdir(i.dir); rm != nil {
		err = errors.Join(err, fmt.Errorf("remove trace instance %s: %w", i.dir, rm))
	}
	return err
}

// Format is what an event's format file says.
type Format struct {
	ID      int
	offsets map[string]int
}

// Offset is where a field begins in an entry's data.
func (f Format) Offset(field string) (int, error) {
	at, ok := f.offsets[field]
	if !ok {
		return 0, fmt.Errorf("trace event %d has no field %s", f.ID, field)
	}
	return at, nil
}

func parseFormat(text string) (Format, error) {
	f := Format{offsets: map[string]int{}}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if id, ok := strings.CutPrefix(line, "ID: "); ok {
			var err error
			if f.ID, err = strconv.Atoi(id); err != nil {
				return f, fmt.Errorf("trace event format: %w", err)
			}
		}
		// field:unsigned long call_site;	offset:8;	size:8;	signed:0;
		declaration, rest, ok := strings.Cut(line, ";")
		if !ok || !strings.HasPrefix(declaration, "field:") {
			continue
		}
		name := declaration[strings.LastIndexAny(declaration, " *:")+1:]
		name, _, _ = strings.Cut(name, "[")
		var at int
		if _, err := fmt.Sscanf(strings.TrimSpace(rest), "offset:%d;", &at); err != nil {
			return f, fmt.Errorf("trace event format: %q: %w", line, err)
		}
		f.offsets[name] = at
	}
	if f.ID == 0 {
		return f, errors.New("trace event format: no ID")
	}
	return f, nil
}
