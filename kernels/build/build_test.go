package build

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/kernels/source"
)

// fakeMakefile does what a kernel's does, with cp in the compiler's place. Options that SETTLE_n names stay off.
const fakeMakefile = `VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 3
allnoconfig:
	@echo "  HOSTCC  scripts/kconfig/conf"; echo "# CONFIG_NOBODY_ASKED is not set" >$(O)/.config
olddefconfig:
	@echo configured >>$(O)/configured; $(if $(wildcard $(CURDIR)/drop),grep -v -f $(CURDIR)/drop $(O)/.config >$(O)/.c; mv $(O)/.c $(O)/.config)
bzImage: $(O)/arch/x86/boot/bzImage
modules: ; @true
$(O)/arch/x86/boot/bzImage: $(O)/main.o image
	@mkdir -p $(@D); cp image $@
$(O)/main.o: main.c
	@echo "  CC      kernel/main.o"; sh ./main.c $(O) && cp main.c $@
.DELETE_ON_ERROR:
`

// fakeMerge is the part of merge_config.sh that -m is: the last word counts.
const fakeMerge = `out=$4; shift 4
for f in "$@"; do cat "$f"; done | awk '
  /^CONFIG_/ { n=$0; sub(/=.*/, "", n); v[n]=$0 }
  /^# CONFIG_.* is not set$/ { v[$2]=$0 }
  END { for (n in v) print v[n] }' >"$out.new"
mv "$out.new" "$out"
`

// tinyTree is a kernel's tree that builds in an instant; main is the shell script that its one file is compiled by.
func tinyTree(t *testing.T, main string) string {
	t.Helper()
	image := make([]byte, 0x400)
	image[0x1f1] = 1
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x20e:], 0x100)
	copy(image[0x300:], "6.12.3-base (nestbed@nestbed) #1\x00")
	dir := filepath.Join(t.TempDir(), "linux")
	for name, text := range map[string]string{
		"Makefile": fakeMakefile, "Kconfig": "source \"arch/x86/Kconfig\"\n", "scripts/kconfig/merge_config.sh": fakeMerge,
		"arch/x86/Kconfig": "config KVM\n\ttristate \"KVM\"\n\tdepends on X86_LOCAL_APIC\n",
		"main.c":           main, "image": string(image),
	} {
		put(t, filepath.Join(dir, name), text)
	}
	return dir
}

func put(t *testing.T, name, text string) {
	t.Helper()
	assert.NilError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	assert.NilError(t, os.WriteFile(name, []byte(text), 0o644))
}

// needBuildTools leaves real hosts without a compiler alone, and takes ccache out of the way.
func needBuildTools(t *testing.T) {
	t.Helper()
	if err := needTools(t.Context()); err != nil {
		t.Skip(err)
	}
}

type trial struct {
	*Builder
	said    []string
	objects []string
}

func newTrial(t *testing.T) *trial {
	t.Helper()
	needBuildTools(t)
	c, err := kernels.Open(filepath.Join(t.TempDir(), "kernels"))
	assert.NilError(t, err)
	tr := &trial{}
	tr.Builder = &Builder{Cache: c, Progress: Progress{
		Say:      func(s string) { tr.said = append(tr.said, s) },
		Compiled: func(_, _ int, object string) { tr.objects = append(tr.objects, object) },
	}}
	return tr
}

// allBuiltIn is a fragment that leaves no module to be imported.
func allBuiltIn(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, o := range []string{
		"KVM", "KVM_AMD", "KVM_INTEL", "VFIO", "VFIO_PCI", "VFIO_IOMMU_TYPE1", "IOMMUFD", "LKDTM", "IGB", "E1000E",
		"BLK_DEV_NVME", "VIRTIO_NET", "VFIO_MDEV", "VFIO_MDEV_DEVICE", "SAMPLE_VFIO_MDEV_MTTY",
	} {
		b.WriteString("CONFIG_" + o + "=y\n")
	}
	name := filepath.Join(t.TempDir(), "tiny.config")
	put(t, name, b.String())
	return name
}

func TestBuildAndBuildAgain(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, "true")
	r := Request{Tree: tree, Fragments: []string{allBuiltIn(t)}}
	first, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, first.Kernel.Spec, "build:linux/base+tiny")
	assert.Equal(t, first.Kernel.Release, "6.12.3-base")
	assert.Equal(t, first.Kernel.Option("LOCALVERSION"), "-base")
	assert.Equal(t, first.Compiled, 1)
	assert.DeepEqual(t, tr.objects, []string{"kernel/main.o"})

	// -k takes it.
	k, err := tr.Cache.Resolve(t.Context(), "build:linux/base+tiny", nil)
	assert.NilError(t, err)
	assert.Equal(t, k.Hash, first.Kernel.Hash)
	_, err = tr.Cache.Resolve(t.Context(), "build:linux/kasan", nil)
	assert.ErrorContains(t, err, "was not built here; nestbed kernel build makes it")

	// Nothing changed: nothing is configured or compiled, and the kernel is the same.
	second, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, second.Compiled, 0)
	assert.Equal(t, second.Kernel.Hash, first.Kernel.Hash)
	assert.Equal(t, configured(t, first.Dir), 1)

	// Another Kconfig makes another configuration; another source file compiles only itself.
	put(t, filepath.Join(tree, "arch/x86/Kconfig"), "config KVM\n")
	put(t, filepath.Join(tree, "main.c"), "true # edited")
	third, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, third.Compiled, 1)
	assert.Equal(t, configured(t, first.Dir), 2)

	// The sources hold nothing that was not there.
	left, err := filepath.Glob(filepath.Join(tree, ".*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
}

// A folder is stale when what compiled or linked it is of another version.
func TestAnotherToolchain(t *testing.T) {
	tr := newTrial(t)
	r := Request{Tree: tinyTree(t, "true"), Fragments: []string{allBuiltIn(t)}}
	build := func() Result {
		t.Helper()
		made, err := tr.Build(t.Context(), r)
		assert.NilError(t, err)
		return made
	}
	first := build()

	programs := t.TempDir()
	update := func(name, version string) { // the same program, of another version
		real, err := exec.LookPath(name)
		assert.NilError(t, err)
		script := "#!/bin/sh\n[ \"$1\" = --version ] && echo '" + version + "' || exec " + real + " \"$@\"\n"
		assert.NilError(t, os.WriteFile(filepath.Join(programs, name), []byte(script), 0o755))
	}
	update("gcc", "gcc 99.1")
	t.Setenv("PATH", programs+":"+os.Getenv("PATH"))
	build()
	assert.Equal(t, configured(t, first.Dir), 2, "the configuration has the compiler's version, and every object depends on it")

	update("ld", "GNU ld 9.99")
	assert.Equal(t, build().Compiled, 1)
	assert.Assert(t, is.Contains(strings.Join(tr.said, "\n"), ", here is GNU ld 9.99: everything is compiled again"))
	assert.Equal(t, build().Compiled, 0)

	// Nor is what another one linked copied for another flavour.
	update("ld", "GNU ld 9.100")
	r.Flavour = "kvm-y"
	assert.Equal(t, build().Compiled, 1)
	r.Flavour = "base"
	assert.Equal(t, build().Compiled, 1)

	// A folder of an older nestbed does not say by what it was linked.
	state, err := os.ReadFile(first.Dir + ".json")
	assert.NilError(t, err)
	old := strings.Replace(string(state), `"linker": "GNU ld 9.100",`, "", 1)
	assert.Assert(t, old != string(state))
	put(t, first.Dir+".json", old)
	assert.Equal(t, build().Compiled, 0)
}

func configured(t *testing.T, dir string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "configured"))
	assert.NilError(t, err)
	return strings.Count(string(text), "\n")
}

// A build from nothing is measured by the last one of its flavour, and goes on counting where it was interrupted.
// A flavour starts with what base compiled, and compiles what its options change.
func TestFlavourStartsFromBase(t *testing.T) {
	tr := newTrial(t)
	r := Request{Tree: tinyTree(t, "true"), Flavour: "kvm-y", Fragments: []string{allBuiltIn(t)}}
	alone, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, alone.Compiled, 1, "no base: from nothing")

	r.Tree = tinyTree(t, "true")
	r.Flavour = "base"
	_, err = tr.Build(t.Context(), r)
	assert.NilError(t, err)
	r.Flavour = "kvm-y"
	seeded, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, seeded.Compiled, 0)
	assert.Equal(t, seeded.Kernel.Option("LOCALVERSION"), "-kvm-y", "configured for itself")
	assert.Assert(t, seeded.Dir != alone.Dir)

	// The base of other sources, or one that is not whole, is nothing to start from.
	r.Tree, r.Flavour = tinyTree(t, "exit 1"), "base"
	_, err = tr.Build(t.Context(), r)
	assert.Assert(t, err != nil)
	put(t, filepath.Join(r.Tree, "main.c"), "true")
	r.Flavour = "kvm-y"
	again, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, again.Compiled, 1)
}

// What a folder that was removed had been configured as says nothing of the copy in its place; nor is a base that was
// removed something to copy.
func TestFlavourAfterPrune(t *testing.T) {
	tr := newTrial(t)
	r := Request{Tree: tinyTree(t, "true"), Fragments: []string{allBuiltIn(t)}}
	build := func(flavour string) Result {
		t.Helper()
		r.Flavour = flavour
		made, err := tr.Build(t.Context(), r)
		assert.NilError(t, err)
		return made
	}
	build("base")
	build("kvm-y")
	_, err := Prune(tr.Cache)
	assert.NilError(t, err)
	assert.Equal(t, build("kvm-y").Compiled, 1, "no base: from nothing")
	_, err = Prune(tr.Cache)
	assert.NilError(t, err)
	build("base")
	assert.Equal(t, build("kvm-y").Kernel.Option("LOCALVERSION"), "-kvm-y", "configured for itself")

	// The same where the user removed the folder.
	assert.NilError(t, os.RemoveAll(filepath.Join(tr.Cache.Builds(), "linux", "kvm-y+tiny")))
	assert.Equal(t, build("kvm-y").Kernel.Option("LOCALVERSION"), "-kvm-y")
}

// A build that is killed between the copy and its own configuration does not take base's for its own.
func TestKilledBehindTheSeed(t *testing.T) {
	tr := newTrial(t)
	r := Request{Tree: tinyTree(t, "true"), Fragments: []string{allBuiltIn(t)}}
	for _, flavour := range []string{"base", "kvm-y"} {
		r.Flavour = flavour
		_, err := tr.Build(t.Context(), r)
		assert.NilError(t, err)
	}
	out := filepath.Join(tr.Cache.Builds(), "linux", "kvm-y+tiny")
	assert.NilError(t, os.RemoveAll(out))
	assert.NilError(t, os.MkdirAll(out, 0o755))
	tree, err := source.Open(t.Context(), tr.Cache, r.Tree, "", nil)
	assert.NilError(t, err)
	defer tree.Close()
	tools, err := FindToolchain(t.Context())
	assert.NilError(t, err)
	j := &job{tree: tree, tools: tools, out: out, logName: out + ".log", stateName: out + ".json", say: func(string) {}}
	j.load()
	assert.NilError(t, j.seed(t.Context())) // and then SIGKILL
	assert.Assert(t, j.state.Seeded)
	made, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, made.Kernel.Option("LOCALVERSION"), "-kvm-y")
}

func TestProgressOfABuildFromNothing(t *testing.T) {
	tr := newTrial(t)
	own := allBuiltIn(t)
	_, err := tr.Build(t.Context(), Request{Tree: tinyTree(t, "true"), Fragments: []string{own}})
	assert.NilError(t, err)

	other := tinyTree(t, "false")
	var steps [][2]int
	tr.Progress.Compiled = func(done, of int, _ string) { steps = append(steps, [2]int{done, of}) }
	_, err = tr.Build(t.Context(), Request{Tree: other, Fragments: []string{own}})
	assert.Assert(t, errors.As(err, new(*FailedError)), "%v", err)
	put(t, filepath.Join(other, "main.c"), "true")
	_, err = tr.Build(t.Context(), Request{Tree: other, Fragments: []string{own}})
	assert.NilError(t, err)
	put(t, filepath.Join(other, "main.c"), "true # edited")
	assert.NilError(t, os.Chtimes(filepath.Join(other, "main.c"), time.Now().Add(time.Hour), time.Now().Add(time.Hour)))
	_, err = tr.Build(t.Context(), Request{Tree: other, Fragments: []string{own}})
	assert.NilError(t, err)
	assert.DeepEqual(t, steps, [][2]int{{1, 1}, {2, 1}, {1, 0}})
}

func TestOptionThatIsNotHad(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, "true")
	put(t, filepath.Join(tree, "drop"), "CONFIG_KVM=\nCONFIG_VMGENID\nCONFIG_VFIO_MDEV_DEVICE\n")
	_, err := tr.Build(t.Context(), Request{Tree: tree})
	var options *OptionsError
	assert.Assert(t, errors.As(err, &options), "%v", err)
	assert.DeepEqual(t, options.Missing, []string{
		"CONFIG_VMGENID: want y (console.config, line 19), have n: this tree has no such option",
		"CONFIG_KVM: want m (kvm.config, line 3), have n: needs X86_LOCAL_APIC [X86_LOCAL_APIC=n] (arch/x86/Kconfig)",
	})
	// Wrong again, not taken for done.
	_, err = tr.Build(t.Context(), Request{Tree: tree})
	assert.Assert(t, errors.As(err, &options), "%v", err)
}

func TestFirstErrorIsShown(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, `cat >&2 <<'END'
virt/kvm/vfio.c: In function 'kvm_vfio_file_add':
virt/kvm/vfio.c:150:9: error: 'kvf' undeclared (first use in this function)
  150 |         kvf->file = get_file(filp);
      |         ^~~
virt/kvm/vfio.c:150:9: note: each undeclared identifier is reported only once
virt/kvm/other.c:1:1: error: another
END
exit 1
`)
	_, err := tr.Build(t.Context(), Request{Tree: tree, Fragments: []string{allBuiltIn(t)}})
	var failed *FailedError
	assert.Assert(t, errors.As(err, &failed), "%v", err)
	lines := strings.Split(failed.First, "\n")
	assert.Equal(t, lines[0], "virt/kvm/vfio.c:150:9: error: 'kvf' undeclared (first use in this function)")
	assert.Assert(t, !strings.Contains(failed.First, "other.c"), failed.First)
	log, err := os.ReadFile(failed.Log)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(string(log), "virt/kvm/other.c:1:1: error: another"))
}

func TestFullDiskIsSaid(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, `echo "fatal error: error writing to /tmp/x.s: No space left on device" >&2; exit 1`)
	_, err := tr.Build(t.Context(), Request{Tree: tree, Fragments: []string{allBuiltIn(t)}})
	assert.ErrorIs(t, err, syscall.ENOSPC)
	assert.Assert(t, !errors.As(err, new(*FailedError)), "it is not the kernel's fault")
}

// Want of memory or processes is the host's fault as well: no patch is to be blamed for it.
func TestHostThatIsTooSmallIsNotTheKernelsFault(t *testing.T) {
	tr := newTrial(t)
	for _, words := range []string{
		"gcc: fatal error: Killed signal terminated program cc1", "cc1: out of memory allocating 65536 bytes after a total of 1 bytes",
		"make[3]: fork: Resource temporarily unavailable", "scripts/link-vmlinux.sh: line 74: 12345 Killed                  ld -o vmlinux",
	} {
		tree := tinyTree(t, `echo "`+words+`" >&2; exit 1`)
		_, err := tr.Build(t.Context(), Request{Tree: tree, Fragments: []string{allBuiltIn(t)}})
		assert.ErrorContains(t, err, words)
		assert.ErrorContains(t, err, "fewer compilers at once")
		assert.Assert(t, !errors.As(err, new(*FailedError)), "%v", err)
	}
	// That an error's source line speaks of it is no want of it.
	tree := tinyTree(t, `echo "a.c:1:1: error: x" >&2; echo '    1 | perror("Cannot allocate memory' >&2; exit 1`)
	_, err := tr.Build(t.Context(), Request{Tree: tree, Fragments: []string{allBuiltIn(t)}})
	assert.Assert(t, errors.As(err, new(*FailedError)), "%v", err)
}

// ^C ends make's whole group; the next build goes on.
func TestInterrupt(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, `echo started >$1/pid; echo $$ >>$1/pid; sleep 60`)
	r := Request{Tree: tree, Fragments: []string{allBuiltIn(t)}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := tr.Build(ctx, r)
		done <- err
	}()
	pid := filepath.Join(tr.Cache.Builds(), "linux", "base+tiny", "pid")
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if text, _ := os.ReadFile(pid); strings.Count(string(text), "\n") == 2 {
			return poll.Success()
		}
		return poll.Continue("not compiling yet")
	}, poll.WithTimeout(30*time.Second), poll.WithDelay(time.Millisecond))
	text, err := os.ReadFile(pid)
	assert.NilError(t, err)
	cancel()
	assert.ErrorIs(t, <-done, context.Canceled)
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		stat, err := os.ReadFile("/proc/" + strings.Fields(string(text))[1] + "/stat")
		if errors.Is(err, os.ErrNotExist) || strings.Contains(string(stat), ") Z ") {
			return poll.Success()
		}
		return poll.Continue("the compiler lives")
	}, poll.WithTimeout(10*time.Second), poll.WithDelay(time.Millisecond))

	put(t, filepath.Join(tree, "main.c"), "true")
	_, err = tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(strings.Join(tr.said, "\n"), "was killed"), "make had the time to tidy up")
}

// After SIGKILL, what was being written is compiled again.
func TestKilledBuildIsRepaired(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, "true")
	r := Request{Tree: tree, Fragments: []string{allBuiltIn(t)}}
	first, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	old := filepath.Join(first.Dir, "old.o")
	put(t, old, "of long ago")
	long := time.Now().Add(-time.Hour)
	assert.NilError(t, os.Chtimes(old, long, long))
	object := filepath.Join(first.Dir, "main.o")
	put(t, object, "tr") // newer than its source, and cut
	state, err := os.ReadFile(first.Dir + ".json")
	assert.NilError(t, err)
	put(t, first.Dir+".json", strings.Replace(string(state), `"whole": true`, `"whole": true, "running": true`, 1))

	second, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, second.Compiled, 1)
	text, err := os.ReadFile(object)
	assert.NilError(t, err)
	assert.Equal(t, string(text), "true")
	_, err = os.Stat(old)
	assert.NilError(t, err)
	assert.Assert(t, is.Contains(strings.Join(tr.said, "\n"), "the last build in this folder was killed"))
}

// A second build in one folder waits and says so.
func TestTwoBuildsAtOnce(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, `while [ ! -e $1/go ]; do sleep 0.01; done`)
	r := Request{Tree: tree, Fragments: []string{allBuiltIn(t)}}
	out := filepath.Join(tr.Cache.Builds(), "linux", "base+tiny")
	done := make(chan error, 1)
	go func() {
		_, err := tr.Build(t.Context(), r)
		done <- err
	}()
	poll.WaitOn(t, poll.FileExists(filepath.Join(out, "configured")), poll.WithTimeout(30*time.Second), poll.WithDelay(time.Millisecond))
	waited := false
	other := &Builder{Cache: tr.Cache, Progress: Progress{Say: func(s string) {
		if strings.HasPrefix(s, "waiting for another build in ") {
			waited = true
			put(t, filepath.Join(out, "go"), "")
		}
	}}}
	_, err := other.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.NilError(t, <-done)
	assert.Assert(t, waited)
}

func TestMissingToolsAreNamedTogether(t *testing.T) {
	needBuildTools(t)
	dir := t.TempDir()
	for _, name := range []string{"make", "gcc", "ld"} {
		full, err := exec.LookPath(name)
		assert.NilError(t, err)
		assert.NilError(t, os.Symlink(full, filepath.Join(dir, name)))
	}
	t.Setenv("PATH", dir)
	err := needTools(t.Context())
	assert.ErrorContains(t, err, "building a kernel needs flex, bison, bc")
	assert.ErrorContains(t, err, "apt-get install -y --no-install-recommends flex bison bc")
}

func TestRequestsThatCannotBe(t *testing.T) {
	tr := newTrial(t)
	tree := tinyTree(t, "true")
	bad := filepath.Join(t.TempDir(), "bad.config")
	put(t, bad, "KVM=y\n")
	built := t.TempDir()
	put(t, filepath.Join(built, "arch/x86/boot/bzImage"), "")
	for _, c := range []struct {
		r    Request
		want string
	}{
		{Request{Tree: tree, Flavour: "kcsan"}, `no flavour "kcsan"`},
		{Request{Tree: tree, Fragments: []string{"/nonexistent.config"}}, "fragment: open /nonexistent.config"},
		{Request{Tree: tree, Fragments: []string{bad}}, `line 1: "KVM=y"`},
		{Request{Tree: built, Flavour: "kasan"}, "is the output of a build, without sources"},
	} {
		_, err := tr.Build(t.Context(), c.r)
		assert.ErrorContains(t, err, c.want)
	}
	makefile := strings.Replace(fakeMakefile, "PATCHLEVEL = 12", "PATCHLEVEL = 1", 1)
	put(t, filepath.Join(tree, "Makefile"), makefile)
	_, err := tr.Build(t.Context(), Request{Tree: tree, Flavour: "preempt-rt"})
	assert.ErrorContains(t, err, "flavour preempt-rt needs Linux 6.12 or later")
}

// Folders go, kernels stay; a build that is going on keeps its own.
func TestPrune(t *testing.T) {
	tr := newTrial(t)
	r := Request{Tree: tinyTree(t, "true"), Fragments: []string{allBuiltIn(t)}}
	first, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	p, err := Prune(tr.Cache)
	assert.NilError(t, err)
	assert.Equal(t, p.Folders, 1)
	_, err = os.Stat(first.Dir)
	assert.Assert(t, os.IsNotExist(err))
	_, err = tr.Cache.Resolve(t.Context(), first.Kernel.Spec, nil)
	assert.NilError(t, err)
	again, err := tr.Build(t.Context(), r)
	assert.NilError(t, err)
	assert.Equal(t, again.Kernel.Hash, first.Kernel.Hash)
}

func TestComplaints(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"old compiler", `***
*** C compiler is too old.
***   Your gcc version:    4.8.5
***   Minimum gcc version: 5.1.0
***
scripts/Kconfig.include:44: Sorry, this C compiler is not supported.
make[2]: *** [/src/scripts/kconfig/Makefile:85: olddefconfig] Error 1
`, "C compiler is too old.\nYour gcc version:    4.8.5\nMinimum gcc version: 5.1.0"},
		{"modpost", `  MODPOST Module.symvers
ERROR: modpost: "kvm_put_kvm" [drivers/vfio/vfio.ko] undefined!
make[3]: *** [scripts/Makefile.modpost:145: Module.symvers] Error 1
`, `ERROR: modpost: "kvm_put_kvm" [drivers/vfio/vfio.ko] undefined!`},
		{"crooked path", "arch/x86/kvm/../../../virt/kvm/vfio.c:20:7: error: unknown type name 'x'\n   20 | x y;\n", "virt/kvm/vfio.c:20:7: error: unknown type name 'x'\n   20 | x y;"},
		{"linker", `ld: vmlinux.o: in function ` + "`f':" + `
main.c:(.text+0x1): undefined reference to ` + "`g'" + `
make: *** [Makefile:1: vmlinux] Error 1
`, "main.c:(.text+0x1): undefined reference to `g'"},
		{"no rule", "make[2]: *** No rule to make target 'x.o', needed by 'built-in.a'.  Stop.\n", "make[2]: *** No rule to make target 'x.o', needed by 'built-in.a'.  Stop."},
		{"nothing known", "some words\nmore words\n", "some words\nmore words"},
	} {
		var l listener
		l.log = &strings.Builder{}
		_, err := l.Write([]byte(c.text))
		assert.NilError(t, err)
		l.end()
		assert.Equal(t, l.first(), c.want, c.name)
	}
}
