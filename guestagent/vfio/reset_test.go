package vfio

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestResetErrorsNameTheOperation(t *testing.T) {
	g := &Group{uapi.Own(-1, "group 7")}
	d := &Device{uapi.Own(-1, "0000:01:00.0")}
	_, resets := d.Resets()
	_, devices := d.HotResetDevices()
	_, command := d.Command()
	for _, e := range []struct {
		err  error
		want string
	}{
		{resets, "VFIO_DEVICE_GET_INFO"},
		{d.Reset(), "VFIO_DEVICE_RESET"},
		{devices, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"},
		{d.HotReset(g), "VFIO_DEVICE_PCI_HOT_RESET"},
		{command, "VFIO_DEVICE_GET_REGION_INFO"},
		{d.SetCommand(0), "VFIO_DEVICE_GET_REGION_INFO"},
		{d.Offers(uapi.VFIOFeatureLowPowerExit, uapi.VFIOFeatureSet), "VFIO_DEVICE_FEATURE"},
		{d.LowPower(), "VFIO_DEVICE_FEATURE"},
		{d.LowPowerUntilWoken(-1), "VFIO_DEVICE_FEATURE"},
		{d.FullPower(), "VFIO_DEVICE_FEATURE"},
	} {
		assert.Error(t, e.err, e.want+" 0000:01:00.0: bad file descriptor")
	}
	assert.Error(t, d.HotReset(g, g, g, g, g, g, g, g, g), "hot reset with 9 groups, at most 8")
}
