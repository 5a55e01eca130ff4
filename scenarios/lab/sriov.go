package lab

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// vfToken is the secret that the users of a PF and of its VFs share.
const vfToken = "5d1f3c9a-7be1-4f0a-9d07-0123456789ab"

// SetVFToken makes the next Open of a PF set the token by which its VFs can be opened.
func (d *VFIODevice) SetVFToken() { d.token = vfToken }

// NewVFs makes the PF have n virtual functions, through vfio-pci's own SR-IOV support. vfio-pci takes them
// itself, and each needs the token of its PF. They are removed at the end at the latest.
func (d *VFIODevice) NewVFs(n int) []*VFIODevice {
	t := d.t
	path := "/sys/module/vfio_pci/parameters/enable_sriov"
	was, err := os.ReadFile(t.env.Root + path)
	t.mustHost("vfio_pci.enable_sriov", err)
	t.mustHost("vfio_pci.enable_sriov", t.mods.SetParameter("vfio_pci", "enable_sriov", "Y"))
	t.atEnd("restore vfio_pci.enable_sriov", func() error {
		return t.mods.SetParameter("vfio_pci", "enable_sriov", strings.TrimSpace(string(was)))
	})
	t.must(d.pci.SetVFs(n))
	t.atEnd("remove the VFs", d.RemoveVFs)
	functions, err := d.pci.VFs()
	t.mustHost("VFs of "+d.pci.Address, err)
	if len(functions) != n {
		t.WantInt(len(functions), n, "the PF has as many VFs as were asked for")
	}
	t.mustHost("uevents", t.events.pump())
	var vfs []*VFIODevice
	for _, f := range functions {
		// The kernel announces VFs like devices that are plugged in, and with the PF's id.
		t.events.added = slices.DeleteFunc(t.events.added, func(s string) bool { return strings.HasSuffix(s, " "+f.Address) })
		vf := &VFIODevice{t: t, kind: d.kind, pci: f, token: d.token}
		driver, err := f.Driver()
		t.mustHost("driver of the VF", err)
		if driver != "vfio-pci" {
			t.must(fmt.Errorf("VF %s: driver %q, and its PF is vfio-pci's", f.Address, driver))
		}
		vf.number, err = f.Group()
		t.mustHost("IOMMU group of the VF", err)
		vfs = append(vfs, vf)
	}
	return vfs
}

// RemoveVFs takes the PF's virtual functions away, and waits for as long as they are open.
func (d *VFIODevice) RemoveVFs() error {
	if vfs, err := d.pci.VFs(); err != nil || len(vfs) == 0 {
		return err
	}
	return d.pci.SetVFs(0)
}

// OpenWithToken attaches the VF and tries to open it with a token, or none; a success is closed again.
func (d *VFIODevice) OpenWithToken(token string) error {
	d.Attach()
	as := *d
	as.token = token
	dev, err := d.group.Device(as.name())
	if err != nil {
		return err
	}
	return dev.Close()
}

// NVMeAnswers reports whether the open function's registers are read. A VF has been given no queues by its PF:
// it is offline, and its status register, the only one that it has then, says so (CSTS.CFS).
func (d *VFIODevice) NVMeAnswers() bool {
	const csts, failed = 0x1c, 1 << 1
	bar, err := d.device.Region(uapi.VFIOPCIBAR0)
	d.t.must(err)
	if d.slot > 0 {
		return nvmeAlive(bar) == nil
	}
	status, err := bar.Read32(csts)
	d.t.must(err)
	return status == failed
}

// WantNoVFs claims that the PF has no virtual function and the kernel has none of these any more.
func (d *VFIODevice) WantNoVFs(vfs []*VFIODevice) {
	left, err := d.pci.VFs()
	d.t.mustHost("VFs of "+d.pci.Address, err)
	d.t.WantInt(len(left), 0, "the PF has no VF")
	for _, vf := range vfs {
		vf.WantGone()
	}
}
