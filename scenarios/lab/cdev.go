package lab

import (
	"os"
	"path/filepath"

	"github.com/nestbed/nestbed/guestagent/pci"
	"github.com/nestbed/nestbed/guestagent/uapi"
	"github.com/nestbed/nestbed/guestagent/vfio"
)

// Cdev is one open of a device's own node, /dev/vfio/devices/vfioN: the way in that knows of neither group nor
// container. The device behind it is open from Bind on.
type Cdev struct {
	t    *T
	desc *vfio.Device
	edu  pci.EDU
}

// OpenCdev opens the device's node, once more each time it is asked.
func (d *VFIODevice) OpenCdev() *Cdev {
	node := d.t.cdev(d.Address())
	if node == "" {
		d.t.SkipConfig("CONFIG_VFIO_DEVICE_CDEV", "no node in /dev/vfio/devices for "+d.Address())
	}
	desc, err := vfio.OpenCdev(node, d.Address())
	d.t.must(err)
	d.t.atEnd("close the cdev", desc.Close)
	return &Cdev{t: d.t, desc: desc}
}

// cdev is the device's own character device, "" where the kernel has none (CONFIG_VFIO_DEVICE_CDEV).
func (t *T) cdev(address string) string {
	entries, err := os.ReadDir(filepath.Join(t.env.Root, "/sys/bus/pci/devices", address, "vfio-dev"))
	if err != nil {
		return ""
	}
	for _, e := range entries {
		node := filepath.Join("/dev/vfio/devices", e.Name())
		if _, err := os.Stat(filepath.Join(t.env.Root, node)); err == nil {
			return node
		}
	}
	return ""
}

// HasCdevNode reports whether the device can be opened by its own node.
func (d *VFIODevice) HasCdevNode() bool { return d.t.cdev(d.Address()) != "" }

// Bind opens the device as one of an IOMMUFD.
func (c *Cdev) Bind(i *IOMMUFD) {
	c.t.must(c.TryBind(i.FD()))
	bar, err := c.desc.Region(uapi.VFIOPCIBAR0)
	c.t.must(err)
	c.edu = pci.EDU{Registers: bar}
}

// TryBind asks for a Bind to any descriptor, which the kernel may refuse.
func (c *Cdev) TryBind(fd int) error {
	_, err := c.desc.BindIOMMUFD(fd)
	return err
}

// Attach has the device's DMA go through an IOAS. From one IOAS to another there need be no Detach between.
func (c *Cdev) Attach(s *IOAS) {
	_, err := c.desc.AttachIOMMUFD(s.ioas.ID())
	c.t.must(err)
}

// Detach takes the device out of its IOAS.
func (c *Cdev) Detach() { c.t.must(c.desc.DetachIOMMUFD()) }

// TryInfo asks the device what it is; the kernel refuses until it is bound.
func (c *Cdev) TryInfo() (vfio.Info, error) { return c.desc.Info() }

// EnableDMA lets the device master the bus.
func (c *Cdev) EnableDMA() { c.t.must(c.desc.EnableDMA()) }

// RoundTrip is VFIODevice.RoundTrip.
func (c *Cdev) RoundTrip(page *Page, iova uint32, pattern byte) bool {
	return c.t.roundTrip(c.edu, page, iova, pattern)
}

// FD is the descriptor.
func (c *Cdev) FD() int { return c.desc.FD() }

// Close closes the descriptor. The device goes with it, unless a VM that knows of it still holds its file.
func (c *Cdev) Close() { c.t.must(c.desc.Close()) }

// AddCdev tells the VM of the device, through this open of it: another open of the same device is another file.
func (v *VM) AddCdev(c *Cdev) {
	if v.vfio == nil {
		v.NewVFIO()
	}
	v.t.must(v.vfio.Add(c.FD()))
}

// DelFile takes a file back from the VM, by any descriptor of it.
func (v *VM) DelFile(fd int) error { return v.vfio.Del(fd) }
