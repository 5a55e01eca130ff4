package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/harness/doctor"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/results"
	"github.com/nestbed/nestbed/results/record"
)

const moduleRoot = "../../.."

// program builds nestbed with the guest's programs in it, once, as make build does, but with the race
// detector where there is a C compiler.
var program = sync.OnceValues(func() (string, error) {
	ctx := context.Background()
	if err := images.BuildPayload(ctx, moduleRoot, filepath.Join(moduleRoot, "images", "payload")); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "nestbed-e2e-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "nestbed")
	args := []string{"build", "-o", bin}
	if _, err := exec.LookPath("gcc"); err == nil {
		args = append(args, "-race")
	}
	if out, err := exec.CommandContext(ctx, "go", append(args, ".")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return bin, nil
})

func nestbed(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	if testing.Short() {
		t.Skip("needs QEMU and a kernel; -short leaves it out")
	}
	bin, err := program()
	assert.NilError(t, err)
	cmd := exec.Command(bin, args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	return cmd
}

// finish runs a command to its end and gives its status and what it printed.
func finish(t *testing.T, cmd *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// suite runs nestbed run --json and gives its cells.
func suite(t *testing.T, args ...string) (int, []results.Cell) {
	t.Helper()
	status, stdout, stderr := finish(t, nestbed(t, append([]string{"run", "--json"}, args...)...))
	t.Log(stderr)
	var cells []results.Cell
	for line := range strings.Lines(stdout) {
		var c results.Cell
		assert.NilError(t, json.Unmarshal([]byte(line), &c), line)
		cells = append(cells, c)
		t.Logf("%-5s %s: %s %s", c.Verdict, c.ID(), c.Title, c.Reason)
	}
	return status, cells
}

const unloadBug = "unload-vendor-while-vfio-holds-kvm"

// stockKernels are those that the tier runs on, and what the unpinned vendor module does to each.
var stockKernels = []struct {
	spec string
	bug  bool // of those that known.yaml explains
}{
	{"debian:bullseye/5.10", false},
	{"debian:6.1", false},
	{"debian:6.12", true},
	{"debian:trixie-backports/7.2", true},
	{"debian:trixie-backports/7.3", true},
}

// The purpose of it all: a kernel without the bug is green, one with it is red with the kernel's own words.
func TestKernels(t *testing.T) {
	for _, c := range []struct {
		kernel string
		bug    bool
	}{{"debian:6.1", false}, {"debian:trixie-backports/7.3", true}} {
		t.Run(c.kernel, func(t *testing.T) {
			status, cells := suite(t, "--no-known", "-k", c.kernel, "unload-vendor-*", "attach-add-before-*", "detach-file-del-*", "dmabuf-*")
			seen := false
			for _, cell := range cells {
				if cell.Scenario == unloadBug && c.bug {
					seen = true
					assert.Check(t, cmp.Equal(cell.Verdict, record.Crash), cell.ID())
					assert.Check(t, strings.Contains(cell.Title+cell.Reason, "NULL pointer dereference in"), "%s; %s", cell.Title, cell.Reason)
				}
				if !c.bug {
					assert.Check(t, cell.Verdict == record.Pass || cell.Verdict == record.Skip, "%s: %s %s; %s", cell.ID(), cell.Verdict, cell.Title, cell.Reason)
				}
			}
			assert.Check(t, cmp.Equal(seen, c.bug))
			assert.Check(t, cmp.Equal(status, map[bool]int{false: 0, true: 1}[c.bug]))
		})
	}
}

// The whole tier on the default kernel is green with the known issues that ship, each of them seen.
func TestTier(t *testing.T) {
	tier(t, "debian:6.12", "intel", true)
}

// make test-all: the tier on every stock kernel and machine.
func TestTierEverywhere(t *testing.T) {
	if os.Getenv("NESTBED_ALL") == "" {
		t.Skip("make test-all runs the tier on every stock kernel and machine")
	}
	for _, k := range stockKernels {
		for _, machine := range []string{"intel", "amd", "virtio", "none"} {
			t.Run(k.spec+"/"+machine, func(t *testing.T) { tier(t, k.spec, machine, k.bug) })
		}
	}
}

func tier(t *testing.T, kernel, machine string, bug bool) {
	t.Helper()
	status, cells := suite(t, "-k", kernel, "-m", machine)
	assert.Assert(t, len(cells) >= 50, "%d cells", len(cells))
	n := map[record.Verdict]int{}
	for _, c := range cells {
		n[c.Verdict]++
		good := c.Verdict == record.Pass || c.Verdict == record.Skip || c.Verdict == record.Known
		assert.Check(t, good, "%s: %s %s; %s", c.ID(), c.Verdict, c.Title, c.Reason)
		if c.Verdict == record.Skip {
			assert.Check(t, c.Reason != "" && c.Remedy != "", "%s: a skip without reason or remedy", c.ID())
		}
	}
	t.Log(n)
	assert.Check(t, (n[record.Known] > 0) == bug, "%d known issues", n[record.Known])
	assert.Check(t, cmp.Equal(status, 0))
}

// DMA is refused by the other two IOMMUs as well, after it has worked.
func TestOtherMachines(t *testing.T) {
	status, cells := suite(t, "--no-known", "-m", "amd,virtio", "iommu-dma-after-unmap")
	assert.Equal(t, len(cells), 2)
	for _, c := range cells {
		assert.Check(t, cmp.Equal(c.Verdict, record.Pass), "%s: %s; %s", c.ID(), c.Title, c.Reason)
	}
	assert.Equal(t, status, 0)
}

// What the kernel reports is found and called what it is: of a kernel that goes on, of one that is stuck, and of one
// that is gone.
func TestDetect(t *testing.T) {
	detect(t, "debian:6.12", 3)
}

// detect runs the area on a kernel; of its cells at least so many must run and none may end but as declared.
func detect(t *testing.T, kernel string, least int) {
	t.Helper()
	status, cells := suite(t, "--no-known", "-k", kernel, "detect-*")
	n := map[record.Verdict]int{}
	for _, c := range cells {
		n[c.Verdict]++
		switch c.Verdict {
		case record.Pass:
			assert.Check(t, strings.HasPrefix(c.Reason, "reported, as declared: "), "%s: %s", c.ID(), c.Reason)
		case record.Skip:
			assert.Check(t, c.Reason != "" && c.Remedy != "", "%s: a skip without reason or remedy", c.ID())
		default:
			t.Errorf("%s: %s %s; %s", c.ID(), c.Verdict, c.Title, c.Reason)
		}
	}
	t.Log(n)
	assert.Check(t, n[record.Pass] >= least, "%d cells pass", n[record.Pass])
	assert.Check(t, cmp.Equal(status, 0))
}

// long is a scenario that runs for some seconds, on the default kernel.
const long = "detach-sigkill-owner"

// started is a run whose first cell is under way.
type started struct {
	*exec.Cmd
	qemu []int // pids
	run  string
	errs *bytes.Buffer
}

// start starts a run of one quick and several long cells, one after the other, and waits until the second
// is under way: a verdict is on disk, and QEMU runs.
func start(t *testing.T) *started {
	t.Helper()
	cmd := nestbed(t, "run", "-j", "1", "--json", "--no-known", "attach-group-container", long, "l2-runs")
	stdout, err := cmd.StdoutPipe()
	assert.NilError(t, err)
	s := &started{Cmd: cmd, errs: &bytes.Buffer{}}
	cmd.Stderr = s.errs
	assert.NilError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // fails when it has ended, as it should have
	lines := bufio.NewScanner(stdout)
	assert.Assert(t, lines.Scan(), "no verdict: %s", s.errs)
	go func() { _, _ = io.Copy(io.Discard, stdout) }()
	s.run = filepath.Join(state(cmd), "nestbed", "runs")
	waitFor(t, "the second cell's agent to speak", func() bool {
		found, err := filepath.Glob(filepath.Join(s.run, "*", long+"*", "records.jsonl"))
		assert.NilError(t, err)
		return len(found) > 0
	})
	s.qemu = children(t, cmd.Process.Pid)
	assert.Equal(t, len(s.qemu), 1, "one QEMU runs at -j 1")
	return s
}

func state(cmd *exec.Cmd) string {
	for _, e := range slices.Backward(cmd.Env) {
		if dir, ok := strings.CutPrefix(e, "XDG_STATE_HOME="); ok {
			return dir
		}
	}
	return ""
}

// waitFor polls files and processes of another program, which have no event to wait for.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func children(t *testing.T, pid int) []int {
	t.Helper()
	var pids []int
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	assert.NilError(t, err)
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(data)) {
			child, err := strconv.Atoi(field)
			assert.NilError(t, err)
			pids = append(pids, child)
		}
	}
	return pids
}

// gone says that a process has ended, waiting for it by pidfd.
func gone(t *testing.T, pid int) bool {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	assert.NilError(t, err)
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	}
	assert.NilError(t, err)
	return n == 1
}

// show prints the run that a started command left behind.
func (s *started) show(t *testing.T) (int, string) {
	t.Helper()
	cmd := nestbed(t, "show", "--output", s.run, "last")
	status, stdout, stderr := finish(t, cmd)
	t.Log(stdout, stderr)
	return status, stdout
}

func TestSignalsEndGuestsAndKeepVerdicts(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			s := start(t)
			assert.NilError(t, s.Process.Signal(sig))
			err := s.Wait()
			assert.Check(t, cmp.ErrorContains(err, "exit status"))
			assert.Check(t, cmp.Equal(s.ProcessState.ExitCode(), 128+int(sig)))
			for _, pid := range s.qemu {
				assert.Check(t, gone(t, pid), "QEMU %d survived", pid)
			}
			status, text := s.show(t)
			assert.Check(t, cmp.Equal(status, 2), "a run with unfinished cells is not green")
			assert.Check(t, cmp.Contains(text, "pass"))
			assert.Check(t, cmp.Contains(text, "unfinished"))
		})
	}
}

func TestKilledHarnessLeavesNoQEMU(t *testing.T) {
	s := start(t)
	assert.NilError(t, s.Process.Kill())
	_ = s.Wait() // "signal: killed"
	for _, pid := range s.qemu {
		assert.Check(t, gone(t, pid), "QEMU %d survived its harness", pid)
	}
	status, text := s.show(t)
	assert.Check(t, cmp.Equal(status, 2))
	assert.Check(t, cmp.Contains(text, "unfinished"))
	assert.Check(t, cmp.Contains(text, long))
}

// What a device node claims counts for nothing: doctor boots a guest, says why not, and remembers.
func TestDoctorProvesAccelerators(t *testing.T) {
	status, stdout, _ := finish(t, nestbed(t, "doctor", "--json"))
	assert.Equal(t, status, 0, stdout)
	var x doctor.Examination
	assert.NilError(t, json.Unmarshal([]byte(stdout), &x))
	assert.Equal(t, len(x.Accelerators), 2)
	for _, p := range x.Accelerators {
		assert.Check(t, p.Works != doctor.CannotTell, "%s: %s", p.Accel, p.Reason)
		assert.Check(t, p.Reason != "", p.Accel)
	}
	tcg := x.Accelerators[1]
	assert.Check(t, cmp.Equal(tcg.Works, doctor.Yes), tcg.Reason)
	assert.Check(t, tcg.Seconds > 0 && tcg.Kernel != "", "TCG was proven by a boot")

	_, again, stderr := finish(t, nestbed(t, "doctor"))
	assert.Check(t, !strings.Contains(stderr, "booting"), "proven anew: %s", stderr)
	for _, heading := range []string{"You can run here", "You cannot run here", "posted interrupts"} {
		assert.Check(t, cmp.Contains(again, heading))
	}
}

func TestUnknownKernelNamesWhatThereIs(t *testing.T) {
	status, _, stderr := finish(t, nestbed(t, "run", "-k", "debian:6.99"))
	assert.Check(t, cmp.Equal(status, 2))
	assert.Check(t, cmp.Contains(stderr, `"debian:6.99"`))
	assert.Check(t, cmp.Contains(stderr, "6.1"))
}

// A QEMU that starts and leaves at once says why, in its own words.
func TestQEMUThatFailsToStart(t *testing.T) {
	path, err := exec.LookPath("qemu-system-x86_64")
	assert.NilError(t, err)
	broken := filepath.Join(t.TempDir(), "qemu-broken")
	assert.NilError(t, os.WriteFile(broken, fmt.Appendf(nil, "#!/bin/sh\ncase \"$*\" in --version) exec %s --version;; esac\necho 'kaputt: no such machine' >&2\nexit 3\n", path), 0o755))
	status, stdout, stderr := finish(t, nestbed(t, "run", "--qemu", broken, "l2-runs"))
	assert.Check(t, cmp.Equal(status, 2))
	assert.Check(t, cmp.Contains(stdout+stderr, "kaputt: no such machine"))
}

// A disk that is full or read-only at any step ends a command with status 2, the file's name and the way out.
// No guest gets as far as booting.
func TestFullAndReadOnlyDisks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	tree := t.TempDir()
	image := make([]byte, 64<<10)
	image[0x1f1], image[0x20f] = 127, 1
	copy(image[0x202:], "HdrS")
	copy(image[0x300:], "6.9.1 (a@b) #1\x00")
	assert.NilError(t, os.WriteFile(filepath.Join(tree, "vmlinuz"), append(image, make([]byte, 2<<20)...), 0o600))
	const room = "make room, for example with nestbed cache prune"
	for name, c := range map[string]struct {
		variable, mount string
		args            []string
		want            []string
	}{
		"import":        {"XDG_CACHE_HOME", "tmpfs -o size=1m", []string{"kernel", "add", tree}, []string{"import vmlinuz: write ", "no space left on device", room}},
		"logs of a run": {"XDG_STATE_HOME", "tmpfs -o size=1m", []string{"run", "l2-runs"}, []string{"l2-runs/", "no room for a guest's logs in ", room}},
		"run's folder":  {"XDG_STATE_HOME", "tmpfs -o size=1m,nr_inodes=1", []string{"run", "l2-runs"}, []string{"create run: mkdir ", "no space left on device", room}},
		"logs of shell": {"TMPDIR", "tmpfs -o size=1m", []string{"shell", "--", "uname"}, []string{"no room for a guest's logs in ", room}},
		"read-only":     {"XDG_STATE_HOME", "tmpfs -o ro", []string{"run", "l2-runs"}, []string{"create run: mkdir ", "read-only file system", "XDG_STATE_HOME or --output"}},
		"no cache":      {"XDG_CACHE_HOME", "tmpfs -o ro", []string{"run", "l2-runs"}, []string{"open kernel cache: mkdir ", "/nestbed: read-only file system", "to write, XDG_CACHE_HOME (kernels)"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cmd := nestbed(t, c.args...)
			cmd.Env = append(cmd.Env, c.variable+"="+dir)
			script := fmt.Sprintf(`mount -t %s none "$0" && exec "$@"`, c.mount)
			cmd.Args = append([]string{"unshare", "-m", "sh", "-c", script, dir}, cmd.Args...)
			var err error
			cmd.Path, err = exec.LookPath("unshare")
			assert.NilError(t, err)
			status, stdout, stderr := finish(t, cmd)
			assert.Check(t, cmp.Equal(status, 2), stdout+stderr)
			for _, want := range c.want {
				assert.Check(t, cmp.Contains(stderr, want))
			}
		})
	}
}

// kernel is one that the cache has.
func kernel(t *testing.T, spec string) kernels.Kernel {
	t.Helper()
	h, err := findHome("")
	assert.NilError(t, err)
	cache, err := h.kernels()
	assert.NilError(t, err)
	k, err := cache.Resolve(t.Context(), spec, nil)
	assert.NilError(t, err)
	return k
}

func vmlinuz(t *testing.T, spec string) []byte {
	t.Helper()
	image, err := os.ReadFile(kernel(t, spec).Vmlinuz())
	assert.NilError(t, err)
	return image
}

// The distribution's kernels boot unpacked, whatever they are compressed with (xz with its x86 filter, zstd).
func TestStockKernelsUnpack(t *testing.T) {
	if testing.Short() {
		t.Skip("unpacks distribution kernels, which it fetches the first time")
	}
	for _, spec := range []string{"debian:6.1", "debian:6.12", "debian:trixie-backports/7.3"} {
		f, err := os.Create(filepath.Join(t.TempDir(), "vmlinux"))
		assert.NilError(t, err)
		ok, err := kernel(t, spec).Vmlinux(t.Context(), f)
		assert.NilError(t, err)
		assert.Check(t, ok, spec)
		assert.NilError(t, f.Close())
	}
}

// A kernel that was built without KVM and VFIO is imported, and every cell says why it cannot run. None boots.
func TestKernelWithoutKVMAndVFIO(t *testing.T) {
	cmd := nestbed(t, "run", "--json", "-k")
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "vmlinuz"), vmlinuz(t, "debian:6.12"), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "config"), []byte("CONFIG_MODULES=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_VIRTIO_PCI=y\n# CONFIG_KVM is not set\n"), 0o600))
	cmd.Args = append(cmd.Args, dir)
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+overlay(t))
	status, stdout, stderr := finish(t, cmd)
	assert.Check(t, cmp.Equal(status, 0), stderr)
	n := 0
	for line := range strings.Lines(stdout) {
		var c results.Cell
		assert.NilError(t, json.Unmarshal([]byte(line), &c), line)
		n++
		assert.Check(t, cmp.Equal(c.Verdict, record.Skip), c.ID())
		assert.Check(t, c.Reason != "" && c.Remedy != "" && c.Dir == "", "%s: %q, %q", c.ID(), c.Reason, c.Remedy)
	}
	assert.Check(t, n >= 8, "%d cells", n)
}

// An image that is a kernel by its header only is a crash or a hang with the console's end, at once.
func TestKernelOfGarbage(t *testing.T) {
	cmd := nestbed(t, "run", "l2-runs", "--no-known", "-k")
	dir := t.TempDir()
	image := vmlinuz(t, "debian:6.12")
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := 20_000; i < len(image); i++ {
		image[i] = byte(rnd.Uint32())
	}
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "vmlinuz"), image, 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "config"), []byte("CONFIG_MODULE_UNLOAD=y\nCONFIG_KVM=y\nCONFIG_KVM_AMD=y\nCONFIG_VFIO=y\nCONFIG_VIRTIO_CONSOLE=y\n"), 0o600))
	cmd.Args = append(cmd.Args, dir)
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+overlay(t))
	start := time.Now()
	status, stdout, stderr := finish(t, cmd)
	t.Logf("%.1f s\n%s", time.Since(start).Seconds(), stdout)
	assert.Check(t, cmp.Equal(status, 1), stderr)
	assert.Check(t, cmp.Contains(stdout, "console.log, its end\n  Probing EDD"))
}

// overlay is a cache of its own that knows what has been proven of this host.
func overlay(t *testing.T) string {
	t.Helper()
	h, err := findHome("")
	assert.NilError(t, err)
	dir := t.TempDir()
	assert.NilError(t, os.MkdirAll(filepath.Join(dir, "nestbed", cacheVersion), 0o755))
	assert.NilError(t, os.Symlink(filepath.Join(h.cache, "doctor"), filepath.Join(dir, "nestbed", cacheVersion, "doctor")))
	return dir
}

func TestShellRunsACommand(t *testing.T) {
	status, stdout, stderr := finish(t, nestbed(t, "shell", "-k", "debian:6.1", "-m", "none", "--", "uname"))
	assert.Check(t, cmp.Equal(status, 0), stderr)
	assert.Check(t, cmp.Contains(stdout, "6.1"))
}
