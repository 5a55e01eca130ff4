package lab

import (
	"errors"

	"golang.org/x/sys/unix"
)

// The verbs of this file are about single descriptors: to close them in an order of one's own, to pass them
// to another process, or to ask something of them that no other verb would.

// CloseDevice closes the device and keeps its group and container.
func (d *VFIODevice) CloseDevice() { d.t.must(d.device.Close()) }

// CloseGroup closes the group and keeps its device and container.
func (d *VFIODevice) CloseGroup() { d.t.must(d.group.Close()) }

// CloseContainer closes the container and keeps group and device.
func (d *VFIODevice) CloseContainer() { d.t.must(d.container.Close()) }

// FD is the open device's descriptor, GroupFD and ContainerFD are those of its group and container.
func (d *VFIODevice) FD() int { return d.device.FD() }

// GroupFD is the open group's descriptor.
func (d *VFIODevice) GroupFD() int { return d.group.FD() }

// ContainerFD is the open container's descriptor.
func (d *VFIODevice) ContainerFD() int { return d.container.FD() }

// CloseVM closes the VM's own descriptor and keeps the others.
func (v *VM) CloseVM() { v.t.must(v.vm.Close()) }

// CloseVFIO closes the VM's kvm-vfio device.
func (v *VM) CloseVFIO() { v.t.must(v.vfio.Close()) }

// CloseVCPUs closes the VM's vCPUs, which ends the mapping of each too.
func (v *VM) CloseVCPUs() {
	var errs []error
	for _, p := range v.vcpus {
		errs = append(errs, p.Close())
	}
	v.t.must(errors.Join(errs...))
}

// FD is the VM's own descriptor, VFIOFD that of its kvm-vfio device.
func (v *VM) FD() int { return v.vm.FD() }

// VFIOFD is the descriptor of the VM's kvm-vfio device.
func (v *VM) VFIOFD() int { return v.vfio.FD() }

// LiveVMs is how many VMs live that the scenario or its children made.
func (t *T) LiveVMs() int {
	t.mustHost("uevents", t.events.pump())
	return len(t.events.live) - t.idle.vms
}

// Pipe makes a pipe. Its ends are closed at the end at the latest.
func (t *T) Pipe() (read, write *Descriptor) {
	var ends [2]int
	t.mustHost("pipe", unix.Pipe2(ends[:], unix.O_CLOEXEC))
	return t.own(ends[0], "pipe"), t.own(ends[1], "pipe")
}
