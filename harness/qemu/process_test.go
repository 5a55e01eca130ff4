package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp/raw"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/qmp"
)

// Every machine starts, boots a kernel, takes each device behind a root port, and ends when asked.
func TestMachines(t *testing.T) {
	for _, name := range machine.Names() {
		t.Run(name, func(t *testing.T) {
			m := small(t, name, halt)
			m.Channels = []string{"nestbed.control", "nestbed.ssh"}
			p, dir := start(t, m)
			awaitText(t, filepath.Join(dir, machine.ConsoleLog), line)

			for i, name := range []string{"edu", "nvme", "e1000e", "virtio-net-pci"} {
				dev, err := machine.DeviceNamed(name)
				assert.NilError(t, err)
				assert.NilError(t, p.Plug(soon(t), dev, fmt.Sprint("dev", i+1), i+1))
			}
			var buses []struct {
				Devices []struct {
					ID     string `json:"qdev_id"`
					Bridge struct {
						Devices []struct {
							ID string `json:"qdev_id"`
						} `json:"devices"`
					} `json:"pci_bridge"`
				} `json:"devices"`
			}
			assert.NilError(t, p.QMP().Do(soon(t), "query-pci", nil, &buses))
			behind := map[string]string{}
			for _, d := range buses[0].Devices {
				for _, b := range d.Bridge.Devices {
					behind[d.ID] = b.ID
				}
			}
			assert.DeepEqual(t, behind, map[string]string{"port1": "dev1", "port2": "dev2", "port3": "dev3", "port4": "dev4"})

			status, err := raw.NewMonitor(p.QMP()).QueryStatus()
			assert.NilError(t, err)
			assert.Equal(t, status.Status, raw.RunStateRunning)
			assert.Equal(t, p.ExitState().String(), "running")
			faults, err := Faults(dir)
			assert.NilError(t, err)
			assert.Equal(t, faults, 0)

			assert.NilError(t, p.Close())
			assert.NilError(t, p.Wait())
			assert.DeepEqual(t, p.ExitState(), ExitState{Ended: true, Shutdown: "host-qmp-quit"})
			assert.NilError(t, p.Close())
			args, err := os.ReadFile(filepath.Join(dir, ArgsFile))
			assert.NilError(t, err)
			words := strings.Split(strings.TrimSpace(string(args)), "\n")
			assert.DeepEqual(t, words[1:], m.Args())
			assert.Equal(t, filepath.Base(words[0]), DefaultBinary)
			log, err := os.ReadFile(filepath.Join(dir, QMPLog))
			assert.NilError(t, err)
			assert.Assert(t, is.Contains(string(log), `"device_add"`))
		})
	}
}

func TestPlugRefused(t *testing.T) {
	p, _ := start(t, small(t, "none", halt))
	dev, err := machine.DeviceNamed("edu")
	assert.NilError(t, err)
	err = p.Plug(soon(t), dev, "edu1", 9)
	refusal, ok := errors.AsType[*qmp.CommandError](err)
	assert.Assert(t, ok, "%v", err)
	assert.Error(t, err, "plug edu behind port9: qmp device_add: GenericError: "+refusal.Desc)
	assert.ErrorContains(t, p.Unplug(soon(t), "edu1"), "unplug edu1: qmp device_del: DeviceNotFound: ")
}

// Each way for a guest to end leaves its own state, and exit status 0.
func TestGuestEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		code [][]byte
		want ExitState
		text string
	}{
		"power-off":         {[][]byte{powerOff}, ExitState{Ended: true, Shutdown: "guest-shutdown"}, "guest-shutdown"},
		"reset":             {[][]byte{reset}, ExitState{Ended: true, Shutdown: "guest-reset"}, "guest-reset"},
		"panic, then reset": {[][]byte{tell, reset}, ExitState{Ended: true, Shutdown: "guest-reset", Panicked: true}, "guest-reset after a panic"},
	} {
		t.Run(name, func(t *testing.T) {
			p, dir := start(t, small(t, "none", tt.code...))
			await(t, "end of the guest", p.Done())
			assert.NilError(t, p.Wait())
			assert.DeepEqual(t, p.ExitState(), tt.want)
			assert.Check(t, p.CPU() > 0)
			assert.Equal(t, p.ExitState().String(), tt.text)
			awaitText(t, filepath.Join(dir, machine.ConsoleLog), line)
		})
	}
}

// A panic is reported while the guest goes on printing: its log is complete only later.
func TestPanicDoesNotStopGuest(t *testing.T) {
	port, last := []byte{0xba, 0xf8, 0x03}, []byte{0xb0, '!', 0xee} // the console's, and "!" on it
	p, dir := start(t, small(t, "none", tell, tell, port, flood, last, halt))
	await(t, "panic", p.Panicked())
	awaitText(t, filepath.Join(dir, machine.ConsoleLog), "xxx!")
	select {
	case <-p.Done():
		t.Fatalf("QEMU ended: %v", p.ExitState())
	default:
	}
	assert.NilError(t, p.Close())
	assert.Equal(t, p.ExitState().String(), "host-qmp-quit after a panic")
}

// A guest that prints for ever fills its log up to the limit and no disk.
func TestFlood(t *testing.T) {
	more := []byte{0xba, 0xf8, 0x03}
	p, dir := start(t, small(t, "none", more, flood, flood, flood, powerOff))
	var limit unix.Rlimit
	assert.NilError(t, unix.Prlimit(p.PID(), unix.RLIMIT_FSIZE, nil, &limit))
	assert.Equal(t, limit, unix.Rlimit{Cur: 64 << 20, Max: 64 << 20})
	limit = unix.Rlimit{Cur: 64 << 10, Max: 64 << 10} // 64 MB would take a minute
	assert.NilError(t, unix.Prlimit(p.PID(), unix.RLIMIT_FSIZE, &limit, nil))
	await(t, "end of the guest", p.Done())
	assert.Equal(t, p.ExitState().Shutdown, "guest-shutdown")
	info, err := os.Stat(filepath.Join(dir, machine.ConsoleLog))
	assert.NilError(t, err)
	assert.Equal(t, info.Size(), int64(64<<10))
}

func TestNoCoreFile(t *testing.T) {
	p, _ := start(t, small(t, "none", halt))
	var limit unix.Rlimit
	assert.NilError(t, unix.Prlimit(p.PID(), unix.RLIMIT_CORE, nil, &limit))
	assert.Equal(t, limit, unix.Rlimit{})
}

// What QEMU printed is in the error, and nothing is left behind.
func TestStartFails(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*machine.Machine)
		want   string
	}{
		"CPU model": {func(m *machine.Machine) { m.CPU = "nonsense" }, "start qemu-system-x86_64: exit status 1: qemu-system-x86_64: unable to find CPU model 'nonsense'"},
		"kernel":    {func(m *machine.Machine) { m.Kernel = "/no/such/kernel" }, "could not open kernel file '/no/such/kernel'"},
		"invalid":   {func(m *machine.Machine) { m.RootPorts = 99 }, "start QEMU: machine none: 99 root ports"},
	} {
		t.Run(name, func(t *testing.T) {
			needQEMU(t)
			m := small(t, "none", halt)
			tt.change(&m)
			_, err := Start(t.Context(), Config{Machine: m, Dir: t.TempDir()})
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func TestStartWithoutFolder(t *testing.T) {
	needQEMU(t)
	_, err := Start(t.Context(), Config{Machine: small(t, "none", halt), Dir: "/no/such/folder"})
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestNoQEMU(t *testing.T) {
	m, err := machine.Named("none")
	assert.NilError(t, err)
	_, err = Start(t.Context(), Config{Binary: "no-such-qemu", Machine: m, Dir: t.TempDir()})
	missing, ok := errors.AsType[*MissingError](err)
	assert.Assert(t, ok, "%v", err)
	assert.Equal(t, missing.Binary, "no-such-qemu")
	assert.ErrorContains(t, err, "give the path of a qemu-system-x86_64")
	t.Setenv("PATH", t.TempDir())
	_, _, err = Find("")
	assert.ErrorContains(t, err, "apt-get install qemu-system-x86")
	_, _, err = Find("/no/such/qemu")
	_, ok = errors.AsType[*MissingError](err)
	assert.Assert(t, ok, "%v", err)
	_, err = Ask(t.Context(), "no-such-qemu")
	_, ok = errors.AsType[*MissingError](err)
	assert.Assert(t, ok, "%v", err)
}

// program writes a shell script that stands in for QEMU.
func program(t *testing.T, script string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "qemu")
	assert.NilError(t, os.WriteFile(name, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return name
}

func TestNotQEMU(t *testing.T) {
	m, err := machine.Named("none")
	assert.NilError(t, err)
	_, err = Start(t.Context(), Config{Binary: program(t, "echo out of order >&2; exit 3"), Machine: m, Dir: t.TempDir()})
	assert.Error(t, err, "start qemu: exit status 3: out of order")

	// One that never greets is ended with the context.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("no time"))
	defer cancel()
	_, err = Start(ctx, Config{Binary: program(t, "echo loading >&2; exec sleep 600"), Machine: m, Dir: t.TempDir()})
	assert.Error(t, err, "start qemu: qmp greeting: no time: loading")

	for script, want := range map[string]string{
		"echo another program":                 `--version: "another program"; give the path of a qemu-system-x86_64`,
		"echo broken >&2; exit 1":              "--version: exit status 1: broken; give",
		"while :; do echo for ever; done":      `--version: "for ever`,
		"sleep 600 & echo held; exit 0":        `--version: `, // by a child that keeps the pipe
		"kill -9 $$":                           "--version: signal: killed",
		"echo ' QEMU emulator version 9.9'":    "is no QEMU",
		"echo 'QEMU emulator version nine'":    "is no QEMU",
		"printf 'QEMU emulator\\0version 9.9'": "is no QEMU",
	} {
		start := time.Now()
		_, _, err := Find(program(t, script))
		none, ok := errors.AsType[*NotQEMUError](err)
		assert.Check(t, ok, "%s: %v", script, err)
		if ok {
			assert.Check(t, is.Contains(none.Error(), want), script)
			assert.Check(t, len(none.Error()) < 500, "bounded")
		}
		assert.Check(t, time.Since(start) < versionTimeout, script)
	}
}

func TestOldQEMU(t *testing.T) {
	for text, old := range map[string]bool{"5.2.0 (Debian 1:5.2+dfsg-11)": true, "6.9.99": true, "7.0.0": false, "10.0.2": false, "11.1": false} {
		_, version, err := Find(program(t, "echo 'QEMU emulator version "+text+"'"))
		assert.Check(t, strings.HasPrefix(text, version) && version != "")
		_, tooOld := errors.AsType[*OldError](err)
		assert.Check(t, tooOld == old, "%s: %v", text, err)
		if old {
			assert.ErrorContains(t, err, "is QEMU "+version+", nestbed needs 7.0 or newer: apt-get install qemu-system-x86, or --qemu PATH")
		}
	}
}

func TestFind(t *testing.T) {
	_, version, err := Find(program(t, "echo 'QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)'"))
	assert.NilError(t, err)
	assert.Equal(t, version, "10.0.2")
}

// The context of Start is for the life of the process.
func TestContextEndsProcess(t *testing.T) {
	needQEMU(t)
	ctx, cancel := context.WithCancel(t.Context())
	m := small(t, "none", halt)
	m.Channels = []string{"nestbed.ssh"}
	p, err := Start(ctx, Config{Machine: m, Dir: t.TempDir()})
	assert.NilError(t, err)
	defer p.Close()
	assert.Assert(t, p.Conn("nestbed.shell") == nil)
	cancel()
	await(t, "end of QEMU", p.Done())
	assert.Equal(t, p.ExitState().String(), "host-qmp-quit")
	_, err = p.Conn("nestbed.ssh").Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF)
}

func TestKilledQEMU(t *testing.T) {
	p, _ := start(t, small(t, "none", halt))
	assert.NilError(t, syscall.Kill(p.PID(), syscall.SIGKILL))
	await(t, "end of QEMU", p.Done())
	assert.DeepEqual(t, p.ExitState(), ExitState{Ended: true, Code: -1, Signal: "SIGKILL"})
	failure, ok := errors.AsType[*ExitError](p.Wait())
	assert.Assert(t, ok)
	assert.Error(t, failure, "QEMU: killed by SIGKILL")
	assert.ErrorIs(t, p.NMI(soon(t)), qmp.ErrClosed)
	assert.NilError(t, p.Close())
}

// A QEMU that does not answer is killed.
func TestStoppedQEMU(t *testing.T) {
	p, _ := start(t, small(t, "none", halt))
	assert.NilError(t, syscall.Kill(p.PID(), syscall.SIGSTOP))
	began := time.Now()
	assert.NilError(t, p.Close())
	assert.Equal(t, p.ExitState().Signal, "SIGKILL")
	assert.Assert(t, time.Since(began) >= quitTimeout)
}

// ^C on the terminal is sent to the harness's process group, which QEMU is not in.
func TestOwnProcessGroup(t *testing.T) {
	p, _ := start(t, small(t, "none", halt))
	group, err := syscall.Getpgid(p.PID())
	assert.NilError(t, err)
	assert.Equal(t, group, p.PID())
}

func TestKeysAndNMI(t *testing.T) {
	p, _ := start(t, small(t, "none", halt))
	assert.NilError(t, p.SysRq(soon(t), "l"))
	assert.ErrorContains(t, p.SysRq(soon(t), "nokey"), "qmp send-key: GenericError")
	assert.NilError(t, p.NMI(soon(t)))
}

// harnessEnv makes the test's own program start one QEMU and wait for its end: a harness to be killed.
const harnessEnv = "NESTBED_TEST_HARNESS_KERNEL"

func beHarness() {
	m, err := machine.Named("none")
	if err == nil {
		m.MemoryMB, m.Kernel = 64, os.Getenv(harnessEnv)
		var p *Process
		if p, err = Start(context.Background(), Config{Machine: m, Dir: "."}); err == nil {
			fmt.Println(p.PID())
			err = p.Wait()
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// No QEMU outlives a harness that was killed and could clean up nothing.
func TestKilledHarnessLeavesNoQEMU(t *testing.T) {
	needQEMU(t)
	self, err := os.Executable()
	assert.NilError(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), harnessEnv+"="+kernel(t, halt))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, cmd.Start())
	var pid int
	_, err = fmt.Fscan(bufio.NewReader(out), &pid)
	assert.NilError(t, err)
	pidfd, err := unix.PidfdOpen(pid, 0)
	assert.NilError(t, err)
	defer unix.Close(pidfd)
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	assert.NilError(t, err)
	assert.Equal(t, n, 0, "QEMU ended before its harness")

	assert.NilError(t, cmd.Process.Kill())
	assert.ErrorContains(t, cmd.Wait(), "signal: killed")
	for {
		n, err = unix.Poll(fds, 30_000)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	assert.NilError(t, err)
	assert.Equal(t, n, 1, "QEMU %d outlives its harness", pid)
}

// qemu.sh boots when it is run, and its monitor listens in the folder.
func TestScriptBoots(t *testing.T) {
	m := small(t, "intel", halt)
	m.Channels = []string{"nestbed.ssh"}
	p, dir := start(t, m)
	assert.NilError(t, p.Close())
	before, err := os.ReadFile(filepath.Join(dir, machine.ConsoleLog))
	assert.NilError(t, err)

	cmd := exec.CommandContext(t.Context(), "./"+ScriptFile)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	assert.NilError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if t.Failed() { // the script's QEMU is its child
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	awaitText(t, filepath.Join(dir, "by-hand.console.log"), line)
	conn, err := net.Dial("unix", filepath.Join(dir, "by-hand.qmp.sock"))
	assert.NilError(t, err)
	m2 := qmp.New(conn.(*net.UnixConn), qmp.Options{})
	assert.NilError(t, m2.Handshake(soon(t)))
	assert.NilError(t, m2.Do(soon(t), "quit", nil, nil))
	assert.NilError(t, <-ended, "%v", out.String())
	assert.NilError(t, m2.Disconnect())
	assert.Assert(t, is.Contains(out.String(), strings.TrimSpace(line)), "the console is not on the terminal")
	after, err := os.ReadFile(filepath.Join(dir, machine.ConsoleLog))
	assert.NilError(t, err)
	assert.Equal(t, string(after), string(before), "the run's own log was changed")
}

func TestAsk(t *testing.T) {
	needQEMU(t)
	path, version, err := Find("")
	assert.NilError(t, err)
	c, err := Ask(soon(t), "")
	assert.NilError(t, err)
	assert.Equal(t, c.Path, path)
	assert.Equal(t, c.Version, version)
	assert.Assert(t, c.HasMachine("q35") && !c.HasMachine("q36"))
	assert.Assert(t, c.HasDevice("edu") && !c.HasDevice("eda"))
	assert.Assert(t, c.HasProperty("intel-iommu", "intremap") && !c.HasProperty("edu", "intremap"))
	assert.Assert(t, c.HasTrace("vtd_dmar_fault") && !c.HasTrace("nothing"))
}
