package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const portClass = "/sys/class/virtio-ports"

// findPort gives the device of a virtio-serial port, "" while there is none.
func findPort(class, name string) string {
	names, _ := filepath.Glob(filepath.Join(class, "*", "name"))
	for _, file := range names {
		if data, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(data)) == name {
			return filepath.Base(filepath.Dir(file))
		}
	}
	return ""
}

// openPort waits until the kernel has the port and opens it.
func openPort(name string) (*port, error) {
	late := time.AfterFunc(30*time.Second, func() { say("still waiting for virtio-serial port %s", name) })
	defer late.Stop()
	dev := findPort(portClass, name)
	if dev == "" {
		events, err := listenUevents()
		if err != nil {
			return nil, err
		}
		defer events.Close()
		// A port's uevent comes once it has its name. Looked again first: it may have come before we listened.
		for dev = findPort(portClass, name); dev == ""; dev = findPort(portClass, name) {
			if _, err := events.Read(make([]byte, 8<<10)); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return nil, fmt.Errorf("read uevents: %w", err)
			}
		}
	}
	f, err := os.OpenFile("/dev/"+dev, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return newPort(f)
}

// listenUevents opens a socket on which the kernel announces devices.
func listenUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket: bind: %w", err)
	}
	return os.NewFile(uintptr(fd), "uevents"), nil
}

// port is a virtio-serial port. The kernel lets it be opened once, so one file serves all its clients.
type port struct {
	f     *os.File
	rc    syscall.RawConn
	early []byte // the next client's first bytes; used by one Read at a time, then by next
}

func newPort(f *os.File) (*port, error) {
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &port{f: f, rc: rc}, nil
}

// await waits until somebody is at the port's other end: before that, reads give end of file.
func (p *port) await() error {
	err := p.rc.Write(func(fd uintptr) bool { // of the two directions, this one becomes ready when a client comes
		return !hungUp(fd)
	})
	if err != nil {
		return fmt.Errorf("wait for a client: %w", err)
	}
	return nil
}

// hungUp reports whether nobody is at the port's other end.
func hungUp(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	_, err := unix.Poll(fds, 0)
	return err != nil || fds[0].Revents&unix.POLLHUP != 0
}

// next waits for a client and gives its connection. What an earlier one left behind is dropped.
func (p *port) next() (*portConn, error) {
	buf := make([]byte, 4<<10)
	if err := p.refresh(buf); err != nil {
		return nil, err
	}
	for len(p.early) == 0 {
		if err := p.await(); err != nil {
			return nil, err
		}
		n, err := p.f.Read(buf)
		if err != nil && err != io.EOF {
			return nil, err
		}
		if beginsSSH(buf[:n]) {
			p.early = append([]byte(nil), buf[:n]...)
		}
		if err := p.refresh(buf); err != nil {
			return nil, err
		}
	}
	return &portConn{port: p}, nil
}

// refresh brings early up to date: its client may have gone, and another one come. A client says no more
// than its first line before it is answered.
func (p *port) refresh(buf []byte) error {
	for len(p.early) > 0 {
		var n int
		var got error
		if err := p.rc.Read(func(fd uintptr) bool {
			n, got = unix.Read(int(fd), buf)
			return true
		}); err != nil {
			return err
		}
		switch {
		case got == unix.EAGAIN:
			return nil
		case got == unix.EINTR:
		case got != nil:
			return got
		case n == 0:
			p.early = nil
		case beginsSSH(buf[:n]):
			p.early = append([]byte(nil), buf[:n]...)
		default:
			p.early = append(p.early, buf[:n]...)
			return nil
		}
	}
	return nil
}

// beginsSSH reports whether a read's bytes are the first ones of a client.
//
// The end of a client is an end of file, but the kernel keeps no queue of these: when the next client
// comes before the first one's end was read (ssh and then scp in a script), only the bytes tell. QEMU and
// virtio keep the bytes of two clients in different buffers, so a client's first ones begin a read. Inside
// a connection these eight would be a one in 2^64 accident of its ciphertext.
func beginsSSH(b []byte) bool { return bytes.HasPrefix(b, []byte("SSH-2.0-")) }

// portConn is one client's stay at a port: a net.Conn that can be closed while the port remains.
type portConn struct {
	port *port

	mu      sync.Mutex
	using   sync.WaitGroup // Reads and Writes in progress
	closed  bool
	started bool // the client's first bytes have been read
	eof     bool // the client has gone
}

// begin admits a Read or Write, unless the connection is closed.
func (c *portConn) begin() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.using.Add(1)
	return nil
}

func (c *portConn) Read(p []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	defer c.using.Done()
	c.mu.Lock()
	early := !c.started
	gone := c.eof
	c.mu.Unlock()
	if gone {
		return 0, io.EOF
	}
	if early {
		n := copy(p, c.port.early)
		if c.port.early = c.port.early[n:]; len(c.port.early) == 0 {
			c.mu.Lock()
			c.started = true
			c.mu.Unlock()
		}
		return n, nil
	}
	n, err := c.port.f.Read(p)
	if beginsSSH(p[:n]) {
		c.port.early = append([]byte(nil), p[:n]...)
		n, err = 0, io.EOF
	}
	if err == io.EOF {
		c.mu.Lock()
		c.eof = true
		c.mu.Unlock()
	}
	return n, err
}

// Write fails once the client has gone. A plain write would wait for the next client and hand it what was
// meant for this one.
func (c *portConn) Write(p []byte) (int, error) {
	if err := c.begin(); err != nil {
		return 0, err
	}
	defer c.using.Done()
	done := 0
	var failed error
	err := c.port.rc.Write(func(fd uintptr) bool {
		for done < len(p) {
			if hungUp(fd) {
				failed = io.ErrClosedPipe
				return true
			}
			n, err := unix.Write(int(fd), p[done:])
			switch {
			case err == unix.EAGAIN:
				return false
			case err == unix.EINTR:
			case err != nil:
				failed = err
				return true
			default:
				done += n
			}
		}
		return true
	})
	return done, errors.Join(err, failed)
}

// Close ends the stay: Reads and Writes in progress return.
func (c *portConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	return c.port.f.SetDeadline(time.Unix(1, 0))
}

// detach closes and makes the port usable for the next client.
func (c *portConn) detach() error {
	if err := c.Close(); err != nil {
		return err
	}
	c.using.Wait()
	return c.port.f.SetDeadline(time.Time{})
}

// ended reports whether the client has gone.
func (c *portConn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.eof
}

// portAddr stands where net.Conn wants an address.
type portAddr struct{}

func (portAddr) Network() string { return "virtio" }
func (portAddr) String() string  { return "virtio-serial" }

func (c *portConn) LocalAddr() net.Addr                { return portAddr{} }
func (c *portConn) RemoteAddr() net.Addr               { return portAddr{} }
func (c *portConn) SetDeadline(t time.Time) error      { return c.port.f.SetDeadline(t) }
func (c *portConn) SetReadDeadline(t time.Time) error  { return c.port.f.SetReadDeadline(t) }
func (c *portConn) SetWriteDeadline(t time.Time) error { return c.port.f.SetWriteDeadline(t) }
