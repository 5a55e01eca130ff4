package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

const (
	root    = "../.."
	repeats = 10
)

// BenchmarkStart compares the way to the first answered SSH command with bare QEMU's way to the first line
// of PID 1: same kernel, initramfs and arguments, in turns.
func BenchmarkStart(b *testing.B) {
	init, _, err := images.Payload()
	assert.NilError(b, err)
	k := kernel(b, "debian:6.12")
	m, err := machine.Named("intel")
	assert.NilError(b, err)
	p := &pool.Pool{BootFiles: b.TempDir(), Init: init}
	path, _, err := qemu.Find("")
	assert.NilError(b, err)

	// The first one builds the initramfs and warms the page cache.
	args := ""
	var bare, ours []time.Duration
	s := spin(b)
	for n := range repeats + 1 {
		dir := b.TempDir()
		start := time.Now()
		g, err := p.Get(b.Context(), pool.Spec{Kernel: k, Machine: m, Dir: dir})
		assert.NilError(b, err)
		_, err = g.SSH.Output(b.Context(), "uname")
		assert.NilError(b, err)
		took := time.Since(start)
		assert.NilError(b, g.Close())
		if n == 0 {
			data, err := os.ReadFile(filepath.Join(dir, qemu.ArgsFile))
			assert.NilError(b, err)
			args = strings.TrimSuffix(string(data), "\n")
			continue
		}
		ours = append(ours, took)
		took, _ = bareBoot(b, path, strings.Split(args, "\n")[1:])
		bare = append(bare, took)
	}
	s.report(b)
	b.ReportMetric(seconds(bare), "bare-s")
	b.ReportMetric(seconds(ours), "nestbed-s")
	b.ReportMetric(seconds(ours)/seconds(bare), "nestbed/bare")
	b.ReportMetric(0, "ns/op")
}

// bareBoot starts QEMU with nothing of nestbed beside it and takes the time to PID 1's first line, which it
// writes on the control port, and QEMU's CPU time until then, which a busy host changes less.
func bareBoot(b *testing.B, path string, args []string) (took, cpu time.Duration) {
	b.Helper()
	cmd := exec.Command(path, args...)
	cmd.Dir = b.TempDir()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var ours []net.Conn
	for range 4 { // qmp and the three channels
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		assert.NilError(b, err)
		f := os.NewFile(uintptr(fds[0]), "ours")
		conn, err := net.FileConn(f)
		assert.NilError(b, err)
		assert.NilError(b, f.Close())
		ours = append(ours, conn)
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fds[1]), "qemu's"))
	}
	start := time.Now()
	assert.NilError(b, cmd.Start())
	for _, f := range cmd.ExtraFiles {
		assert.NilError(b, f.Close())
	}
	// The first channel after the monitor is the control port.
	assert.NilError(b, ours[1].SetReadDeadline(time.Now().Add(2*time.Minute)))
	line, err := bufio.NewReader(ours[1]).ReadString('\n')
	took = time.Since(start)
	assert.NilError(b, err)
	assert.Assert(b, strings.Contains(line, `"version"`), line)
	assert.NilError(b, cmd.Process.Kill())
	_ = cmd.Wait() // "signal: killed"
	cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	for _, c := range ours {
		_ = c.Close()
	}
	return took, cpu
}

// BenchmarkSize says what there is to carry and to wait for without a guest.
func BenchmarkSize(b *testing.B) {
	init, agent, err := images.Payload()
	assert.NilError(b, err)
	bin := program(b)
	var list []time.Duration
	s := spin(b)
	for range repeats * 2 {
		start := time.Now()
		out, err := exec.Command(bin, "list", "scenarios").Output()
		assert.NilError(b, err)
		list = append(list, time.Since(start))
		assert.Assert(b, len(out) > 0)
	}
	s.report(b)
	b.ReportMetric(float64(len(init))/(1<<20), "init-MiB")
	b.ReportMetric(float64(len(agent))/(1<<20), "agent-MiB")
	b.ReportMetric(seconds(list)*1000, "list-scenarios-ms")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkMemory is the harness's own peak while it runs a scenario, and while it imports a kernel, with
// the programs that it calls for that.
func BenchmarkMemory(b *testing.B) {
	bin := program(b)
	s := spin(b)
	running := peak(b, exec.Command(bin, "run", "--output", b.TempDir(), "attach-group-container"), false)
	add := exec.Command(bin, "kernel", "add", "debian:6.12")
	add.Env = append(os.Environ(), "XDG_CACHE_HOME="+b.TempDir())
	importing := peak(b, add, true)
	s.report(b)
	b.ReportMetric(running, "run-MiB")
	b.ReportMetric(importing, "import-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkTry is the scenario author's loop: a saved edit to its verdict.
func BenchmarkTry(b *testing.B) {
	dir := b.TempDir()
	copyTree(b, dir)
	try := func() time.Duration {
		file := filepath.Join(dir, "scenarios", "attach_group_container.go")
		text, err := os.ReadFile(file)
		assert.NilError(b, err)
		text = append(text, fmt.Sprintf("\n// edited %d\n", time.Now().UnixNano())...)
		assert.NilError(b, os.WriteFile(file, text, 0o644))
		start := time.Now()
		cmd := exec.Command("make", "try", "S=attach-group-container")
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		assert.NilError(b, err, string(out))
		return time.Since(start)
	}
	try() // warms the build cache for this folder
	var took []time.Duration
	s := spin(b)
	for range 3 {
		took = append(took, try())
	}
	s.report(b)
	b.ReportMetric(seconds(took), "try-s")
	b.ReportMetric(0, "ns/op")
}

// copyTree copies what git tracks or would track.
func copyTree(b *testing.B, to string) {
	b.Helper()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	assert.NilError(b, err)
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		assert.NilError(b, err)
		info, err := os.Stat(filepath.Join(root, name))
		assert.NilError(b, err)
		assert.NilError(b, os.MkdirAll(filepath.Join(to, filepath.Dir(name)), 0o755))
		assert.NilError(b, os.WriteFile(filepath.Join(to, name), data, info.Mode().Perm()))
	}
}

// program is the nestbed that make built.
func program(b *testing.B) string {
	b.Helper()
	bin, err := filepath.Abs(filepath.Join(root, "bin", "nestbed"))
	assert.NilError(b, err)
	_, err = os.Stat(bin)
	assert.NilError(b, err, "run make bench, which builds it")
	return bin
}

func kernel(b *testing.B, spec string) kernels.Kernel {
	b.Helper()
	caches, err := os.UserCacheDir()
	assert.NilError(b, err)
	cache, err := kernels.Open(filepath.Join(caches, "nestbed", "v1", "kernels"))
	assert.NilError(b, err)
	k, err := cache.Resolve(context.Background(), spec, func(s string) { b.Log(s) })
	assert.NilError(b, err)
	return k
}

// peak runs a command and gives the largest resident set that it was seen with, in MiB; with its children's
// when they count.
func peak(b *testing.B, cmd *exec.Cmd, withChildren bool) float64 {
	b.Helper()
	out, err := cmd.StdoutPipe()
	assert.NilError(b, err)
	assert.NilError(b, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
		}
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var most int64
	for {
		select {
		case <-ended:
			assert.NilError(b, cmd.Wait())
			return float64(most) / 1024
		case <-tick.C:
			sum := rss(cmd.Process.Pid)
			if withChildren {
				for _, pid := range children(cmd.Process.Pid) {
					sum += rss(pid)
				}
			}
			most = max(most, sum)
		}
	}
}

// rss of a process in KiB, 0 when it is gone.
func rss(pid int) int64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		var kb int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kb); err == nil {
			return kb
		}
	}
	return 0
}

func children(pid int) []int {
	var pids []int
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(data)) {
			var child int
			if _, err := fmt.Sscan(field, &child); err == nil {
				pids = append(pids, child)
				pids = append(pids, children(child)...)
			}
		}
	}
	return pids
}

// seconds is the median.
func seconds(took []time.Duration) float64 {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[len(sorted)/2].Seconds()
}
