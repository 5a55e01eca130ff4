package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/fs"
	"gotest.tools/v3/poll"

	"github.com/nestbed/nestbed/images/control"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// portPair gives a port and the host's end of it. Unlike a real one it cannot be connected again.
func portPair(t *testing.T) (*port, *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	assert.NilError(t, err)
	p, err := newPort(os.NewFile(uintptr(fds[0]), "port"))
	assert.NilError(t, err)
	host := os.NewFile(uintptr(fds[1]), "host")
	t.Cleanup(func() { p.f.Close(); host.Close() })
	assert.NilError(t, host.SetDeadline(time.Now().Add(20*time.Second)))
	return p, host
}

func write(t *testing.T, f *os.File, s string) {
	t.Helper()
	_, err := f.WriteString(s)
	assert.NilError(t, err)
}

func read(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	buf := make([]byte, n)
	_, err := io.ReadFull(r, buf)
	assert.NilError(t, err)
	return string(buf)
}

func TestFindPort(t *testing.T) {
	dir := fs.NewDir(t, "class", fs.WithDir("vport0p1", fs.WithFile("name", "nestbed.control\n")),
		fs.WithDir("vport0p2", fs.WithFile("name", "nestbed.ssh\n")), fs.WithDir("vport0p3"))
	assert.Equal(t, findPort(dir.Path(), "nestbed.ssh"), "vport0p2")
	assert.Equal(t, findPort(dir.Path(), "nestbed"), "")
	assert.Equal(t, findPort(filepath.Join(dir.Path(), "none"), "nestbed.ssh"), "")
}

// Two clients, the second of which comes before the first one's end was seen.
func TestClientsFollowEachOther(t *testing.T) {
	p, host := portPair(t)
	write(t, host, "SSH-2.0-one\r\n")
	one, err := p.next()
	assert.NilError(t, err)
	assert.Equal(t, read(t, one, 3), "SSH") // as x/crypto does: in small bits first
	assert.Equal(t, read(t, one, 10), "-2.0-one\r\n")
	write(t, host, "secret")
	assert.Equal(t, read(t, one, 6), "secret")
	write(t, host, "SSH-2.0-two\r\nmore")
	_, err = one.Read(make([]byte, 4096))
	assert.Equal(t, err, io.EOF)
	_, err = one.Read(make([]byte, 4096)) // it stays so
	assert.Equal(t, err, io.EOF)
	assert.Check(t, one.ended())
	assert.NilError(t, one.detach())

	two, err := p.next()
	assert.NilError(t, err)
	assert.Equal(t, read(t, two, 17), "SSH-2.0-two\r\nmore")
	_, err = two.Write([]byte("answer"))
	assert.NilError(t, err)
	assert.Equal(t, read(t, host, 6), "answer")
	assert.NilError(t, host.Close())
	_, err = two.Read(make([]byte, 10))
	assert.Equal(t, err, io.EOF)
}

// A client that gave up before it was served: only the one that is there now must be answered.
func TestNextServesTheLatest(t *testing.T) {
	p, host := portPair(t)
	p.early = []byte("SSH-2.0-gone\r\n")
	write(t, host, "SSH-2.0-here\r\n")
	c, err := p.next()
	assert.NilError(t, err)
	assert.Equal(t, read(t, c, 14), "SSH-2.0-here\r\n")
}

func TestWriteToAClientThatHasGone(t *testing.T) {
	p, host := portPair(t)
	write(t, host, "SSH-2.0-x\r\n")
	c, err := p.next()
	assert.NilError(t, err)
	failed := make(chan error, 1)
	go func() { _, err := c.Write(make([]byte, 64<<20)); failed <- err }()
	read(t, host, 1) // the Write is under way, and waits
	assert.NilError(t, host.Close())
	assert.ErrorIs(t, <-failed, io.ErrClosedPipe)
}

// What an earlier client left is not the next one's.
func TestNextDropsLeftovers(t *testing.T) {
	p, host := portPair(t)
	write(t, host, "the end of an old connection")
	got := make(chan *portConn, 1)
	go func() {
		c, err := p.next()
		if err == nil {
			got <- c
		}
	}()
	poll.WaitOn(t, func(poll.LogT) poll.Result { // else the two would be one read, which they are not on a port
		return poll.Compare(cmp.Equal(unread(t, p), 0))
	}, poll.WithDelay(time.Millisecond))
	write(t, host, "SSH-2.0-new\r\n")
	assert.Equal(t, read(t, <-got, 13), "SSH-2.0-new\r\n")
}

func unread(t *testing.T, p *port) int {
	t.Helper()
	var n int
	err := p.rc.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	assert.NilError(t, err)
	return n
}

func TestCloseEndsReadsAndWrites(t *testing.T) {
	p, host := portPair(t)
	write(t, host, "SSH-2.0-x\r\n")
	c, err := p.next()
	assert.NilError(t, err)
	read(t, c, 11)
	ended := make(chan error, 2)
	go func() { _, err := c.Read(make([]byte, 10)); ended <- err }()
	go func() { _, err := c.Write(make([]byte, 64<<20)); ended <- err }() // the host does not read
	read(t, host, 1)                                                      // the Write is under way
	assert.NilError(t, c.Close())
	for range 2 {
		assert.Check(t, <-ended != nil)
	}
	_, err = c.Write([]byte("x"))
	assert.ErrorContains(t, err, "closed")
	assert.NilError(t, c.detach())

	assert.NilError(t, host.SetReadDeadline(time.Unix(1, 0)))
	_, _ = io.Copy(io.Discard, host)
	write(t, host, "SSH-2.0-y\r\n") // the port is as it was
	c, err = p.next()
	assert.NilError(t, err)
	assert.Equal(t, read(t, c, 11), "SSH-2.0-y\r\n")
}

func TestReadyAndWelcome(t *testing.T) {
	p, host := portPair(t)
	line, err := newControlLine(p)
	assert.NilError(t, err)
	assert.NilError(t, line.ready())
	lines := bufio.NewReader(host)
	said, err := lines.ReadBytes('\n')
	assert.NilError(t, err)
	var ready control.Ready
	assert.NilError(t, json.Unmarshal(said, &ready))
	assert.Equal(t, ready.Version, control.Version)
	assert.Check(t, ready.Kernel != "" && ready.Uptime > 0)
	write(t, host, `{"welcome":{"version":2,"time":7}}`+"\n")
	welcome, err := line.await()
	assert.NilError(t, err)
	assert.Equal(t, welcome.Time, int64(7))
}

// What a guest is to have before it is saved comes before the welcome; what goes wrong with it is said, and the
// words behind it are still understood.
func TestPrepare(t *testing.T) {
	p, host := portPair(t)
	line, err := newControlLine(p)
	assert.NilError(t, err)
	dir := t.TempDir()
	script := "#!/bin/sh\ncat \"$0.data\" >" + dir + "/made\n"
	prepare := func(name string, command ...string) {
		w, err := json.Marshal(control.Word{Prepare: &control.Prepare{
			Files: []control.File{
				{Name: name, Mode: 0o755, Size: int64(len(script))},
				{Name: name + ".data", Mode: 0o644, Size: 5},
			},
			Command: command,
		}})
		assert.NilError(t, err)
		write(t, host, string(w)+"\n"+script+"data\n")
	}
	prepare(dir+"/script", dir+"/script")
	prepare("/nowhere/script", "/nowhere/script")
	prepare(dir+"/script", "/bin/sh", "-c", "echo is broken; exit 3")
	prepare(dir + "/script")
	write(t, host, `{"welcome":{"version":2,"time":7}}`+"\n")
	welcome, err := line.await()
	assert.NilError(t, err)
	assert.Equal(t, welcome.Time, int64(7))
	made, err := os.ReadFile(dir + "/made")
	assert.NilError(t, err)
	assert.Equal(t, string(made), "data\n")
	answers := json.NewDecoder(host)
	for _, want := range []string{"", "open /nowhere/script: no such file or directory", "/bin/sh -c echo is broken; exit 3: exit status 3: is broken", ""} {
		var n control.Notice
		assert.NilError(t, answers.Decode(&n))
		assert.Check(t, n.Prepared)
		assert.Equal(t, n.Problem, want)
	}
}

func TestWelcomeRefuses(t *testing.T) {
	for said, want := range map[string]string{
		`{"welcome":{"version":9}}` + "\n": "the host speaks version 9, this guest 2",
		`{"version":2}` + "\n":             "nothing that this guest knows",
		"no\n":                             "invalid character",
		"":                                 "the host hung up before it said welcome",
	} {
		p, host := portPair(t)
		line, err := newControlLine(p)
		assert.NilError(t, err)
		write(t, host, said)
		assert.NilError(t, unix.Shutdown(int(host.Fd()), unix.SHUT_WR))
		_, err = line.await()
		assert.ErrorContains(t, err, want)
	}
}

func TestPoolInfo(t *testing.T) {
	p := newPoolInfo(make([]byte, 64))
	assert.Equal(t, p.bits, int32(512))
	assert.Equal(t, p.size, int32(64))
	p = newPoolInfo([]byte("short"))
	assert.Equal(t, p.bits, int32(40))
	assert.Equal(t, string(p.data[:5]), "short")
}
