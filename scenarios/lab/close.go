package lab

import "errors"

// CloseDevice closes the device and keeps its group and container.
func (d *VFIODevice) CloseDevice() { d.t.must(d.device.Close()) }

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
