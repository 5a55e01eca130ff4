package vfio

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestCdevErrors(t *testing.T) {
	d := &Device{uapi.Own(-1, "0000:01:00.0")}
	_, bind := d.BindIOMMUFD(-1)
	_, attach := d.AttachIOMMUFD(1)
	assert.Error(t, bind, "VFIO_DEVICE_BIND_IOMMUFD 0000:01:00.0: bad file descriptor")
	assert.Error(t, attach, "VFIO_DEVICE_ATTACH_IOMMUFD_PT 0000:01:00.0: bad file descriptor")
	assert.Error(t, d.DetachIOMMUFD(), "VFIO_DEVICE_DETACH_IOMMUFD_PT 0000:01:00.0: bad file descriptor")
	_, err := OpenCdev("/dev/vfio/devices/none", "0000:01:00.0")
	assert.Error(t, err, "open /dev/vfio/devices/none: no such file or directory")
}
