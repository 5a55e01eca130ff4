package vfio

import (
	"unsafe"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Offers asks whether the device can do something with a feature: uapi.VFIOFeatureGet, uapi.VFIOFeatureSet.
// The refusal says that it cannot.
func (d *Device) Offers(feature, direction uint32) error {
	return d.feature(feature|direction|uapi.VFIOFeatureProbe, -1, 0)
}

// LowPower lets the kernel put the device to sleep.
func (d *Device) LowPower() error {
	return d.feature(uapi.VFIOFeatureLowPowerEntry|uapi.VFIOFeatureSet, -1, 0)
}

// LowPowerUntilWoken is LowPower until anything wakes the device, which then signals the eventfd.
func (d *Device) LowPowerUntilWoken(eventfd int) error {
	return d.feature(uapi.VFIOFeatureLowPowerEntryWithWakeup|uapi.VFIOFeatureSet, int32(eventfd),
		unsafe.Sizeof(uapi.VFIODeviceFeature{})-unsafe.Offsetof(uapi.VFIODeviceFeature{}.WakeupEventFD))
}

// FullPower takes back LowPower.
func (d *Device) FullPower() error {
	return d.feature(uapi.VFIOFeatureLowPowerExit|uapi.VFIOFeatureSet, -1, 0)
}

func (d *Device) feature(flags uint32, eventfd int32, data uintptr) error {
	req := uapi.VFIODeviceFeature{Flags: flags, WakeupEventFD: eventfd}
	req.Argsz = uint32(unsafe.Offsetof(req.WakeupEventFD) + data)
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceFeatureRequest, &req)
	return err
}
