package plan

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/harness/machine"
	"github.com/nestbed/nestbed/kernels"
	"github.com/nestbed/nestbed/scenarios/lab"
)

func catalogue() []lab.Scenario {
	of := func(name string, needs lab.Needs, variants ...lab.Variant) lab.Scenario {
		return lab.Scenario{Name: name, Needs: needs, Variants: variants, Timeout: time.Second}
	}
	return []lab.Scenario{
		of("attach-one", lab.Needs{IOMMU: lab.AnyIOMMU}),
		of("attach-two", lab.Needs{}, lab.Variant{Name: "group"}, lab.Variant{Name: "cdev"}),
		of("unload-three", lab.Needs{MinKernel: "6.6"}),
	}
}

func named(t *testing.T, names ...string) []machine.Machine {
	t.Helper()
	var ms []machine.Machine
	for _, name := range names {
		m, err := machine.Named(name)
		assert.NilError(t, err)
		ms = append(ms, m)
	}
	return ms
}

func names(cells []Cell) []string {
	var out []string
	for _, c := range cells {
		out = append(out, choice{c.Scenario, c.Variant}.name()+"/"+c.Kernel.Release+"/"+c.Machine.Name)
	}
	return out
}

func TestPlanExpandsAndSkipsWithReasons(t *testing.T) {
	p, err := Make(Request{
		Catalogue: catalogue(),
		Kernels:   []kernels.Kernel{{Release: "6.1.192-amd64"}, {Release: "6.12.9-amd64"}},
		Machines:  named(t, "intel", "none"),
	})
	assert.NilError(t, err)
	assert.Equal(t, len(p.Cells), 4*2*2)
	assert.DeepEqual(t, names(p.Runs()), []string{
		"attach-one/6.1.192-amd64/intel", "attach-two@group/6.1.192-amd64/intel", "attach-two@cdev/6.1.192-amd64/intel",
		"attach-two@group/6.1.192-amd64/none", "attach-two@cdev/6.1.192-amd64/none",
		"attach-one/6.12.9-amd64/intel", "attach-two@group/6.12.9-amd64/intel", "attach-two@cdev/6.12.9-amd64/intel", "unload-three/6.12.9-amd64/intel",
		"attach-two@group/6.12.9-amd64/none", "attach-two@cdev/6.12.9-amd64/none", "unload-three/6.12.9-amd64/none",
	})
	for _, c := range p.Cells {
		if c.Skip != "" {
			assert.Assert(t, c.Remedy != "", "%s is skipped (%s) and nothing says what would make it run", c.Scenario.Name, c.Skip)
		}
	}
}

func TestPlanRepeatsWhatRuns(t *testing.T) {
	p, err := Make(Request{
		Catalogue: catalogue(), Globs: []string{"*-one"}, Repeat: 3,
		Kernels: []kernels.Kernel{{Release: "6.12.9"}}, Machines: named(t, "intel", "none"),
	})
	assert.NilError(t, err)
	assert.Equal(t, len(p.Runs()), 3)
	assert.Equal(t, p.Runs()[2].Repeat, 3)
	assert.Equal(t, len(p.Cells), 4, "one skip, not three")
}

func TestPlanChooses(t *testing.T) {
	for glob, want := range map[string]int{"attach-*": 3, "attach-two": 2, "attach-two@cdev": 1, "*@group": 1, "*": 4} {
		got, err := choose(catalogue(), []string{glob, glob})
		assert.NilError(t, err)
		assert.Equal(t, len(got), want, glob)
	}
}

// What runs on demand only is never run by the way.
func TestPlanLeavesOutWhatRunsOnDemand(t *testing.T) {
	detect := lab.Scenario{Name: "detect-x", Area: lab.Detect, Timeout: time.Second, Variants: []lab.Variant{{Name: "group"}, {Name: "y"}}}
	for glob, want := range map[string]int{
		"": 4, "*": 4, "*@group": 1, "[a-z]*": 4, "d*": 0, "*-x": 0, "detect-*": 2, "detect*": 2, "detect-x": 2, "detect-x@y": 1, "detect-*@group": 1,
	} {
		var globs []string
		if glob != "" {
			globs = []string{glob}
		}
		got, err := choose(append(catalogue(), detect), globs)
		assert.Equal(t, len(got), want, "%q", glob)
		assert.Equal(t, errors.As(err, new(*UnknownError)), want == 0, "%q: %v", glob, err)
	}
}

func TestPlanNamesTheNearestScenario(t *testing.T) {
	_, err := choose(catalogue(), []string{"attach-*", "atach-tow@cdev"})
	var unknown *UnknownError
	assert.Assert(t, errors.As(err, &unknown))
	assert.Equal(t, unknown.Nearest, "attach-two@cdev")
	assert.ErrorContains(t, err, "did you mean attach-two@cdev?")

	_, err = choose(catalogue(), []string{"zzzz"})
	assert.ErrorContains(t, err, "nestbed list scenarios")
	_, err = choose(catalogue(), []string{"[a"})
	assert.ErrorContains(t, err, "syntax error in pattern")
}

func TestSanitizersGetTheirMemory(t *testing.T) {
	tree := kernelFolder(t, t.TempDir())
	cache, err := kernels.Open(filepath.Join(t.TempDir(), "kernels"))
	assert.NilError(t, err)
	small, err := cache.Add(t.Context(), tree, func(string) {})
	assert.NilError(t, err)
	config := filepath.Join(tree, "config")
	text, err := os.ReadFile(config)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(config, append(text, "CONFIG_KASAN=y\n"...), 0o644))
	large, err := cache.Add(t.Context(), tree, func(string) {})
	assert.NilError(t, err)
	for want, k := range map[int]kernels.Kernel{512: small, 1024: large} {
		p, err := Make(Request{Catalogue: catalogue(), Kernels: []kernels.Kernel{k}, Machines: named(t, "intel")})
		assert.NilError(t, err)
		assert.Equal(t, p.LargestMB(), want)
		assert.Equal(t, p.Runs()[0].Machine.MemoryMB, want)
	}
}

func TestKernelOptionsAndModulesDecide(t *testing.T) {
	tree := t.TempDir()
	cache, err := kernels.Open(filepath.Join(t.TempDir(), "kernels"))
	assert.NilError(t, err)
	k, err := cache.Add(t.Context(), kernelFolder(t, tree), func(string) {})
	assert.NilError(t, err)

	for _, c := range []struct {
		needs lab.Needs
		want  string
	}{
		{lab.Needs{Options: []string{"CONFIG_IOMMUFD"}}, "needs CONFIG_IOMMUFD, which this kernel was built without"},
		{lab.Needs{Options: []string{"CONFIG_VFIO"}}, ""},
		{lab.Needs{Without: []string{"CONFIG_VFIO"}}, "needs a kernel without CONFIG_VFIO, which this one has"},
		{lab.Needs{Without: []string{"CONFIG_IOMMUFD", "CONFIG_UNHEARD_OF"}}, ""},
		{lab.Needs{Modules: []string{"kvm"}}, ""},
		{lab.Needs{Modules: []string{"iommufd"}}, "needs module iommufd, which this kernel does not have"},
		{lab.Needs{MaxKernel: "6.1"}, "needs Linux 6.1 or earlier, this is 6.12.9-test"},
		{lab.Needs{MaxKernel: "6.12"}, ""},
		{lab.Needs{Devices: make([]lab.Device, 5)}, "needs 5 devices, machine intel has 4 root ports"},
	} {
		reason, _ := Request{}.unfit(c.needs, k, named(t, "intel")[0])
		assert.Equal(t, reason, c.want)
	}
	reason, _ := Request{}.unfit(lab.Needs{IOMMU: lab.AnyIOMMU}, k, named(t, "virtio")[0])
	assert.Equal(t, reason, "machine virtio needs CONFIG_VIRTIO_IOMMU, which this kernel was built without")
	reason, _ = Request{}.unfit(lab.Needs{}, k, named(t, "virtio")[0])
	assert.Equal(t, reason, "", "a scenario without a device does not mind")
}

// KVM of a PREEMPT_RT kernel does not work on TCG's CPU.
func TestRealTimeKernelHasNoKVMUnderTCG(t *testing.T) {
	tree := kernelFolder(t, t.TempDir())
	config, err := os.ReadFile(filepath.Join(tree, "config"))
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(tree, "config"), append(config, "CONFIG_PREEMPT_RT=y\n"...), 0o644))
	cache, err := kernels.Open(filepath.Join(t.TempDir(), "kernels"))
	assert.NilError(t, err)
	k, err := cache.Add(t.Context(), tree, func(string) {})
	assert.NilError(t, err)
	m := named(t, "intel")[0]
	reason, remedy := Request{}.unfit(lab.Needs{Modules: []string{"vfio", "kvm"}}, k, m)
	assert.Check(t, strings.Contains(reason, "PREEMPT_RT"), reason)
	assert.Check(t, strings.Contains(remedy, "a host with KVM"), remedy)
	reason, _ = Request{}.unfit(lab.Needs{Modules: []string{"vfio"}}, k, m)
	assert.Equal(t, reason, "")
	m.Accel = machine.KVM
	reason, _ = Request{}.unfit(lab.Needs{Modules: []string{"kvm"}}, k, m)
	assert.Equal(t, reason, "")
}

// kernelFolder makes a folder that imports as Linux 6.12.9-test with KVM and VFIO built in and no IOMMUFD.
func kernelFolder(t *testing.T, dir string) string {
	t.Helper()
	image := make([]byte, 0x1000)
	image[0x1fe], image[0x1ff] = 0x55, 0xaa
	copy(image[0x202:], "HdrS\x0f\x02") // and protocol 2.15
	image[0x206], image[0x207] = 0x0f, 0x02
	const at = 0x800
	image[0x20e], image[0x20f] = (at-0x200)&0xff, (at-0x200)>>8
	copy(image[at:], "6.12.9-test (x@y) #1\x00")
	write := func(name string, data []byte) {
		name = filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		assert.NilError(t, os.WriteFile(name, data, 0o644))
	}
	write("vmlinuz", image)
	write("config", []byte("CONFIG_KVM=y\nCONFIG_HOTPLUG_PCI_ACPI=y\nCONFIG_KVM_AMD=y\nCONFIG_VFIO=y\nCONFIG_INTEL_IOMMU=y\n# CONFIG_IOMMUFD is not set\n"))
	write("lib/modules/6.12.9-test/modules.builtin", []byte("kernel/arch/x86/kvm/kvm.ko\nkernel/drivers/vfio/vfio.ko\n"))
	return dir
}

// A device that belongs to a subsystem brings one to its machine, and to no other.
func TestDeviceNeedsSubsystem(t *testing.T) {
	needs := func(d lab.Device) lab.Needs { return lab.Needs{Devices: []lab.Device{d}} }
	p, err := Make(Request{
		Catalogue: []lab.Scenario{
			{Name: "a-vf", Timeout: time.Second, Needs: needs(lab.NVMeSRIOV)},
			{Name: "no-vf", Timeout: time.Second, Needs: needs(lab.NVMe)},
		},
		Kernels:  []kernels.Kernel{{Release: "6.1.192-amd64"}},
		Machines: named(t, "intel"),
	})
	assert.NilError(t, err)
	assert.Equal(t, p.Cells[0].Machine.NVMeSubsystem, true)
	assert.Equal(t, p.Cells[1].Machine.NVMeSubsystem, false)
}

// A variant has needs of its own, and they reach the machine.
func TestVariantNeeds(t *testing.T) {
	p, err := Make(Request{
		Catalogue: []lab.Scenario{{Name: "hotplug-one", Timeout: time.Second, Variants: []lab.Variant{
			{Name: "acpi"}, {Name: "pciehp", Needs: lab.Needs{NativeHotplug: true}}, {Name: "new", Needs: lab.Needs{MinKernel: "9.9"}},
		}}},
		Kernels:  []kernels.Kernel{{Release: "6.1.192-amd64"}},
		Machines: named(t, "none"),
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, names(p.Runs()), []string{"hotplug-one@acpi/6.1.192-amd64/none", "hotplug-one@pciehp/6.1.192-amd64/none"})
	assert.Equal(t, p.Cells[0].Machine.NativeHotplug, false)
	assert.Equal(t, p.Cells[1].Machine.NativeHotplug, true)
	assert.Equal(t, p.Cells[2].Skip, "needs Linux 9.9 or later, this is 6.1.192-amd64")
}

// A machine without interrupt remapping is the same machine by name, wherever there is an IOMMU at all.
func TestNoInterruptRemapping(t *testing.T) {
	p, err := Make(Request{
		Catalogue: []lab.Scenario{{Name: "attach-one", Timeout: time.Second, Needs: lab.Needs{IOMMU: lab.AnyIOMMU}, Variants: []lab.Variant{
			{Name: "intremap-off", Needs: lab.Needs{NoInterruptRemapping: true}}, {Name: "plain"},
		}}},
		Kernels:  []kernels.Kernel{{Release: "6.1.192-amd64"}},
		Machines: named(t, "intel", "none"),
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, names(p.Runs()), []string{"attach-one@intremap-off/6.1.192-amd64/intel", "attach-one@plain/6.1.192-amd64/intel"})
	assert.Equal(t, p.Cells[0].Machine.NoIntRemap, true)
	assert.Equal(t, p.Cells[1].Machine.NoIntRemap, false)
}

// What would make a cell run is a kernel that exists: one in the cache, the nearest that fits in everything, by
// a SPEC that works elsewhere too. Where there is none, the bound is all that can be said.
func TestRemedyNamesAKernelThatExists(t *testing.T) {
	others := []kernels.Kernel{
		{Release: "5.10.223", Specs: []string{"debian:bullseye/5.10"}},
		{Release: "6.1.192", Specs: []string{"/home/me/linux", "debian:6.1"}},
		{Release: "6.12.117", Specs: []string{"debian:6.12"}},
		{Release: "6.19.1", Specs: []string{"/home/me/linux"}},
		{Release: "7.3.4", Specs: []string{"debian:trixie-backports/7.3"}},
		{Release: "7.2.12", Specs: []string{"debian:trixie-backports/7.2"}},
	}
	for _, c := range []struct {
		needs  lab.Needs
		others []kernels.Kernel
		want   string
	}{
		{lab.Needs{MinKernel: "6.19"}, others, "a kernel of 6.19 or newer, for example -k debian:trixie-backports/7.2"},
		{lab.Needs{MinKernel: "6.19"}, others[:4], "a kernel of 6.19 or newer"},
		{lab.Needs{MinKernel: "9.0"}, others, "a kernel of 9.0 or newer"},
		{lab.Needs{MaxKernel: "6.3"}, others, "a kernel of 6.3 or older, for example -k debian:6.1"},
		{lab.Needs{MaxKernel: "5.4"}, others, "a kernel of 5.4 or older"},
		{lab.Needs{MinKernel: "6.12", MaxKernel: "7.1"}, others, "a kernel of 7.1 or older, for example -k debian:6.12"},
	} {
		k := kernels.Kernel{Release: "6.6.9"}
		if c.needs.MinKernel == "6.12" {
			k.Release = "7.3.4"
		}
		_, remedy := Request{Others: c.others}.unfit(c.needs, k, named(t, "intel")[0])
		assert.Equal(t, remedy, c.want)
	}
}

// What lacks an option is of the right version as a rule: one of the same version that has it is nearest.
func TestRemedyNamesTheNearestVersion(t *testing.T) {
	var others []kernels.Kernel
	for release, spec := range map[string]string{
		"5.10.9-base": "build:debian-5.10/base", "6.11.9": "debian:6.11", "6.12.117-base": "build:debian-6.12/base", "6.13.1": "debian:6.13",
		"7.0.1": "debian:sid/7.0", "7.3.4-base": "build:debian-trixie-backports-7.3/base",
	} {
		others = append(others, kernels.Kernel{Release: release, Specs: []string{spec}})
	}
	m := named(t, "intel")[0]
	for release, want := range map[string]string{
		"6.12.117+deb12-amd64": "build:debian-6.12/base", "7.2.1": "build:debian-trixie-backports-7.3/base", "6.1.192": "debian:6.11",
		"6.19.3": "debian:sid/7.0", "6.10.1": "debian:6.11", "4.19.1": "build:debian-5.10/base",
	} {
		assert.Equal(t, Request{Others: others}.fitting(lab.Needs{}, kernels.Kernel{Release: release}, m), want, release)
	}
	others = slices.DeleteFunc(others, func(k kernels.Kernel) bool { return k.Release == "6.12.117-base" })
	assert.Equal(t, Request{Others: others}.fitting(lab.Needs{}, kernels.Kernel{Release: "6.12.9"}, m), "debian:6.13", "as near as 6.11, and newer")
}

// An option that no kernel at hand has is one that nestbed's own builds have, or is not.
func TestRemedyNamesABuild(t *testing.T) {
	assert.Equal(t, buildable("a kernel with CONFIG_IOMMUFD"), ": nestbed kernel build debian-source:6.12 makes one")
	assert.Equal(t, buildable("a kernel with CONFIG_SWAP"), "", "base has it off")
	assert.Equal(t, buildable("a kernel with CONFIG_FAULT_INJECTION"), "", "base has it not")
	assert.Equal(t, buildable("a kernel of 6.19 or newer"), "")
}

// oldQEMU has everything but what is named, as DEVICE or DEVICE.PROPERTY.
type oldQEMU []string

func (q oldQEMU) HasDevice(d string) bool      { return !slices.Contains(q, d) }
func (q oldQEMU) HasProperty(d, p string) bool { return !slices.Contains(q, d+"."+p) }

// What a device is made of and this QEMU does not know is a skip: device_add would make it an error of ours.
func TestQEMUDecides(t *testing.T) {
	k, m := kernels.Kernel{Release: "6.12.9"}, named(t, "intel")[0]
	for _, c := range []struct {
		device lab.Device
		lacks  oldQEMU
		want   string
	}{
		{lab.NVMeSRIOV, nil, ""},
		{lab.NVMeSRIOV, oldQEMU{"nvme.sriov_max_vfs", "nvme.sriov_vi_flexible"}, "needs sriov_max_vfs of QEMU's device nvme, which this QEMU does not have"},
		{lab.NVMeSRIOV, oldQEMU{"nvme-subsys"}, "needs QEMU's device nvme-subsys, which this QEMU does not have"},
		{lab.NVMe, oldQEMU{"nvme.sriov_max_vfs", "nvme-subsys"}, ""},
		{lab.E1000E, oldQEMU{"e1000e"}, "needs QEMU's device e1000e, which this QEMU does not have"},
	} {
		reason, remedy := Request{QEMU: c.lacks}.unfit(lab.Needs{Devices: []lab.Device{lab.EDU, c.device}}, k, m)
		assert.Equal(t, reason, c.want)
		assert.Equal(t, remedy != "", reason != "")
	}
}
