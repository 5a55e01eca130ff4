package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/images/layout"
	"github.com/nestbed/nestbed/images/sshd"
)

// problems collects what went wrong without ending init; the host is told once it listens.
type problems struct {
	mu   sync.Mutex
	list []string
}

func (p *problems) add(err error) {
	if err == nil {
		return
	}
	say("%v", err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, err.Error())
}

func (p *problems) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.list
	p.list = nil
	return list
}

// environment is what the guest's programs have.
var environment = []string{"PATH=" + layout.Path, "HOME=/root"}

// serve is the whole life of a guest. It returns only an error, when it cannot go on.
func serve() error {
	var trouble problems
	// The guest's memory belongs to the kernel under test; the way to talk to it goes last.
	mountFirst(&trouble)
	trouble.add(os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0o644))
	if err := loadBootModules(); err != nil {
		return err // no modules, no ports
	}
	go func() {
		if err := streamKmsg(); !ending.Load() {
			trouble.add(err)
		}
	}()

	port, err := openPort(control.PortControl)
	if err != nil {
		return err
	}
	lines, err := newControlLine(port)
	if err != nil {
		return fmt.Errorf("control port: %w", err)
	}
	if err := lines.ready(); err != nil {
		return err
	}
	mountRest(&trouble) // while the host thinks about its answer
	welcome, err := lines.await()
	if err != nil {
		return err
	}
	trouble.add(setClock(welcome.Time))
	trouble.add(seedRandom(welcome.Seed))
	server, err := sshd.New(sshd.Config{
		HostKey: welcome.HostKey, ClientKey: welcome.ClientKey, Power: power,
		Env: environment,
	})
	if err != nil {
		return err
	}
	for _, p := range trouble.take() {
		if err := lines.say(control.Notice{Problem: p}); err != nil {
			return err
		}
	}
	ssh, err := openPort(control.PortSSH)
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- servePort(ssh, control.PortSSH, server) }()
	go func() {
		shell, err := openPort(control.PortShell) // may be missing; the harness's own may not
		if err == nil {
			err = servePort(shell, control.PortShell, server)
		}
		failed <- err
	}()
	if err := lines.say(control.Notice{Serving: true}); err != nil {
		return err
	}
	return <-failed
}

// servePort serves one client of a port after the other.
func servePort(port *port, name string, server *sshd.Server) error {
	for {
		conn, err := port.next()
		if err == nil {
			if err := server.Serve(conn); err != nil && !conn.ended() { // a client that just goes is no problem of ours
				say("port %s: %v", name, err)
			}
			err = conn.detach()
		}
		if err != nil {
			return fmt.Errorf("port %s: %w", name, err)
		}
	}
}

// controlLine speaks package control's protocol on a port.
type controlLine struct {
	port *port
	r    *bufio.Reader
}

func newControlLine(p *port) (*controlLine, error) {
	if err := p.await(); err != nil {
		return nil, err
	}
	return &controlLine{port: p, r: bufio.NewReaderSize(p.f, control.MaxLine)}, nil
}

func (c *controlLine) write(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := c.port.f.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("control port: write: %w", err)
	}
	return nil
}

func (c *controlLine) say(n control.Notice) error {
	n.Problem = n.Problem[:min(len(n.Problem), 2<<10)]
	return c.write(n)
}

func (c *controlLine) ready() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("clock_gettime: %w", err)
	}
	return c.write(control.Ready{
		Version: control.Version, Kernel: unix.ByteSliceToString(u.Release[:]), Uptime: time.Duration(now.Nano()).Seconds(),
	})
}

// await does what the host wants to have prepared until it says welcome.
func (c *controlLine) await() (control.Welcome, error) {
	for {
		w, err := c.word()
		switch {
		case err != nil:
			return control.Welcome{}, err
		case w.Welcome != nil:
			return *w.Welcome, nil
		case w.Prepare == nil:
			return control.Welcome{}, errors.New("control port: the host said nothing that this guest knows")
		}
		n := control.Notice{Prepared: true}
		if err := c.prepare(*w.Prepare); err != nil {
			n.Problem = err.Error()
		}
		if err := c.say(n); err != nil {
			return control.Welcome{}, err
		}
	}
}

func (c *controlLine) word() (control.Word, error) {
	var w control.Word
	line, err := c.r.ReadSlice('\n')
	if err == io.EOF {
		err = errors.New("the host hung up before it said welcome")
	}
	if err == nil {
		err = json.Unmarshal(line, &w)
	}
	if err == nil && w.Welcome != nil && w.Welcome.Version != control.Version {
		err = fmt.Errorf("the host speaks version %d, this guest %d", w.Welcome.Version, control.Version)
	}
	if err != nil {
		return w, fmt.Errorf("control port: %w", err)
	}
	return w, nil
}

// prepare takes the files in and runs the command. All files are read in any case: the next word is behind them.
func (c *controlLine) prepare(p control.Prepare) error {
	var failed error
	for _, f := range p.Files {
		if err := c.receive(f); err != nil && failed == nil {
			failed = err
		}
	}
	if failed != nil || len(p.Command) == 0 {
		return failed
	}
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.Env = environment
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(p.Command, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (c *controlLine) receive(f control.File) error {
	body := io.LimitReader(c.r, f.Size)
	out, err := os.OpenFile(f.Name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, os.FileMode(f.Mode).Perm())
	if err == nil {
		_, err = io.Copy(out, body)
		err = errors.Join(err, out.Close())
	}
	_, rest := io.Copy(io.Discard, body)
	return errors.Join(err, rest)
}

// loadBootModules loads what layout.BootList names, in its order.
func loadBootModules() error {
	data, err := os.ReadFile(layout.BootList)
	if err != nil {
		return err
	}
	var names []string
	if err := json.Unmarshal(data, &names); err != nil {
		return fmt.Errorf("%s: %w", layout.BootList, err)
	}
	for _, name := range names {
		if err := loadModule(name); err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
	}
	return nil
}

func loadModule(name string) error {
	f, err := os.Open(layout.ModuleFile(name))
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) { // built in, or loaded by the kernel itself
		return nil
	}
	return err
}

func setClock(nanoseconds int64) error {
	ts := unix.NsecToTimespec(nanoseconds)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

// poolInfo is the kernel's struct rand_pool_info.
type poolInfo struct {
	bits, size int32
	data       [64]byte
}

func newPoolInfo(seed []byte) poolInfo {
	var p poolInfo
	n := copy(p.data[:], seed)
	p.bits, p.size = int32(n*8), int32(n)
	return p
}

// seedRandom credits the host's bytes and makes the kernel use them at once. A restored guest would
// otherwise give the bytes that its twin gives, where the kernel does not know of vmgenid (5.10).
func seedRandom(seed []byte) error {
	const (
		rndAddEntropy = 0x40085203 // RNDADDENTROPY, _IOW('R', 3, int[2])
		rndReseedCRNG = 0x5207     // RNDRESEEDCRNG, _IO('R', 7)
	)
	pool := newPoolInfo(seed)
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndAddEntropy, uintptr(unsafe.Pointer(&pool))); errno != 0 {
		return fmt.Errorf("seed: RNDADDENTROPY: %w", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), rndReseedCRNG, 0); errno != 0 {
		return fmt.Errorf("seed: RNDRESEEDCRNG: %w", errno)
	}
	return nil
}

// power ends the guest. It returns only an error.
func power(reboot bool) error {
	cmd := unix.LINUX_REBOOT_CMD_POWER_OFF
	if reboot {
		cmd = unix.LINUX_REBOOT_CMD_RESTART
	}
	unix.Sync()
	ending.Store(true)
	if err := unix.Reboot(cmd); err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	return nil
}

// ending says that the power goes: a port that fails then is no trouble.
var ending atomic.Bool

// streamKmsg copies the kernel's records to the host, from the first one on, until one of the two fails.
func streamKmsg() error {
	port, err := openPort(control.PortKmsg)
	if err != nil {
		return err
	}
	kmsg, err := os.Open("/dev/kmsg")
	if err != nil {
		return err
	}
	defer kmsg.Close()
	if err := port.await(); err != nil {
		return err
	}
	buf := make([]byte, 16<<10) // above CONSOLE_EXT_LOG_MAX: a shorter read is EINVAL
	for {
		n, err := kmsg.Read(buf)
		switch {
		case errors.Is(err, syscall.EPIPE): // records were overwritten before they were read; the next read goes on
			continue
		case err != nil:
			return fmt.Errorf("read /dev/kmsg: %w", err)
		}
		if _, err := port.f.Write(buf[:n]); err != nil {
			return fmt.Errorf("port %s: %w", control.PortKmsg, err)
		}
	}
}

// mount is one file system of the guest's root.
type mount struct {
	kind, at, options string
	mkdir             bool
}

func (m mount) do() error {
	if m.mkdir {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
	}
	err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID, m.options)
	// Mounted already (a kernel may do that with devtmpfs), or not in this kernel.
	if err == nil || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("mount %s: %w", m.at, err)
}

// mountFirst mounts what the way to the host needs.
func mountFirst(p *problems) {
	for _, m := range []mount{{kind: "proc", at: "/proc"}, {kind: "sysfs", at: "/sys"}, {kind: "devtmpfs", at: "/dev"}} {
		p.add(m.do())
	}
}

// mountRest mounts what the agent and a person want to see.
func mountRest(p *problems) {
	for _, m := range []mount{
		{kind: "devpts", at: "/dev/pts", options: "ptmxmode=0666", mkdir: true},
		{kind: "tmpfs", at: "/dev/shm", mkdir: true},
		{kind: "tmpfs", at: "/run"},
		{kind: "tmpfs", at: "/tmp"},
		{kind: "debugfs", at: "/sys/kernel/debug"},
		{kind: "tracefs", at: "/sys/kernel/tracing"},
		{kind: "cgroup2", at: "/sys/fs/cgroup"},
		{kind: "hugetlbfs", at: "/dev/hugepages", mkdir: true},
	} {
		p.add(m.ifPossible())
	}
}

// ifPossible leaves out a file system whose mount point the kernel does not have, because it lacks the feature.
func (m mount) ifPossible() error {
	if _, err := os.Stat(m.at); !m.mkdir && errors.Is(err, os.ErrNotExist) && strings.HasPrefix(m.at, "/sys/") {
		return nil
	}
	return m.do()
}
