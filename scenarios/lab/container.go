package lab

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

const unsafeInterrupts = "allow_unsafe_interrupts" // of vfio_iommu_type1 and of iommufd

// RemapsInterrupts reports whether the machine's interrupts go through an IOMMU.
func (t *T) RemapsInterrupts() bool {
	table, err := os.ReadFile(filepath.Join(t.env.Root, "/proc/interrupts"))
	t.mustHost("interrupt remapping", err)
	// The chip's name says it: IR-IO-APIC, IR-PCI-MSI.
	return bytes.Contains(table, []byte(" IR-"))
}

// AllowUnsafeInterrupts tells type1 whether it may have devices whose interrupts nothing remaps. At the end
// it is told what it was told before.
func (t *T) AllowUnsafeInterrupts(allow bool) {
	t.SetModuleParameter("vfio_iommu_type1", unsafeInterrupts, map[bool]string{true: "Y", false: "N"}[allow])
}

// TrySetIOMMU is SetIOMMU for a scenario that judges the outcome itself.
func (d *VFIODevice) TrySetIOMMU() error {
	err := d.container.SetIOMMU(uapi.VFIOType1v2IOMMU)
	d.attached = err == nil
	return err
}

// JoinContainer puts the device's group into the container of another device, which has its IOMMU.
func (d *VFIODevice) JoinContainer(other *VFIODevice) {
	d.OpenGroup()
	d.t.must(d.group.SetContainer(other.container))
	d.attached = true
}

// UnsetContainer takes the device's group out of its container.
func (d *VFIODevice) UnsetContainer() error {
	err := d.group.UnsetContainer()
	if err == nil {
		d.attached = false
	}
	return err
}

// HasGroupNode reports whether the group can be opened by its name.
func (d *VFIODevice) HasGroupNode() bool {
	_, err := os.Stat(filepath.Join(d.t.env.Root, "/dev/vfio", strconv.Itoa(d.number)))
	return err == nil
}
