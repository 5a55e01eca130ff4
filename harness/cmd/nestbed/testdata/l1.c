// A VFIO device that was opened for a VM holds struct kvm, but from Linux 6.7 on nothing that VFIO holds pins
// the vendor module any more: it can be unloaded under the VM, and the device's last close then destroys the
// VM by code and data that are gone.
//
//	nestbed exec -k debian:6.12 --expect simple_recursive_removal -- l1.c
//
// It needs a device bound to vfio-pci, named by NESTBED_BDF and NESTBED_GROUP, and kvm_amd or kvm_intel.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/vfio.h>

static void die(const char *what)
{
	printf("%s: %s\n", what, strerror(errno));
	exit(1);
}

// must ends the program when a call that has to work does not.
static int must(int rc, const char *what)
{
	if (rc < 0)
		die(what);
	printf("%s: %d\n", what, rc);
	return rc;
}

static const char *variable(const char *name)
{
	const char *value = getenv(name);

	if (!value || !*value) {
		printf("%s is not set: run this with nestbed exec\n", name);
		exit(2);
	}
	return value;
}

int main(void)
{
	const char *bdf = variable("NESTBED_BDF");
	const char *vendor = variable("NESTBED_KVM_MODULE");
	char path[64];
	int system_fd, vm, kvm_vfio, container, group, device;
	long rc;

	// A container with a type1 IOMMU, and the device's group in it.
	snprintf(path, sizeof(path), "/dev/vfio/%s", variable("NESTBED_GROUP"));
	container = must(open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), "open the container");
	group = must(open(path, O_RDWR | O_CLOEXEC), "open the group");
	must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");

	// A VM that is told of the group before the device is opened: only then does the device take a reference.
	system_fd = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
	vm = must(ioctl(system_fd, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_VFIO };
	must(ioctl(vm, KVM_CREATE_DEVICE, &create), "KVM_CREATE_DEVICE");
	kvm_vfio = create.fd;
	struct kvm_device_attr add = {
		.group = KVM_DEV_VFIO_GROUP,
		.attr = KVM_DEV_VFIO_GROUP_ADD,
		.addr = (unsigned long)&group,
	};
	must(ioctl(kvm_vfio, KVM_SET_DEVICE_ATTR, &add), "KVM_DEV_VFIO_GROUP_ADD");
	device = must(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf), "VFIO_GROUP_GET_DEVICE_FD");

	// Every descriptor of KVM goes. The device still holds the VM.
	must(close(kvm_vfio), "close kvm-vfio");
	must(close(vm), "close the VM");
	must(close(system_fd), "close /dev/kvm");

	// This has to fail as long as the VM lives, since its end runs code of the module.
	rc = syscall(SYS_delete_module, vendor, O_NONBLOCK);
	printf("delete_module %s: %s\n", vendor, rc ? strerror(errno) : "success");

	// A kernel that let the module go, and still has the VM, dies here.
	must(close(device), "close the device");
	must(close(group), "close the group");
	must(close(container), "close the container");
	printf("still here\n");
	return 0;
}
