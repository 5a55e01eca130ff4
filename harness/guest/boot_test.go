package guest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/images/control"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results/record"
)

// booted is a real guest.
type booted struct {
	*guest.Guest
	qemu *qemu.Process
	dir  string
}

func (b *booted) file(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	assert.NilError(t, err)
	return string(data)
}

// eventually waits for a word in one of the guest's logs.
func (b *booted) eventually(t *testing.T, name, want string) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if strings.Contains(b.file(t, name), want) {
			return poll.Success()
		}
		return poll.Continue("no %q in %s", want, name)
	}, poll.WithDelay(20*time.Millisecond), poll.WithTimeout(30*time.Second))
}

func boot(t *testing.T, spec string) *booted {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a distribution kernel in QEMU")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute) // the first time a kernel is fetched
	t.Cleanup(cancel)
	caches, err := os.UserCacheDir()
	assert.NilError(t, err)
	cache, err := kernels.Open(filepath.Join(caches, "nestbed", "v1", "kernels"))
	assert.NilError(t, err)
	kernel, err := cache.Resolve(ctx, spec, func(s string) { t.Log(s) })
	assert.NilError(t, err)

	b := &booted{dir: t.TempDir()}
	program := filepath.Join(t.TempDir(), "init")
	assert.NilError(t, images.BuildProgram(ctx, "../..", "./images/init", program))
	image := images.Spec{}
	image.Init, err = os.ReadFile(program)
	assert.NilError(t, err)
	var names []string
	for _, name := range []string{"virtio_pci", "virtio_console"} {
		if kernel.Has(name) == kernels.AsModule {
			names = append(names, name)
		}
	}
	order, err := kernel.LoadOrder(names...)
	assert.NilError(t, err)
	for _, m := range order {
		image.Modules = append(image.Modules, images.Module{Name: m.Name, Deps: m.Deps, Path: m.File})
		image.Boot = append(image.Boot, m.Name)
	}
	var initrd bytes.Buffer
	assert.NilError(t, images.Build(&initrd, image))
	m, err := machine.Named("intel")
	assert.NilError(t, err)
	m.Kernel, m.Initrd = kernel.Vmlinuz(), filepath.Join(b.dir, "initrd")
	m.Channels = []string{control.PortControl, control.PortSSH, control.PortShell}
	assert.NilError(t, os.WriteFile(m.Initrd, initrd.Bytes(), 0o600))

	b.qemu, err = qemu.Start(ctx, qemu.Config{Machine: m, Dir: b.dir})
	assert.NilError(t, err)
	t.Cleanup(func() {
		assert.NilError(t, b.qemu.Close())
		if t.Failed() {
			console := b.file(t, machine.ConsoleLog)
			t.Logf("end of the console:\n%s", console[max(0, len(console)-4000):])
		}
	})
	deadline, stop := context.WithTimeout(ctx, 3*time.Minute)
	defer stop()
	b.Guest, err = guest.Connect(deadline, guest.Conns{Control: b.qemu.Conn(control.PortControl), SSH: b.qemu.Conn(control.PortSSH)})
	assert.NilError(t, err)
	t.Cleanup(func() { assert.NilError(t, b.Guest.Close()) })
	assert.DeepEqual(t, b.Problems(), []string(nil))
	return b
}

func (b *booted) output(t *testing.T, command string) string {
	t.Helper()
	out, err := b.Output(t.Context(), command)
	assert.NilError(t, err)
	return out
}

// A kernel with its virtio drivers built in.
func TestBootBuiltIn(t *testing.T) {
	b := boot(t, "debian:6.12")
	assert.Check(t, is.Contains(b.output(t, "uname"), b.Kernel()))

	// The clock is ours.
	var boottime, uptime float64
	_, line, _ := strings.Cut(b.output(t, "cat /proc/stat"), "btime ")
	_, err := fmt.Sscan(line, &boottime)
	assert.NilError(t, err)
	_, err = fmt.Sscan(b.output(t, "cat /proc/uptime"), &uptime)
	assert.NilError(t, err)
	off := boottime + uptime - float64(time.Now().Unix())
	assert.Check(t, math.Abs(off) < 5, "the guest's clock is off by %g s", off)

	// The kernel's log from its first record, and what comes now.
	b.eventually(t, machine.KmsgLog, "Linux version")
	b.output(t, "echo marker of the test > /dev/kmsg")
	b.eventually(t, machine.KmsgLog, "marker of the test\n")

	program := filepath.Join(t.TempDir(), "family")
	assert.NilError(t, images.BuildProgram(t.Context(), "../..", "./harness/guest/testdata/family", program))
	data, err := os.ReadFile(program)
	assert.NilError(t, err)
	begin := time.Now()
	assert.NilError(t, b.Push(t.Context(), "/bin/family", 0o755, data))
	t.Logf("pushed %d bytes in %v", len(data), time.Since(begin))

	status, err := b.Run(t.Context(), "family exit 42", nil, nil, nil)
	assert.NilError(t, err)
	assert.Equal(t, status, 42)
	_, err = b.Run(t.Context(), "family signal 9", nil, nil, nil)
	assert.ErrorContains(t, err, "killed by SIGKILL")

	start := func() *guest.Session {
		s, err := b.StartAgent(t.Context(), "family parent")
		assert.NilError(t, err)
		assert.Equal(t, (<-s.Records()).Kind, record.KindHello)
		assert.Equal(t, (<-s.Records()).Kind, record.KindStep)
		return s
	}
	// The agent's processes die when it is killed ...
	s := start()
	assert.Check(t, is.Contains(b.output(t, "ps"), "family child"))
	s.Kill()
	_, exit := collect(s)
	assert.Equal(t, exit, guest.Exit{Signal: "KILL"})
	assert.Check(t, !strings.Contains(b.output(t, "ps"), "family"))

	// ... and when its connection goes, which a second one can see.
	openSSH := openSSH(t, b)
	s = start()
	assert.Check(t, is.Contains(openSSH("ssh", "guest", "ps"), "family child"))
	assert.NilError(t, b.Guest.Close())
	_, exit = collect(s)
	assert.Equal(t, exit, guest.Exit{Lost: true})
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if ps := openSSH("ssh", "guest", "ps"); strings.Contains(ps, "family") {
			return poll.Continue("it still runs: %s", ps)
		}
		return poll.Success()
	}, poll.WithTimeout(30*time.Second))

	// OpenSSH's programs, one on the heels of the other.
	dir := t.TempDir()
	data = make([]byte, 300_000)
	rand.Read(data)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "a"), data, 0o640))
	openSSH("scp", "-O", filepath.Join(dir, "a"), "guest:/tmp/a")
	openSSH("scp", "-O", "guest:/tmp/a", filepath.Join(dir, "b"))
	back, err := os.ReadFile(filepath.Join(dir, "b"))
	assert.NilError(t, err)
	assert.Check(t, bytes.Equal(back, data))
	openSSH("scp", "-O", "guest:/proc/version", filepath.Join(dir, "version"))
	version, err := os.ReadFile(filepath.Join(dir, "version"))
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(version), b.Kernel()))

	openSSH("ssh", "guest", "poweroff")
	select {
	case <-b.qemu.Done():
	case <-time.After(time.Minute):
		t.Fatal("the guest is still on")
	}
	console := b.file(t, machine.ConsoleLog)
	assert.Check(t, is.Contains(console, "reboot: Power down"))
	assert.Check(t, !strings.Contains(console, "nestbed-init:"), "init complains:\n%s", console)
}

// A kernel with its virtio drivers as modules; and what happens when init's server dies.
func TestBootModules(t *testing.T) {
	b := boot(t, "debian:6.1")
	assert.Check(t, is.Contains(b.output(t, "cat /proc/modules"), "virtio_console "))

	var pid int
	for line := range strings.Lines(b.output(t, "ps")) {
		if strings.Contains(line, "nestbed-init serve") {
			_, err := fmt.Sscan(line, &pid)
			assert.NilError(t, err)
		}
	}
	s, err := b.StartAgent(t.Context(), fmt.Sprintf("kill -KILL %d", pid))
	assert.NilError(t, err)
	b.eventually(t, machine.ConsoleLog, "nestbed-init: the server was killed: killed")
	s.Kill() // nobody answers
	assert.Equal(t, s.Wait(), guest.Exit{Lost: true})
	// PID 1 is alive: the kernel does not panic for init's sake.
	select {
	case <-b.qemu.Panicked():
		t.Error("the kernel panics")
	case <-b.qemu.Done():
		t.Error("the guest is gone")
	case <-time.After(time.Second):
	}
	assert.Check(t, !strings.Contains(b.file(t, machine.ConsoleLog), "Kernel panic"))
}

// openSSH gives a way to run OpenSSH's programs against a guest, each over a connection to a unix socket.
func openSSH(t *testing.T, b *booted) func(program string, args ...string) string {
	t.Helper()
	socket := filepath.Join(b.dir, "shell.sock")
	listen(t, socket, b.qemu.Conn(control.PortShell))
	self, err := os.Executable()
	assert.NilError(t, err)
	dir := t.TempDir()
	assert.NilError(t, b.WriteSSHConfig(dir, self+" proxy "+socket))
	return func(program string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append([]string{"-q", "-F", filepath.Join(dir, "config")}, args...)...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		assert.NilError(t, err, "%s %q: %s", program, args, errs.String())
		return string(out)
	}
}

// listen gives port to one client of the socket after the other.
func listen(t *testing.T, socket string, port net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	assert.NilError(t, err)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			var back sync.WaitGroup
			back.Go(func() {
				_, _ = io.Copy(client, port)
				client.Close()
			})
			_, _ = io.Copy(port, client)
			_ = port.SetReadDeadline(time.Unix(1, 0)) // the client has gone
			back.Wait()
			_ = port.SetReadDeadline(time.Time{})
		}
	})
	t.Cleanup(func() {
		l.Close()
		port.Close()
		tasks.Wait()
	})
}
