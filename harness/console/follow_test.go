package console

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/results/record"
)

// within fails the test when the event does not come; it decides nothing else.
func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

type followed struct {
	*Follower
	log     *os.File
	path    string
	lines   chan string
	reports chan record.Report
}

func follow(t *testing.T, o Options) followed {
	t.Helper()
	f := followed{path: filepath.Join(t.TempDir(), "console.log"), lines: make(chan string, 20000), reports: make(chan record.Report, 100)}
	o.Line = func(s string) { f.lines <- s }
	o.Report = func(r record.Report) { f.reports <- r }
	var err error
	f.Follower, err = Follow(f.path, o)
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, f.Close()) })
	f.log, err = os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644) // as QEMU does
	assert.NilError(t, err)
	t.Cleanup(func() { f.log.Close() })
	return f
}

func (f followed) write(t *testing.T, text string) {
	t.Helper()
	_, err := f.log.WriteString(text)
	assert.NilError(t, err)
}

func TestFollowSeesWhatParseSees(t *testing.T) {
	for name := range realLogs {
		log, err := os.ReadFile("testdata/" + name)
		assert.NilError(t, err)
		f := follow(t, Options{Quiet: time.Hour})
		for i := 0; i < len(log); i += 4093 { // cuts lines in the middle
			f.write(t, string(log[i:min(i+4093, len(log))]))
		}
		assert.NilError(t, f.Close())
		assert.Equal(t, describe(f.Reports()), describe(Parse(log)), name)
		assert.Equal(t, f.State().Bytes, int64(len(log)))
		assert.Equal(t, f.State().LastLine, LastLine(log))
	}
}

// The end mark decides: no quiet time is waited for.
func TestFollowFatalAtTheEndMark(t *testing.T) {
	log, err := os.ReadFile("testdata/l1-debian-6.12.117-amd-panic-recursion.log")
	assert.NilError(t, err)
	lines := strings.SplitAfter(string(log), "\n")
	f := follow(t, Options{Quiet: time.Hour})

	f.write(t, strings.Join(lines[:847], ""))
	for range 6 {
		assert.Assert(t, !within(t, f.reports, "a report").Fatal)
	}
	select {
	case <-f.Fatal():
		t.Fatal("fatal before the report is complete")
	default:
	}
	f.write(t, lines[847]) // ---[ end trace
	within(t, f.Fatal(), "fatal")
	r := within(t, f.reports, "the fatal report")
	assert.Equal(t, r.Title, "BUG: unable to handle kernel NULL pointer dereference in simple_recursive_removal")
	assert.Equal(t, r.EndLine, 848)
	assert.Equal(t, len(f.Reports()), 1)
	assert.Equal(t, len(f.Reports()[0].Followers), 6)
}

// Without an end mark, or when it never comes, quiet decides.
func TestFollowFatalWhenQuiet(t *testing.T) {
	f := follow(t, Options{Quiet: 20 * time.Millisecond})
	f.write(t, "[    1.000000] BUG: kernel NULL pointer dereference, address: 0000000000000098\n"+
		"[    1.000001] RIP: 0010:kvm_put_kvm+0x1/0x2 [kvm]\n[    1.000002] Cod")
	within(t, f.Fatal(), "fatal")
	assert.Equal(t, within(t, f.reports, "report").Title, "BUG: unable to handle kernel NULL pointer dereference in kvm_put_kvm")

	// A report that is not fatal becomes complete in the same way and ends nothing.
	g := follow(t, Options{Quiet: 20 * time.Millisecond})
	g.write(t, "[    1.000000] INFO: task rmmod:91 blocked for more than 20 seconds.\n")
	assert.Equal(t, within(t, g.reports, "report").Class, record.ClassHung)
	select {
	case <-g.Fatal():
		t.Fatal("a hung task ended the guest")
	default:
	}
}

func TestFollowLinesAndState(t *testing.T) {
	f := follow(t, Options{})
	started := f.State().LastByte
	f.write(t, "[    1.000000] one\r\n")
	assert.Equal(t, within(t, f.lines, "line"), "one")
	f.write(t, "\r\n[    1.000001] t\x1b[2Jwo\r\n[    1.1")
	assert.Equal(t, within(t, f.lines, "line"), `t\x1b[2Jwo`)
	f.write(t, "00000] three")
	assert.NilError(t, f.Close())
	s := f.State()
	assert.Equal(t, s.LastLine, "three")
	assert.Equal(t, within(t, f.lines, "line"), "three")
	assert.Assert(t, s.LastByte.After(started))
	info, err := os.Stat(f.path)
	assert.NilError(t, err)
	assert.Equal(t, s.Bytes, info.Size())
}

func TestFollowIsBounded(t *testing.T) {
	f := follow(t, Options{Limit: 100_000})
	line := strings.Repeat("x", 10_000)
	for i := range 20 {
		f.write(t, fmt.Sprintf("[    1.%06d] %s\n", i, line))
	}
	within(t, f.Full(), "full")
	assert.NilError(t, f.Close())
	assert.Assert(t, f.State().Bytes < 100_000+(64<<10)+1)
	assert.Assert(t, cap(f.partial) <= 2*maxText)
	for range len(f.lines) {
		assert.Assert(t, len(<-f.lines) <= 240)
	}
}

func TestFollowCloseTwiceAndUnusedFile(t *testing.T) {
	f := follow(t, Options{})
	assert.NilError(t, f.Close())
	assert.NilError(t, f.Close())
	_, err := Follow(filepath.Join(t.TempDir(), "no", "such", "console.log"), Options{})
	assert.ErrorContains(t, err, "follow console: open ")
}
