package lab

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/guestagent/tracefs"
)

// moduleTrace records who takes and drops references of the modules under test. It is evidence, shown when
// a count is off and at no other time.
type moduleTrace struct {
	trace *tracefs.Instance // nil when there is none: why says why
	why   string
	shown map[string]int // how often, by module
}

// refsTrace is the name of the trace instance that it has beside a program of the user's.
const refsTrace = "nestbed-modules"

// watchRefs begins right before the baseline. A program of the user's may trace by itself: beside one, the
// trace has an instance of its own.
func watchRefs(root string, beside bool) *moduleTrace {
	m := newModuleTrace("")
	const kb = 1024
	var trace *tracefs.Instance
	var err error
	if beside {
		trace, err = tracefs.New(root, refsTrace, kb)
	} else {
		trace, err = tracefs.Top(root, kb)
	}
	if err == nil {
		err = traceRefs(trace)
	}
	if err != nil {
		m.why = err.Error()
		return m
	}
	m.trace = trace
	return m
}

func newModuleTrace(why string) *moduleTrace { return &moduleTrace{why: why, shown: map[string]int{}} }

func traceRefs(trace *tracefs.Instance) error {
	// The call site alone says __symbol_get, for whoever called symbol_get.
	err := trace.Set("options/stacktrace", "1")
	filter := make([]string, len(underTest))
	for i, name := range underTest {
		filter[i] = fmt.Sprintf("name == %q", name)
	}
	for _, event := range []string{"module/module_get", "module/module_put"} {
		if err == nil {
			err = trace.Enable(event, strings.Join(filter, " || "))
		}
	}
	return err
}

// maxShown bounds how often one module's trace goes into the records.
const maxShown = 3

// explain logs who took and who dropped references of modules whose count is off.
func (t *T) explain(names []string) {
	m := t.refs
	names = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(names))), func(name string) bool {
		m.shown[name]++
		return m.shown[name] > maxShown
	})
	if len(names) == 0 {
		return
	}
	if m.trace == nil {
		t.stream.log("no trace of module references: " + m.why)
		return
	}
	text, err := m.trace.Text()
	if err != nil {
		t.stream.log("no trace of module references: " + err.Error())
		return
	}
	events, note := parseModuleTrace(text)
	for _, name := range names {
		t.stream.log(sumUp(name, events) + note)
	}
}

// refEvent is one module_get or module_put.
type refEvent struct {
	line   string // as the kernel prints it, without what is the same in each
	module string
	put    bool
	who    string
}

// parseModuleTrace reads the events with their stacks, and a note on what is missing, "" mostly.
func parseModuleTrace(text string) (events []refEvent, note string) {
	var stack bool // the frames of the last event follow
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, "# entries-in-buffer/entries-written: "); ok {
			kept, rest, _ := strings.Cut(rest, "/")
			written, _, _ := strings.Cut(rest, " ")
			if kept != written {
				note = fmt.Sprintf("\nthe buffer kept %s of %s entries", kept, written)
			}
			continue
		}
		if frame, ok := strings.CutPrefix(line, "=> "); ok {
			if stack && len(events) > 0 {
				e := &events[len(events)-1]
				if !isGeneric(frame) {
					e.who += " < " + frame
					stack = false
				}
			}
			continue
		}
		if strings.HasSuffix(line, "<stack trace>") {
			continue
		}
		e, ok := parseRefEvent(line)
		if ok {
			events = append(events, e)
		}
		stack = ok && isGeneric(strings.Fields(e.who)[0])
	}
	return events, note
}

// parseRefEvent reads "agent-95 [000] ...1. 3: module_get: kvm_amd call_site=kvm_dev_ioctl [kvm] refcnt=3".
func parseRefEvent(line string) (refEvent, bool) {
	for _, event := range []string{"module_get: ", "module_put: "} {
		i := strings.Index(line, ": "+event)
		if i < 0 {
			continue
		}
		e := refEvent{line: line[i+2:], put: event == "module_put: "}
		name, rest, ok := strings.Cut(line[i+2+len(event):], " call_site=")
		site, _, more := strings.Cut(rest, " refcnt=")
		e.module, e.who = name, site
		return e, ok && more && site != ""
	}
	return refEvent{}, false
}

// isGeneric tells functions that take and drop references for their callers, whom the stack names.
func isGeneric(function string) bool {
	switch function {
	case "trace_event_raw_event_module_refcnt", "try_module_get", "__module_get", "module_put",
		"__symbol_get", "__symbol_put", "anon_inode_getfile", "__anon_inode_getfile", "anon_inode_getfd", "__anon_inode_getfd":
		return true
	}
	return strings.HasPrefix(function, "__traceiter_") || strings.HasPrefix(function, "trace_event_")
}

// family groups what takes references with what drops them.
func (e refEvent) family() string {
	function, _, _ := strings.Cut(e.who, " ")
	switch function {
	case "__symbol_get", "__symbol_put", "symbol_put_addr":
		return "symbol_get and symbol_put"
	case "misc_open", "chrdev_open", "exact_lock", "do_dentry_open", "__fput", "cdev_put",
		"anon_inode_getfile", "__anon_inode_getfile", "anon_inode_getfd", "__anon_inode_getfd":
		return "open files"
	case "get_filesystem", "put_fs_context", "put_filesystem", "deactivate_locked_super":
		return "file systems"
	}
	return "others"
}

// sumUp says of one module who took and dropped its references, and shows the last of these events.
func sumUp(name string, events []refEvent) string {
	const last = 20
	type count struct{ got, put map[string]int }
	families := map[string]count{}
	var lines []string
	for _, e := range events {
		if e.module != name {
			continue
		}
		lines = append(lines, e.line)
		if e.put && e.who == "do_init_module" {
			continue // a module is born with the loader's reference, which nobody got
		}
		c, ok := families[e.family()]
		if !ok {
			c = count{map[string]int{}, map[string]int{}}
			families[e.family()] = c
		}
		if e.put {
			c.put[e.who]++
		} else {
			c.got[e.who]++
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "references of %s since the baseline, by module_get and module_put:", name)
	if len(lines) == 0 {
		b.WriteString(" nobody took or dropped one")
	}
	total := func(m map[string]int) (n int) {
		for _, v := range m {
			n += v
		}
		return n
	}
	for _, family := range slices.Sorted(maps.Keys(families)) {
		c := families[family]
		got, put := total(c.got), total(c.put)
		fmt.Fprintf(&b, "\n%s: %d got, %d put", family, got, put)
		switch {
		case got > put:
			fmt.Fprintf(&b, ", %d WITHOUT COUNTERPART", got-put)
		case put > got:
			fmt.Fprintf(&b, ", %d PUT TOO OFTEN", put-got)
		}
		for _, side := range []struct {
			word string
			who  map[string]int
		}{{"got", c.got}, {"put", c.put}} {
			for _, who := range slices.Sorted(maps.Keys(side.who)) {
				fmt.Fprintf(&b, "\n  %s %d: %s", side.word, side.who[who], who)
			}
		}
	}
	if len(lines) > 0 {
		lines = lines[max(0, len(lines)-last):]
		fmt.Fprintf(&b, "\nthe last %d:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	return b.String()
}
