package lab

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// RefCounter reads the reference counts of a few modules, often: its files stay open, so that one look costs a
// system call for each module. Module.Held says the same once.
type RefCounter struct {
	t     *T
	names []string
	files []*uapi.Desc
}

// RefCounter opens the modules' counts until the scenario's end. To hold them open pins no module.
func (t *T) RefCounter(modules ...*Module) *RefCounter {
	c := &RefCounter{t: t}
	for _, m := range modules {
		m.Refs() // skips when there is none
		path := filepath.Join(t.env.Root, "/sys/module", m.name, "refcnt")
		fd, err := uapi.Open(path, unix.O_RDONLY)
		t.mustHost("reference count of "+m.name, err)
		file := uapi.Own(fd, path)
		t.atEnd("close the reference count of "+m.name, file.Close)
		c.names, c.files = append(c.names, m.name), append(c.files, &file)
	}
	return c
}

// Held is how many references are taken of each module beyond those of an idle guest with its devices bound.
func (c *RefCounter) Held() []int {
	held := make([]int, len(c.files))
	for i, f := range c.files {
		var text [16]byte
		n, err := unix.Pread(f.FD(), text[:], 0)
		c.t.mustHost("read "+f.Name(), err)
		count, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
		c.t.mustHost("read "+f.Name(), err)
		held[i] = count - c.t.idle.refs[c.names[i]]
	}
	return held
}

func (c *RefCounter) String() string {
	var b strings.Builder
	for i, n := range c.Held() {
		fmt.Fprintf(&b, "%s %d ", c.names[i], n)
	}
	return strings.TrimSpace(b.String())
}
