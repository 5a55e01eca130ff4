package kernels

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/nestbed/nestbed/kernels/flock"
)

func testCache(t testing.TB) *Cache {
	t.Helper()
	c, err := Open(filepath.Join(t.TempDir(), "nestbed", "v1", "kernels"))
	assert.NilError(t, err)
	return c
}

func resolve(t testing.TB, c *Cache, spec string) Kernel {
	t.Helper()
	k, err := c.Resolve(t.Context(), spec, nil)
	assert.NilError(t, err)
	assertIdle(t, c)
	return k
}

// assertIdle checks that an import left nothing behind.
func assertIdle(t testing.TB, c *Cache) {
	t.Helper()
	left, err := os.ReadDir(c.path("tmp"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, "%v", left)
}

// inPath leaves the test with a PATH of only these programs.
func inPath(t *testing.T, programs ...string) {
	t.Helper()
	dir := t.TempDir()
	for _, p := range programs {
		full, err := exec.LookPath(p)
		assert.NilError(t, err)
		assert.NilError(t, os.Symlink(full, filepath.Join(dir, p)))
	}
	t.Setenv("PATH", dir)
}

func TestImportPackage(t *testing.T) {
	for _, suffix := range []string{".xz", ".zst", ".gz", ""} {
		t.Run("data.tar"+suffix, func(t *testing.T) {
			if suffix == ".xz" {
				inPath(t) // ours; the program's turn is in TestImportLayoutsAgree
			}
			deb := writeDeb(t, "linux.deb", fakeDeb(t, "Package: linux\n", suffix, fakeKernel(t, fakeRelease)))
			c := testCache(t)
			k := resolve(t, c, deb)
			assert.Equal(t, k.Spec, deb)
			assert.Equal(t, k.Release, fakeRelease)
			assert.Equal(t, k.Version(), Version{6, 9})
			assert.Equal(t, k.Origin, "linux.deb")
			image, err := os.ReadFile(k.Vmlinuz())
			assert.NilError(t, err)
			assert.DeepEqual(t, image, fakeImage(fakeRelease))

			modules, err := k.Modules()
			assert.NilError(t, err)
			assert.DeepEqual(t, moduleNames(modules), []string{"ccp", "irqbypass", "kvm", "kvm_amd", "rng_core"})
			assert.DeepEqual(t, modules[3].Deps, []string{"kvm", "ccp"})
			assert.DeepEqual(t, modules[3].Softdeps, []string{"rng_core", "absent"})
			content, err := os.ReadFile(modules[0].File)
			assert.NilError(t, err)
			assert.DeepEqual(t, content, ko("ccp", fakeRelease, ""))
		})
	}
}

func TestKernelAnswers(t *testing.T) {
	k := resolve(t, testCache(t), tree(t, fakeKernel(t, fakeRelease)))
	for name, want := range map[string]string{"KVM": "m", "CONFIG_VIRTIO_PCI": "y", "IOMMUFD": "n", "NR_CPUS": "64", "LOCALVERSION": `-a"b`, "NEVER_HEARD_OF": "n"} {
		assert.Equal(t, k.Option(name), want, name)
	}
	for name, want := range map[string]Presence{"kvm": AsModule, "kvm-amd": AsModule, "virtio_pci": BuiltIn, "crc_t10": BuiltIn,
		"iommufd": Absent, "lkdtm": Absent, "snd": Unknown} {
		assert.Equal(t, k.Has(name), want, name)
	}

	order, err := k.LoadOrder("kvm-amd", "virtio_pci", "kvm")
	assert.NilError(t, err)
	assert.DeepEqual(t, moduleNames(order), []string{"rng_core", "irqbypass", "kvm", "ccp", "kvm_amd"})
	_, err = k.LoadOrder("lkdtm")
	assert.Error(t, err, "kernel "+fakeRelease+" has no module lkdtm (absent)")
	_, err = Kernel{}.LoadOrder("kvm")
	assert.ErrorContains(t, err, "not an imported kernel")
}

func TestKernelWithoutConfigCannotTell(t *testing.T) {
	files := fakeKernel(t, fakeRelease)
	delete(files, "boot/config-"+fakeRelease)
	delete(files, "usr/share/doc/linux/config") // in a folder any config counts
	delete(files, "lib/modules/"+fakeRelease+"/modules.builtin")
	var said []string
	k, err := testCache(t).Resolve(t.Context(), tree(t, files), func(s string) { said = append(said, s) })
	assert.NilError(t, err)
	assert.Equal(t, k.Option("KVM"), "")
	assert.Equal(t, k.Has("kvm"), AsModule)
	assert.Equal(t, k.Has("virtio_pci"), Unknown)
	assert.Assert(t, is.Contains(strings.Join(said, "\n"), "came without its configuration"))
}

func TestLoadOrderCircles(t *testing.T) {
	files := map[string][]byte{
		"vmlinuz":     fakeImage(fakeRelease),
		"kvm.ko":      ko("kvm", fakeRelease, "vfio", "softdep=pre: kvm_amd"),
		"kvm-amd.ko":  ko("kvm_amd", fakeRelease, "kvm"), // soft circle: allowed
		"vfio.ko":     ko("vfio", fakeRelease, ""),
		"vfio-pci.ko": ko("vfio_pci", fakeRelease, "igb"),
		"igb.ko":      ko("igb", fakeRelease, "vfio_pci"), // hard circle: depmod refuses it too
	}
	k := resolve(t, testCache(t), tree(t, files))
	order, err := k.LoadOrder("kvm_amd")
	assert.NilError(t, err)
	assert.DeepEqual(t, moduleNames(order), []string{"vfio", "kvm", "kvm_amd"})
	_, err = k.LoadOrder("igb")
	assert.ErrorContains(t, err, "depend on each other: igb -> vfio_pci -> igb")
}

// The same kernel is the same entry, whatever way it came.
func TestImportLayoutsAgree(t *testing.T) {
	c := testCache(t)
	files := fakeKernel(t, fakeRelease)
	folder := tree(t, files)
	var packages []string
	split := []map[string][]byte{{}, {}, {}}
	for name, data := range files {
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			split[0]["usr/lib/modules/"+fakeRelease+"/vmlinuz"] = data
		case strings.HasPrefix(name, "boot/config-"):
			split[2]["usr/lib/modules/"+fakeRelease+"/config"] = data
		default:
			split[1]["usr/"+name] = data
		}
	}
	for i, part := range split {
		packages = append(packages, writeDeb(t, string(rune('a'+i))+".deb", fakeDeb(t, "", ".xz", part)))
	}
	a := resolve(t, c, folder)
	b := resolve(t, c, strings.Join(packages, ","))
	assert.Equal(t, a.Hash, b.Hash)
	assert.Equal(t, a.Dir, b.Dir)

	kernels, err := c.List()
	assert.NilError(t, err)
	assert.Equal(t, len(kernels), 1)
	assert.Equal(t, len(kernels[0].Specs), 2)

	// Another byte is another kernel.
	assert.NilError(t, os.WriteFile(filepath.Join(folder, "lib/modules", fakeRelease, "kernel/arch/x86/kvm/kvm.ko"), ko("kvm", fakeRelease, "irqbypass", "x=y"), 0o644))
	d := resolve(t, c, folder)
	assert.Assert(t, d.Hash != a.Hash)
}

// A folder may hold more than the one kernel's files.
func TestImportFolderTakesWhatBelongsTogether(t *testing.T) {
	files := fakeKernel(t, fakeRelease)
	for name, data := range fakeKernel(t, "6.8.0-other") {
		if !strings.HasPrefix(name, "boot/vmlinuz") {
			files[name] = data
		}
	}
	delete(files, "boot/config-"+fakeRelease)
	files["config"] = []byte("CONFIG_KVM=m\nCONFIG_LOCALVERSION=\"mine\"\n")
	modules := "lib/modules/" + fakeRelease + "/"
	updated := ko("kvm", fakeRelease, "irqbypass", "version=updated")
	files[modules+"updates/dkms/kvm.ko"] = updated
	files[modules+"weak-updates/kvm.ko"] = ko("kvm", fakeRelease, "irqbypass", "version=weak")
	k := resolve(t, testCache(t), tree(t, files))
	assert.Equal(t, k.Option("LOCALVERSION"), "mine")
	order, err := k.LoadOrder("kvm")
	assert.NilError(t, err)
	data, err := os.ReadFile(order[1].File)
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(data, updated), "depmod prefers updates/")

	delete(files, "config")
	delete(files, "usr/share/doc/linux/config")
	k = resolve(t, testCache(t), tree(t, files))
	assert.Equal(t, k.Option("KVM"), "", "another kernel's configuration is none")
}

func TestImportPackageLeavesDocumentation(t *testing.T) {
	files := fakeKernel(t, fakeRelease)
	files["usr/share/doc/linux/examples/vmlinuz"] = fakeImage("1.2.3")
	deb := writeDeb(t, "linux.deb", fakeDeb(t, "", "", files))
	assert.Equal(t, resolve(t, testCache(t), deb).Release, fakeRelease)
}

func TestImportPassesOnWhatXzSays(t *testing.T) {
	bin := t.TempDir()
	script := "#!/bin/sh\nhead -c 100 >/dev/null\necho 'xz: (stdin): Compressed data is corrupt' >&2\nexit 1\n"
	assert.NilError(t, os.WriteFile(filepath.Join(bin, "xz"), []byte(script), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	deb := writeDeb(t, "linux.deb", fakeDeb(t, "", ".xz", fakeKernel(t, fakeRelease)))
	_, err := testCache(t).Resolve(t.Context(), deb, nil)
	assert.ErrorContains(t, err, "read package linux.deb: xz: exit status 1: xz: (stdin): Compressed data is corrupt")
}

func TestImportBuildTree(t *testing.T) {
	build := func(order string) map[string][]byte {
		return map[string][]byte{
			"arch/x86/boot/bzImage":         fakeImage(fakeRelease),
			".config":                       []byte(fakeConfig),
			"modules.builtin":               []byte("drivers/virtio/virtio_pci.ko\n"),
			"modules.order":                 []byte(order),
			"arch/x86/kvm/kvm.ko":           ko("kvm", fakeRelease, "irqbypass"),
			"arch/x86/kvm/kvm-amd.ko":       ko("kvm_amd", fakeRelease, "kvm"),
			"virt/lib/irqbypass.ko":         ko("irqbypass", fakeRelease, ""),
			"kernel/power/lkdtm.ko":         ko("lkdtm", fakeRelease, ""),
			"drivers/vfio/vfio.ko":          ko("vfio", "6.8.0-stale", ""), // of an older build: not in modules.order
			"drivers/net/e1000e.ko":         ko("e1000e", "6.8.0-stale", ""),
			"tools/testing/x/vmlinuz":       []byte("not the image"),
			"include/config/auto.conf":      nil,
			"scripts/kconfig/tests/.config": []byte("CONFIG_KVM=y\n"),
		}
	}
	for name, order := range map[string]string{
		"objects":     "arch/x86/kvm/kvm.o\narch/x86/kvm/kvm-amd.o\nvirt/lib/irqbypass.o\nkernel/power/lkdtm.o\ndrivers/gone.o\n../../etc/passwd.o\n",
		"modules":     "arch/x86/kvm/kvm.ko\narch/x86/kvm/kvm-amd.ko\nvirt/lib/irqbypass.ko\nkernel/power/lkdtm.ko\n",
		"with prefix": "kernel/arch/x86/kvm/kvm.ko\nkernel/arch/x86/kvm/kvm-amd.ko\nkernel/virt/lib/irqbypass.ko\nkernel/kernel/power/lkdtm.ko\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, build(order))
			k := resolve(t, testCache(t), dir)
			modules, err := k.Modules()
			assert.NilError(t, err)
			assert.DeepEqual(t, moduleNames(modules), []string{"irqbypass", "kvm", "kvm_amd", "lkdtm"})
			assert.Equal(t, k.Option("KVM"), "m")
			assert.Equal(t, k.Origin, dir)
		})
	}
}

func TestImportBuildTreeAgain(t *testing.T) {
	files := map[string][]byte{"arch/x86/boot/bzImage": fakeImage("6.9.1"), "modules.order": []byte("a/kvm.o\n"), "a/kvm.ko": ko("kvm", "6.9.1", "")}
	dir := tree(t, files)
	c := testCache(t)
	first := resolve(t, c, dir)
	assert.Equal(t, resolve(t, c, dir).Hash, first.Hash)
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "a/kvm.ko"), ko("kvm", "6.9.1", "", "rebuilt=yes"), 0o644))
	assert.Assert(t, resolve(t, c, dir).Hash != first.Hash, "a rebuilt module must be seen")
}

func TestImportStripsDebugInformation(t *testing.T) {
	files := map[string][]byte{"vmlinuz": fakeImage("6.9.1"), "kvm.ko": fakeModule([]string{"name=kvm", "vermagic=6.9.1 SMP"}, ".debug_info")}
	t.Run("strip", func(t *testing.T) {
		bin := t.TempDir()
		script := "#!/bin/sh\n[ \"$1\" = --strip-debug ] && printf stripped >\"$2\"\n"
		assert.NilError(t, os.WriteFile(filepath.Join(bin, "strip"), []byte(script), 0o755))
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		modules, err := resolve(t, testCache(t), tree(t, files)).Modules()
		assert.NilError(t, err)
		data, err := os.ReadFile(modules[0].File)
		assert.NilError(t, err)
		assert.Equal(t, string(data), "stripped")
	})
	t.Run("no strip", func(t *testing.T) {
		inPath(t)
		var said []string
		_, err := testCache(t).Resolve(t.Context(), tree(t, files), func(s string) { said = append(said, s) })
		assert.NilError(t, err)
		assert.Assert(t, is.Contains(strings.Join(said, "\n"), "apt-get install binutils"))
	})
}

func TestImportRunning(t *testing.T) {
	files := fakeKernel(t, "6.9.1-run")
	for name, data := range fakeKernel(t, "6.9.2-newer") {
		files[name] = data
	}
	c := testCache(t)
	c.root = tree(t, files)
	c.release = func() (string, error) { return "6.9.1-run", nil }
	assert.NilError(t, os.Symlink(c.root, filepath.Join(c.root, "lib/modules/6.9.1-run/build")))
	k := resolve(t, c, "running")
	assert.Equal(t, k.Release, "6.9.1-run")
	modules, err := k.Modules()
	assert.NilError(t, err)
	assert.Equal(t, len(modules), 5)

	c.release = func() (string, error) { return "6.0.0-elsewhere", nil }
	_, err = c.Resolve(t.Context(), "running", nil)
	assert.ErrorContains(t, err, "no vmlinuz of the running kernel 6.0.0-elsewhere")
	assert.ErrorContains(t, err, "give a version (debian:6.12) or a folder")
}

func TestImportErrors(t *testing.T) {
	kernel := func(edit func(map[string][]byte)) string {
		files := fakeKernel(t, fakeRelease)
		edit(files)
		return tree(t, files)
	}
	modules := "lib/modules/" + fakeRelease + "/kernel/"
	whole := fakeDeb(t, "", ".xz", fakeKernel(t, fakeRelease))
	damaged := slices.Clone(whole)
	for i := range 40 {
		damaged[len(damaged)-200+i] ^= 0x5a
	}
	var absent *SpecError
	for name, c := range map[string]struct{ spec, want string }{
		"no such folder":    {filepath.Join(t.TempDir(), "x"), "no such file or folder; want debian:6.12"},
		"no such package":   {filepath.Join(t.TempDir(), "x.deb"), "no such file or folder"},
		"a file, no folder": {writeDeb(t, "x.txt", nil), "is not a folder"},
		"empty folder":      {tree(t, nil), "no vmlinuz in "},
		"not a package":     {writeDeb(t, "x.deb", []byte("hello")), "read package x.deb: no Debian package, or a damaged one: fetch it again"},
		"no data":           {writeDeb(t, "x.deb", writeAr(arMember{"debian-binary", []byte("2.0\n")})), "no data.tar: no Debian package, or a damaged one: fetch it again"},
		"empty package":     {writeDeb(t, "x.deb", nil), "read package x.deb: no Debian package"},
		"a folder, no .deb": {filepath.Join(tree(t, map[string][]byte{"x.deb/y": nil}), "x.deb"), "x.deb: not a file"},
		"image cut short":   {tree(t, map[string][]byte{"vmlinuz": fakeImage("6.9.1")[:1000]}), "read vmlinuz: a bzImage that was cut short"},
		"odd compression":   {writeDeb(t, "x.deb", writeAr(arMember{"data.tar.lzma", []byte("2.0\n")})), "data.tar.lzma: unknown compression"},
		"package cut short": {writeDeb(t, "x.deb", whole[:len(whole)*2/3]), "fetch it again (dpkg-deb --contents "},
		"package damaged":   {writeDeb(t, "x.deb", damaged), "read package x.deb: "},
		"only the image":    {writeDeb(t, "x.deb", fakeDeb(t, "", "", map[string][]byte{"boot/vmlinuz-6.9.1": fakeImage("6.9.1")})), "give linux-binary, linux-modules and linux-base"},
		"two kernels": {kernel(func(f map[string][]byte) { f["boot/vmlinuz-6.1.0"] = fakeImage("6.1.0") }),
			"holds 2 kernels (6.1.0, " + fakeRelease + "): give a folder with one"},
		"vmlinux":      {tree(t, map[string][]byte{"vmlinuz": fakeModule(nil)}), "read vmlinuz: an ELF vmlinux, not a bzImage"},
		"tree unbuilt": {tree(t, map[string][]byte{"arch/x86/Kconfig": nil}), "has no arch/x86/boot/bzImage: run make bzImage modules there"},
		"tree no modules": {tree(t, map[string][]byte{"arch/x86/boot/bzImage": fakeImage("6.9.1"), ".config": []byte(fakeConfig)}),
			"the configuration says CONFIG_KVM=m, but there is no module in "},
		"dependency missing": {kernel(func(f map[string][]byte) { delete(f, modules+"virt/lib/irqbypass.ko.zst") }),
			"module kvm needs irqbypass, which is not in "},
		"other release": {kernel(func(f map[string][]byte) { f[modules+"arch/x86/kvm/kvm.ko"] = ko("kvm", "6.9.2", "irqbypass") }),
			"kvm.ko is of 6.9.2, but the vmlinuz of " + fakeRelease},
		"other name": {kernel(func(f map[string][]byte) { f[modules+"arch/x86/kvm/kvm.ko"] = ko("vfio", fakeRelease, "") }),
			"kvm.ko says that it is module vfio"},
		"module damaged": {kernel(func(f map[string][]byte) { f[modules+"arch/x86/kvm/kvm.ko"] = []byte("x") }), "kvm.ko: read module: "},
		"module cut short": {kernel(func(f map[string][]byte) {
			full := f[modules+"drivers/crypto/ccp/ccp.ko.xz"]
			f[modules+"drivers/crypto/ccp/ccp.ko.xz"] = full[:len(full)/2]
		}), "ccp.ko.xz: "},
	} {
		t.Run(name, func(t *testing.T) {
			cache := testCache(t)
			_, err := cache.Resolve(t.Context(), c.spec, nil)
			assert.ErrorContains(t, err, c.want)
			assert.Assert(t, !strings.Contains(err.Error(), "\n"), "one line: %v", err)
			assert.Equal(t, errors.As(err, &absent), strings.HasPrefix(name, "no such"))
			assertIdle(t, cache)
			kernels, err := cache.List()
			assert.NilError(t, err)
			assert.Equal(t, len(kernels), 0)
		})
	}
}

func TestImportCancelled(t *testing.T) {
	c := testCache(t)
	deb := writeDeb(t, "linux.deb", fakeDeb(t, "", ".xz", fakeKernel(t, fakeRelease)))
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Resolve(ctx, deb, func(s string) {
		if strings.HasPrefix(s, "unpacking") {
			cancel()
		}
	})
	assert.ErrorIs(t, err, context.Canceled)
	assertIdle(t, c)
}

func TestResolveRemembersPackages(t *testing.T) {
	c := testCache(t)
	deb := writeDeb(t, "linux.deb", fakeDeb(t, "", "", fakeKernel(t, fakeRelease)))
	unpacked := 0
	count := func(s string) {
		if strings.HasPrefix(s, "unpacking") {
			unpacked++
		}
	}
	get := func(f func(context.Context, string, func(string)) (Kernel, error)) Kernel {
		k, err := f(t.Context(), deb, count)
		assert.NilError(t, err)
		return k
	}
	first := get(c.Resolve)
	again := get(c.Resolve)
	assert.Equal(t, again.Hash, first.Hash)
	assert.Equal(t, again.Spec, deb)
	assert.Equal(t, unpacked, 1)
	get(c.Add)
	assert.Equal(t, unpacked, 2)

	files := fakeKernel(t, "6.9.9-replaced")
	assert.NilError(t, os.WriteFile(deb, fakeDeb(t, "", "", files), 0o644))
	assert.Equal(t, get(c.Resolve).Release, "6.9.9-replaced")
	assert.Equal(t, unpacked, 3)

	// An entry that is gone is imported again.
	k := get(c.Resolve)
	assert.NilError(t, os.RemoveAll(k.Dir))
	assert.Equal(t, get(c.Resolve).Hash, k.Hash)
	assert.Equal(t, unpacked, 4)
}

func TestTwoImportsAtOnce(t *testing.T) {
	c := testCache(t)
	deb := writeDeb(t, "linux.deb", fakeDeb(t, "", ".xz", fakeKernel(t, fakeRelease)))
	folder := tree(t, fakeKernel(t, fakeRelease))
	var mu sync.Mutex
	unpacked := 0
	var done sync.WaitGroup
	for i := range 8 {
		spec := deb
		if i%2 == 1 {
			spec = folder // not the same SPEC, but the same entry
		}
		done.Go(func() {
			own, err := Open(c.dir) // as another process would
			if err == nil {
				_, err = own.Resolve(t.Context(), spec, func(s string) {
					mu.Lock()
					defer mu.Unlock()
					if strings.HasPrefix(s, "unpacking") {
						unpacked++
					}
				})
			}
			mu.Lock()
			defer mu.Unlock()
			assert.Check(t, err)
		})
	}
	done.Wait()
	assert.Equal(t, unpacked, 1)
	kernels, err := c.List()
	assert.NilError(t, err)
	assert.Equal(t, len(kernels), 1)
	assertIdle(t, c)
}

func TestKilledImport(t *testing.T) {
	c := testCache(t)
	deb := writeDeb(t, "linux.deb", fakeDeb(t, "", ".xz", fakeKernel(t, fakeRelease)))
	child := exec.Command(os.Args[0], c.dir, deb)
	child.Env = append(os.Environ(), childEnv+"=1")
	out, err := child.StdoutPipe()
	assert.NilError(t, err)
	assert.NilError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	assert.NilError(t, err)
	assert.Equal(t, line, "importing\n")

	// While it lives, nobody takes its folder away, and the same import waits.
	_, err = c.Prune(nil)
	assert.NilError(t, err)
	left, err := os.ReadDir(c.path("tmp"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 1)
	ctx, cancel := context.WithCancel(t.Context())
	_, err = c.Resolve(ctx, deb, func(s string) {
		assert.Check(t, is.Contains(s, "waiting for another import of "+deb))
		cancel()
	})
	assert.ErrorIs(t, err, context.Canceled)

	assert.NilError(t, child.Process.Kill())
	assert.ErrorContains(t, child.Wait(), "killed")
	kernels, err := c.List()
	assert.NilError(t, err)
	assert.Equal(t, len(kernels), 0)
	resolve(t, c, deb)
}

func TestShowAndRemove(t *testing.T) {
	c := testCache(t)
	_, err := c.Show("debian:6.1")
	assert.ErrorContains(t, err, "nestbed kernel add debian:6.12")
	one, two := tree(t, fakeKernel(t, "6.9.1")), tree(t, fakeKernel(t, "6.10.1"))
	newer := resolve(t, c, two)
	older := resolve(t, c, one)
	kernels, err := c.List()
	assert.NilError(t, err)
	assert.Equal(t, kernels[0].Release, "6.9.1")
	assert.Equal(t, kernels[1].Release, "6.10.1")

	t.Chdir(filepath.Dir(one))
	for _, ref := range []string{one, "./" + filepath.Base(one), "6.9.1", older.Hash, older.Hash[:8]} {
		k, err := c.Show(ref)
		assert.NilError(t, err)
		assert.Equal(t, k.Hash, older.Hash, ref)
	}
	for _, ref := range []string{older.Hash[:2], "", "6.9", "running"} {
		_, err := c.Show(ref)
		assert.ErrorContains(t, err, "in the cache; there are "+one, ref)
	}

	// Two builds of one release: only the hash tells them apart.
	assert.NilError(t, os.WriteFile(filepath.Join(two, "boot/config-6.10.1"), []byte("CONFIG_KVM=y\n"), 0o644))
	rebuilt := resolve(t, c, two)
	_, err = c.Show("6.10.1")
	assert.ErrorContains(t, err, `"6.10.1" means 2 kernels: give the hash (`)

	// As a SPEC the hash stands for the same kernel, whatever its name means now.
	k, err := c.Resolve(t.Context(), newer.HashSpec(), nil)
	assert.NilError(t, err)
	assert.Equal(t, k.Hash, newer.Hash)
	assert.Equal(t, k.Spec, "hash:"+newer.Hash[:12])

	assert.NilError(t, c.Remove(newer.Hash))
	_, err = c.Resolve(t.Context(), newer.HashSpec(), nil)
	assert.ErrorContains(t, err, "no kernel ")
	k, err = c.Show("6.10.1")
	assert.NilError(t, err)
	assert.Equal(t, k.Hash, rebuilt.Hash)
	assert.NilError(t, c.Remove(one))
	_, err = os.Stat(older.Dir)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, c.Remove(one), "no kernel ")
	assertIdle(t, c)
}

func TestUsageAndPrune(t *testing.T) {
	c := testCache(t)
	dir := tree(t, fakeKernel(t, "6.9.1"))
	first := resolve(t, c, dir)
	config := filepath.Join(dir, "boot/config-6.9.1")
	assert.NilError(t, os.WriteFile(config, []byte("CONFIG_KVM=y\n"), 0o644))
	second := resolve(t, c, dir)
	assert.NilError(t, os.WriteFile(config, []byte("CONFIG_VFIO=y\n"), 0o644))
	third := resolve(t, c, dir)
	// What a killed import and apt-get leave.
	assert.NilError(t, os.MkdirAll(c.path("tmp", "import-1", "entry"), 0o755))
	assert.NilError(t, os.WriteFile(c.path("tmp", "import-1", "entry", "vmlinuz"), make([]byte, 1000), 0o644))
	assert.NilError(t, os.MkdirAll(c.path("apt", "sid-1"), 0o755))
	assert.NilError(t, os.WriteFile(c.path("apt", "sid-1", "list"), make([]byte, 500), 0o644))

	before, err := c.Usage()
	assert.NilError(t, err)
	assert.Equal(t, len(before.Kernels), 3)
	assert.Equal(t, before.Temp, int64(1000))
	assert.Equal(t, before.Lists, int64(500))
	var sum int64
	for _, k := range before.Kernels {
		assert.Assert(t, k.Size > 1024) // the vmlinuz alone
		sum += k.Size
	}
	assert.Equal(t, before.Total, sum+1500)

	p, err := c.Prune(func(k Kernel) bool { return k.Hash == second.Hash })
	assert.NilError(t, err)
	assert.Equal(t, len(p.Kernels), 1)
	assert.Equal(t, p.Kernels[0].Hash, first.Hash)
	after, err := c.Usage()
	assert.NilError(t, err)
	assert.Equal(t, after.Total, before.Total-p.Bytes)
	assert.Equal(t, after.Temp+after.Lists, int64(0))
	k, err := c.Show(dir)
	assert.NilError(t, err)
	assert.Equal(t, k.Hash, third.Hash)
	assertIdle(t, c)
}

// Kernels that no name leads to are kept as long as there is room: those that were used last, and those that are held.
func TestTrim(t *testing.T) {
	c := testCache(t)
	dir := tree(t, fakeKernel(t, "6.9.1"))
	var all []Kernel
	for n := range 5 {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "boot/config-6.9.1"), fmt.Appendf(nil, "CONFIG_NR_CPUS=%d\n", n), 0o644))
		k := resolve(t, c, dir)
		long := time.Now().Add(time.Duration(n-10) * time.Hour)
		assert.NilError(t, os.Chtimes(k.Dir, long, long))
		all = append(all, k)
	}
	size := DiskUsage(all[0].Dir)
	there := func() (list []int) {
		for n, k := range all {
			if _, err := os.Stat(k.Dir); err == nil {
				list = append(list, n)
			}
		}
		return list
	}
	trim := func(limit int64) int {
		t.Helper()
		p, err := c.Trim(limit)
		assert.NilError(t, err)
		assert.Equal(t, p.Bytes, int64(len(p.Kernels))*size)
		return len(p.Kernels)
	}
	assert.Equal(t, trim(4*size), 0, "the fifth has a name")

	_, err := c.Resolve(t.Context(), all[0].HashSpec(), nil)
	assert.NilError(t, err)
	release, err := c.Hold(all[1])
	assert.NilError(t, err)
	long := time.Now().Add(-time.Hour * 100)
	assert.NilError(t, os.Chtimes(all[1].Dir, long, long))
	assert.Equal(t, trim(2*size), 1)
	assert.DeepEqual(t, there(), []int{0, 1, 3, 4}) // 0 was used, 1 is held, 3 is younger than 2, 4 has a name
	assert.ErrorContains(t, c.Remove(all[1].Hash), "a series that is running needs it")
	p, err := c.Prune(nil)
	assert.NilError(t, err)
	assert.Equal(t, len(p.Kernels), 2)
	assert.DeepEqual(t, there(), []int{1, 4})

	release()
	assert.Equal(t, trim(0), 1)
	assert.DeepEqual(t, there(), []int{4})
	_, err = c.Hold(all[1])
	assert.ErrorContains(t, err, "it was removed from the cache")
	assertIdle(t, c)
}

func TestDamagedEntry(t *testing.T) {
	c := testCache(t)
	k := resolve(t, c, tree(t, fakeKernel(t, fakeRelease)))
	modules, err := k.Modules()
	assert.NilError(t, err)
	assert.NilError(t, os.Truncate(modules[0].File, 3))
	_, err = k.Modules()
	assert.ErrorContains(t, err, "module ccp is damaged in the cache: remove the kernel ("+k.Hash[:12]+")")

	name := filepath.Join(k.Dir, entryFile)
	data, err := os.ReadFile(name)
	assert.NilError(t, err)
	for _, damage := range []struct{ old, with, want string }{
		{entrySchema, "nestbed/kernel/2", `it is "nestbed/kernel/2" and this nestbed reads nestbed/kernel/1`},
		{`"name": "kvm"`, `"name": "../x"`, `bad module name "../x"`},
		{k.Hash, k.Hash[1:] + "0", "damaged"},
		{"{", "", "read " + name},
	} {
		assert.NilError(t, os.WriteFile(name, []byte(strings.Replace(string(data), damage.old, damage.with, 1)), 0o644))
		_, err := c.List()
		assert.ErrorContains(t, err, damage.want)
	}
	// A field of a later version of the same major does no harm.
	var fields map[string]any
	assert.NilError(t, json.Unmarshal(data, &fields))
	fields["added_later"] = 1
	more, err := json.Marshal(fields)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(name, more, 0o644))
	_, err = c.List()
	assert.NilError(t, err)
}

func TestLockEndsWithContext(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	held, err := flock.Take(t.Context(), name, nil)
	assert.NilError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = flock.Take(ctx, name, nil)
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	held.Unlock()
	again, err := flock.Take(t.Context(), name, nil)
	assert.NilError(t, err)
	again.Unlock()
}
