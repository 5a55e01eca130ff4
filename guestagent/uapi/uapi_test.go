package uapi

import (
	"fmt"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// The numbers come from a C program compiled against the kernel's own headers.
func TestSizes(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want uintptr
	}{
		{"kvm_userspace_memory_region", unsafe.Sizeof(KVMUserspaceMemoryRegion{}), 32},
		{"kvm_regs", unsafe.Sizeof(KVMRegs{}), 144},
		{"kvm_segment", unsafe.Sizeof(KVMSegment{}), 24},
		{"kvm_dtable", unsafe.Sizeof(KVMDTable{}), 16},
		{"kvm_sregs", unsafe.Sizeof(KVMSregs{}), 312},
		{"kvm_create_device", unsafe.Sizeof(KVMDevice{}), 12},
		{"kvm_device_attr", unsafe.Sizeof(KVMDeviceAttr{}), 24},
		{"kvm_run.exit_reason", unsafe.Offsetof(KVMRunState{}.ExitReason), 8},
		{"kvm_run.io", unsafe.Offsetof(KVMRunState{}.IODirection), 32},
		{"kvm_run.io.data_offset", unsafe.Offsetof(KVMRunState{}.IODataOffset), 40},
		{"vfio_group_status", unsafe.Sizeof(VFIOGroupStatus{}), 8},
		{"vfio_device_info up to num_irqs", unsafe.Sizeof(VFIODeviceInfo{}), 16},
		{"vfio_region_info", unsafe.Sizeof(VFIORegionInfo{}), 32},
		{"vfio_irq_set header", unsafe.Offsetof(VFIOIRQSet{}.FD), 20},
		{"vfio_irq_set with one eventfd", unsafe.Sizeof(VFIOIRQSet{}), 24},
		{"vfio_iommu_type1_dma_map", unsafe.Sizeof(VFIODMAMap{}), 32},
		{"vfio_iommu_type1_dma_unmap", unsafe.Sizeof(VFIODMAUnmap{}), 24},
	} {
		assert.Equal(t, c.got, c.want, c.name)
	}
}

func TestNumbers(t *testing.T) {
	for _, c := range []struct {
		req  Request
		want uintptr
	}{
		{KVMGetAPIVersion, 0xae00},
		{KVMCreateVM, 0xae01},
		{KVMGetVCPUMmapSize, 0xae04},
		{KVMCreateVCPU, 0xae41},
		{KVMSetUserMemoryRegion, 0x4020ae46},
		{KVMSetTSSAddr, 0xae47},
		{KVMSetIdentityMapAddr, 0x4008ae48},
		{KVMRun, 0xae80},
		{KVMSetRegs, 0x4090ae82},
		{KVMGetSregs, 0x8138ae83},
		{KVMSetSregs, 0x4138ae84},
		{KVMCreateDevice, 0xc00caee0},
		{KVMSetDeviceAttr, 0x4018aee1},
		{VFIOGetAPIVersion, 0x3b64},
		{VFIOSetIOMMU, 0x3b66},
		{VFIOGroupGetStatus, 0x3b67},
		{VFIOGroupSetContainer, 0x3b68},
		{VFIOGroupGetDeviceFD, 0x3b6a},
		{VFIODeviceGetInfo, 0x3b6b},
		{VFIODeviceGetRegionInfo, 0x3b6c},
		{VFIODeviceSetIRQs, 0x3b6e},
		{VFIOIOMMUMapDMA, 0x3b71},
		{VFIOIOMMUUnmapDMA, 0x3b72},
	} {
		assert.Equal(t, c.req.Number, c.want, c.req.Name)
	}
}

func TestErrors(t *testing.T) {
	_, err := Ioctl(-1, "nothing", KVMCreateVM, 0)
	assert.ErrorIs(t, err, unix.EBADF)
	assert.Error(t, err, "KVM_CREATE_VM nothing: bad file descriptor")
	assert.Equal(t, ErrnoName(fmt.Errorf("once more: %w", err)), "EBADF")
	assert.Equal(t, ErrnoName(nil), "success")
	assert.Equal(t, ErrnoName(unix.EAGAIN), "EWOULDBLOCK")
	assert.Equal(t, ErrnoName(unix.Errno(4000)), "errno 4000")
	assert.Equal(t, ErrnoName(os.ErrClosed), os.ErrClosed.Error())

	_, err = Open("/dev/no-such-device", unix.O_RDWR)
	assert.Error(t, err, "open /dev/no-such-device: no such file or directory")

	fd, err := Open("/dev/null", unix.O_RDONLY)
	assert.NilError(t, err)
	assert.NilError(t, Close(fd, "/dev/null"))
	assert.Error(t, Close(fd, "/dev/null"), "close /dev/null: bad file descriptor")
}
