package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/harness/pool"
	"github.com/nestbed/nestbed/harness/qemu"
	"github.com/nestbed/nestbed/images"
	"github.com/nestbed/nestbed/kernels"
)

const (
	stock = "debian:6.12"
	built = "build:debian-6.12/" // and a flavour
)

// BenchmarkFlavours compares the flavours of 6.12 that are in the cache with the stock kernel and with base: boots to
// PID 1 without nestbed, in turns, and a run of a few scenarios by nestbed. What it prints is where the table of
// nestbed kernel list has its figures from.
func BenchmarkFlavours(b *testing.B) {
	init, _, err := images.Payload()
	assert.NilError(b, err)
	m, err := machine.Named("intel")
	assert.NilError(b, err)
	path, _, err := qemu.Find("")
	assert.NilError(b, err)
	p := &pool.Pool{BootFiles: b.TempDir(), Init: init}
	specs := []string{stock}
	for _, k := range list(b) {
		for _, spec := range k.Specs {
			if strings.HasPrefix(spec, built) {
				specs = append(specs, spec)
			}
		}
	}
	if !slices.Contains(specs, built+"base") {
		b.Skip("no base flavour in the cache: nestbed kernel build debian-source:6.12")
	}
	args := map[string][]string{}
	for _, spec := range specs {
		dir := b.TempDir()
		g, err := p.Get(b.Context(), pool.Spec{Kernel: kernel(b, spec), Machine: m, Dir: dir})
		assert.NilError(b, err, spec)
		assert.NilError(b, g.Close())
		data, err := os.ReadFile(filepath.Join(dir, qemu.ArgsFile))
		assert.NilError(b, err)
		args[spec] = strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")[1:]
	}
	wall, cpu, runs := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	bin := program(b)
	s := spin(b)
	for range repeats / 2 {
		for _, spec := range specs {
			took, used := bareBoot(b, path, args[spec])
			wall[spec], cpu[spec] = append(wall[spec], took), append(cpu[spec], used)
		}
	}
	for range 3 {
		for _, spec := range specs {
			// kvm-n has none of the others, vfio-group-n has no groups.
			cmd := exec.Command(bin, "run", "--output", b.TempDir(), "--no-known", "-j", "1", "-k", spec, "attach-group-container", "iommu-dma-after-unmap", "irq-msi-irqfd-lapic")
			start := time.Now()
			out, err := cmd.CombinedOutput()
			assert.Check(b, cmd.ProcessState.ExitCode() <= 1, "%v\n%s", err, out)
			runs[spec] = append(runs[spec], time.Since(start))
		}
	}
	s.report(b)
	for _, spec := range specs {
		name := strings.TrimPrefix(strings.TrimPrefix(spec, built), "debian:")
		b.Logf("%-14s boot %5.2f s, %.2f of stock, %.2f of base; its CPU %5.2f s, %.2f of stock; three scenarios %5.1f s, %.2f of base", name,
			seconds(wall[spec]), ratio(wall, spec, stock), ratio(wall, spec, built+"base"),
			seconds(cpu[spec]), ratio(cpu, spec, stock), seconds(runs[spec]), ratio(runs, spec, built+"base"))
	}
	b.ReportMetric(ratio(wall, built+"base", stock), "base-boot/stock")
	b.ReportMetric(ratio(cpu, built+"base", stock), "base-boot-cpu/stock")
	b.ReportMetric(float64(size(b, kernel(b, built+"base").Vmlinuz()))/(1<<20), "vmlinuz-MiB")
	b.ReportMetric(0, "ns/op")
}

func ratio(of map[string][]time.Duration, spec, to string) float64 {
	return seconds(of[spec]) / seconds(of[to])
}

func size(b *testing.B, name string) int64 {
	b.Helper()
	info, err := os.Stat(name)
	assert.NilError(b, err)
	return info.Size()
}

func list(b *testing.B) []kernels.Kernel {
	b.Helper()
	caches, err := os.UserCacheDir()
	assert.NilError(b, err)
	cache, err := kernels.Open(filepath.Join(caches, "nestbed", "v1", "kernels"))
	assert.NilError(b, err)
	ks, err := cache.List()
	assert.NilError(b, err)
	return ks
}

// BenchmarkOneLineSeries compares a series of one patch that changes one line of virt/kvm/vfio.c, from its start to
// its verdict, with what make modules alone takes after such a change: same tree, output folder and compiler. The
// tree is what make built leaves in the cache.
func BenchmarkOneLineSeries(b *testing.B) {
	caches, err := os.UserCacheDir()
	assert.NilError(b, err)
	tree := filepath.Join(caches, "nestbed", "v1", "linux.git")
	if _, err := os.Stat(tree); err != nil {
		b.Skip("no tree in the cache: make built")
	}
	bin, state := program(b), b.TempDir()
	for _, globs := range [][]string{{"unload-vendor-while-vfio-holds-kvm"}, {"unload-*"}} {
		b.Run(strings.ReplaceAll(globs[0], "*", "all"), func(b *testing.B) {
			run := func(patch string) time.Duration {
				args := append([]string{"series", "--tree", tree, "--mbox", "-", "--each", "none", "-m", "intel"}, globs...)
				cmd := exec.Command(bin, args...)
				cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+state)
				cmd.Stdin = strings.NewReader(patch)
				start := time.Now()
				out, err := cmd.CombinedOutput()
				assert.NilError(b, err, "%s", out)
				b.Logf("%.1f s", time.Since(start).Seconds())
				return time.Since(start)
			}
			run(oneLine(b, tree, "begin")) // the base is built and run
			folders, err := filepath.Glob(filepath.Join(caches, "nestbed", "v1", "kernels", "builds", "series-linux.git-*", "base"))
			assert.NilError(b, err)
			assert.Equal(b, len(folders), 1, "%q", folders)
			sources := filepath.Join(caches, "nestbed", "v1", "kernels", "sources", filepath.Base(filepath.Dir(folders[0])))
			var alone, series []time.Duration
			s := spin(b)
			for n := range 3 {
				series = append(series, run(oneLine(b, tree, fmt.Sprint("series ", n, time.Now()))))
				// The checkout is the series' own: it sees the change and puts the file back.
				above, below := around(b, tree)
				text := above + addition(fmt.Sprint("alone ", n, time.Now())) + "\n" + below
				assert.NilError(b, os.WriteFile(filepath.Join(sources, "virt", "kvm", "vfio.c"), []byte(text), 0o644))
				start := time.Now()
				cmd := exec.Command("make", "-C", sources, "O="+folders[0], "ARCH=x86_64", "CC="+compiler(), "modules")
				cmd.Env = append(os.Environ(), "LC_ALL=C", "LOCALVERSION=", "KBUILD_BUILD_USER=nestbed", "KBUILD_BUILD_HOST=nestbed",
					"KBUILD_BUILD_VERSION=1", "KBUILD_BUILD_TIMESTAMP=Thu Jan  1 00:00:00 UTC 1970")
				out, err := cmd.CombinedOutput()
				assert.NilError(b, err, "%s", out)
				alone = append(alone, time.Since(start))
			}
			s.report(b)
			b.ReportMetric(seconds(alone), "make-s")
			b.ReportMetric(seconds(series), "series-s")
			b.ReportMetric(seconds(series)/(1.5*seconds(alone)+15), "series/aim")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func compiler() string {
	if _, err := exec.LookPath("ccache"); err == nil {
		return "ccache gcc"
	}
	return "gcc"
}

// lineBefore is a line of virt/kvm/vfio.c that all versions have: what is added stands behind it.
const lineBefore = "#include \"vfio.h\""

// addition is a line that changes the object file.
func addition(text string) string {
	return fmt.Sprintf("static const char nestbed_bench[] __used = %q;", text)
}

// around gives virt/kvm/vfio.c up to lineBefore, and what comes after it.
func around(b *testing.B, tree string) (above, below string) {
	b.Helper()
	data, err := exec.Command("git", "--git-dir", tree, "show", "HEAD:virt/kvm/vfio.c").Output()
	assert.NilError(b, err)
	before, after, ok := strings.Cut(string(data), lineBefore+"\n")
	assert.Assert(b, ok)
	return before + lineBefore + "\n", after
}

// oneLine is a patch that adds a line to virt/kvm/vfio.c.
func oneLine(b *testing.B, tree, text string) string {
	b.Helper()
	before, after := around(b, tree)
	above := strings.Split(strings.TrimSuffix(before, "\n"), "\n")
	below := strings.SplitN(after, "\n", 4)
	n := len(above) - 1
	context := append(append(append([]string{}, above[n-2:]...), "+"+addition(text)), below[:3]...)
	for i, line := range context {
		if !strings.HasPrefix(line, "+") {
			context[i] = " " + line
		}
	}
	return fmt.Sprintf("From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n"+
		"From: nestbed <nestbed@example.org>\nDate: Thu, 1 Jan 2026 00:00:00 +0000\nSubject: [PATCH] KVM: %s\n\n---\n"+
		"diff --git a/virt/kvm/vfio.c b/virt/kvm/vfio.c\n--- a/virt/kvm/vfio.c\n+++ b/virt/kvm/vfio.c\n@@ -%d,6 +%d,7 @@\n%s\n",
		text, n-1, n-1, strings.Join(context, "\n"))
}

// BenchmarkColdBuild compares nestbed kernel build from nothing with plain make of the same configuration, one after the
// other, without ccache.
func BenchmarkColdBuild(b *testing.B) {
	if os.Getenv("NESTBED_ALL") == "" {
		b.Skip("NESTBED_ALL=1 make bench compiles two kernels, for half an hour")
	}
	caches, err := os.UserCacheDir()
	assert.NilError(b, err)
	trees, err := filepath.Glob(filepath.Join(caches, "nestbed", "v1", "kernels", "sources", "debian-6.12_*[^k]"))
	assert.NilError(b, err)
	if len(trees) == 0 {
		b.Skip("no sources in the cache: nestbed kernel build debian-source:6.12")
	}
	tree, ours, plain := trees[len(trees)-1], b.TempDir(), b.TempDir()
	s := spin(b)
	start := time.Now()
	cmd := exec.Command(program(b), "kernel", "build", tree)
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+ours, "CCACHE_DISABLE=1")
	out, err := cmd.CombinedOutput()
	assert.NilError(b, err, "%s", out)
	nestbed := time.Since(start)
	configs, err := filepath.Glob(filepath.Join(ours, "nestbed", "v1", "kernels", "builds", "*", "base", ".config"))
	assert.NilError(b, err)
	assert.Equal(b, len(configs), 1)
	config, err := os.ReadFile(configs[0])
	assert.NilError(b, err)
	assert.NilError(b, os.WriteFile(filepath.Join(plain, ".config"), config, 0o644))
	start = time.Now()
	out, err = exec.Command("make", "-C", tree, "O="+plain, fmt.Sprintf("-j%d", runtime.NumCPU()), "bzImage", "modules").CombinedOutput()
	assert.NilError(b, err, "%s", out)
	alone := time.Since(start)
	s.report(b)
	b.ReportMetric(nestbed.Seconds(), "nestbed-s")
	b.ReportMetric(alone.Seconds(), "make-s")
	b.ReportMetric(nestbed.Seconds()/alone.Seconds(), "nestbed/make")
	b.ReportMetric(0, "ns/op")
}
