package lab

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/results/record"
)

// childEnds ends well, badly or never.
var childEnds = RegisterChild("test-ends", func(c *C) error {
	switch c.Args[0] {
	case "badly":
		return errors.New("told to")
	case "never":
		return c.Sleep()
	}
	return nil
})

func TestProvoke(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		t.Provoke(record.Expect{Title: "one"}, 10*time.Second, childEnds, "well")
		t.Step("the kernel goes on, which is for the host to judge")
		t.Provoke(record.Expect{Title: "two", Fatal: true}, 10*time.Second, childEnds, "well")
		t.Step("a child that never ends is no reason to wait for it when the kernel does not survive it")
		t.Provoke(record.Expect{Title: "three", Fatal: true}, time.Millisecond, childEnds, "never")
		t.Step("what could not be done is false")
		t.Provoke(record.Expect{Title: "four", Fatal: true}, 10*time.Second, childEnds, "badly")
		t.Step("never reached")
	}), nil)
	var titles []string
	for _, r := range list {
		if r.Expect != nil {
			titles = append(titles, r.Expect.Title)
		}
	}
	assert.DeepEqual(t, titles, []string{"one", "two", "three", "four"})
	got := own(list)
	assert.Equal(t, len(got), 4, "%v", got)
	assert.Assert(t, strings.HasPrefix(got[3], "FALSE no error: child test-ends: exit status 1, signal -1: told to"), got[3])
	assert.DeepEqual(t, falseInvariants(list), []string(nil))
}

// Any other child must end.
func TestProvokeWaits(t *testing.T) {
	list := host(t, guestRoot(t).Path(), scenario(func(t *T) {
		t.Provoke(record.Expect{Title: "one"}, time.Millisecond, childEnds, "never")
		t.Step("never reached")
	}), nil)
	assert.DeepEqual(t, own(list), []string{"FALSE no error: child test-ends: no end within 1ms"})
}

func TestSysctl(t *testing.T) {
	root := guestRoot(t)
	fs.Apply(t, root, fs.WithDir("proc", fs.WithDir("sys", fs.WithDir("kernel", fs.WithFile("watchdog_thresh", "10\n")))))
	read := func() string {
		text, err := os.ReadFile(root.Join("proc/sys/kernel/watchdog_thresh"))
		assert.NilError(t, err)
		return string(text)
	}
	host(t, root.Path(), scenario(func(t *T) {
		t.Sysctl("kernel/watchdog_thresh", "2")
		t.Check(read() == "2", "set")
	}), nil)
	assert.Equal(t, read(), "10\n", "put back")
}
