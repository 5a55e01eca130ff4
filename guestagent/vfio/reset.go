package vfio

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

// Resets reports whether the kernel knows a way to reset the device.
func (d *Device) Resets() (bool, error) {
	info := uapi.VFIODeviceInfo{}
	info.Argsz = uint32(unsafe.Sizeof(info))
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceGetInfo, &info)
	return info.Flags&uapi.VFIODeviceResets != 0, err
}

// Reset resets the device alone.
func (d *Device) Reset() error {
	_, err := uapi.Ioctl(d.FD(), d.Name(), uapi.VFIODeviceReset, 0)
	return err
}

// HotResetDevices lists the PCI devices that a reset of the device's bus reaches.
func (d *Device) HotResetDevices() ([]string, error) {
	info := uapi.VFIOHotResetInfo{}
	info.Argsz = uint32(unsafe.Sizeof(info))
	if _, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceGetHotResetInfo, &info); err != nil {
		return nil, err
	}
	var list []string
	for _, dev := range info.Devices[:min(int(info.Count), len(info.Devices))] {
		list = append(list, fmt.Sprintf("%04x:%02x:%02x.%d", dev.Segment, dev.Bus, dev.DevFn>>3, dev.DevFn&7))
	}
	return list, nil
}

// HotReset resets the device's bus. The groups must be those of every device on it.
func (d *Device) HotReset(groups ...*Group) error {
	req := uapi.VFIOHotReset{Count: uint32(len(groups))}
	if len(groups) > len(req.Groups) {
		return fmt.Errorf("hot reset with %d groups, at most %d", len(groups), len(req.Groups))
	}
	req.Argsz = uint32(unsafe.Sizeof(req))
	for i, g := range groups {
		req.Groups[i] = int32(g.FD())
	}
	_, err := uapi.IoctlPtr(d.FD(), d.Name(), uapi.VFIODeviceHotReset, &req)
	return err
}

// pciCommand is PCI_COMMAND.
const pciCommand = 0x04

// Command reads the device's COMMAND register, as VFIO shows it.
func (d *Device) Command() (uint16, error) {
	config, err := d.Region(uapi.VFIOPCIConfig)
	if err != nil {
		return 0, err
	}
	var reg [2]byte
	err = config.read(reg[:], pciCommand)
	return binary.LittleEndian.Uint16(reg[:]), err
}

// SetCommand writes it.
func (d *Device) SetCommand(value uint16) error {
	config, err := d.Region(uapi.VFIOPCIConfig)
	if err != nil {
		return err
	}
	var reg [2]byte
	binary.LittleEndian.PutUint16(reg[:], value)
	return config.write(reg[:], pciCommand)
}
