package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/results/record"
)

// surroundings is the part of the closing invariant that a scenario may use in its middle as it likes, and
// that is too dear to look at more than twice: memory that the whole guest has pinned or locked, what VFIO
// shows to user space, and how devices are set up.
type surroundings struct {
	pinned int // pages, of any process: pin_user_pages, which type1 and iommufd map by
	locked int // pages
	// VFIO's groups and devices, in sysfs and /dev.
	vfio   []string
	groups map[string]string // IOMMU groups of PCI devices, by address; and groups that hold nothing
	forced map[string]string // driver_override of PCI devices that have one
}

// survey takes the surroundings.
func (t *T) survey() (surroundings, error) {
	s := surroundings{groups: map[string]string{}, forced: map[string]string{}}
	vm, err := readVMStat(t.env.Root)
	if err != nil {
		return s, err
	}
	s.pinned = vm["nr_foll_pin_acquired"] - vm["nr_foll_pin_released"]
	s.locked = vm["nr_mlock"]
	for _, pattern := range []string{"/sys/class/vfio/*", "/sys/class/vfio-dev/*", "/dev/vfio/*", "/dev/vfio/devices/*"} {
		found, err := filepath.Glob(t.env.Root + pattern)
		if err != nil {
			return s, err
		}
		for _, path := range found {
			// The misc device and the folder come and go with vfio.ko and the first device.
			if path = strings.TrimPrefix(path, t.env.Root); path != "/dev/vfio/vfio" && path != "/dev/vfio/devices" {
				s.vfio = append(s.vfio, path)
			}
		}
	}
	devs, err := t.bus.Devices()
	if err != nil {
		return s, err
	}
	for _, d := range devs {
		dir := filepath.Join(t.env.Root, "/sys/bus/pci/devices", d.Address)
		if target, err := os.Readlink(filepath.Join(dir, "iommu_group")); err == nil {
			s.groups[d.Address] = filepath.Base(target)
		}
		text, err := os.ReadFile(filepath.Join(dir, "driver_override"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		if name := strings.TrimSpace(string(text)); name != "" && name != "(null)" {
			s.forced[d.Address] = name
		}
	}
	return s, s.readEmptyGroups(t.env.Root)
}

// readEmptyGroups finds the IOMMU groups without a device. The kernel frees a group with its last one.
func (s surroundings) readEmptyGroups(root string) error {
	groups, err := os.ReadDir(filepath.Join(root, "/sys/kernel/iommu_groups"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, g := range groups {
		members, err := os.ReadDir(filepath.Join(root, "/sys/kernel/iommu_groups", g.Name(), "devices"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(members) == 0 {
			s.groups["group "+g.Name()] = "no device"
		}
	}
	return nil
}

// compare makes the claims, always in the same order.
func (before surroundings) compare(after surroundings) []record.Check {
	var checks []record.Check
	claim := func(text, want, got string) {
		checks = append(checks, record.Check{OK: want == got, Claim: text, Want: want, Got: got, Invariant: true})
	}
	claim("pages that the guest has pinned are unpinned", fmt.Sprint(before.pinned), fmt.Sprint(after.pinned))
	claim("pages that the guest has locked are unlocked", fmt.Sprint(before.locked), fmt.Sprint(after.locked))
	claim("VFIO's groups and devices are back", strings.Join(before.vfio, ", "), strings.Join(after.vfio, ", "))
	// BindVFIO and Replug add the device that they plugged in, WaitDeleted takes it out.
	claim("IOMMU groups are back", changed(before.groups, after.groups), changed(after.groups, before.groups))
	claim("driver overrides are back", changed(before.forced, after.forced), changed(after.forced, before.forced))
	return checks
}

// refsOff names the modules whose reference counts are off.
func (before state) refsOff(after state) []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(before.refs)) {
		if n, ok := after.refs[name]; !ok || n != before.refs[name] {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(after.refs)) {
		if _, ok := before.refs[name]; !ok && after.refs[name] != after.users[name] {
			names = append(names, name)
		}
	}
	return names
}
