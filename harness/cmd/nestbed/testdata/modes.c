// What a program can do to whoever runs it, by its first argument.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/vfio.h>

// daemonise leaves a process in a session of its own behind that keeps a VM.
static void daemonise(void)
{
	int vm = ioctl(open("/dev/kvm", O_RDWR), KVM_CREATE_VM, 0);

	if (vm < 0) {
		perror("KVM_CREATE_VM");
		exit(1);
	}
	if (fork() == 0) {
		setsid();
		if (fork() == 0)
			for (;;)
				pause();
		_exit(0);
	}
}

// unbind takes the device from its driver while this very process has it open, which waits for ever.
static void unbind(void)
{
	char path[64];
	const char *bdf = getenv("NESTBED_BDF");
	int container = open("/dev/vfio/vfio", O_RDWR), group;

	snprintf(path, sizeof(path), "/dev/vfio/%s", getenv("NESTBED_GROUP"));
	group = open(path, O_RDWR);
	ioctl(group, VFIO_GROUP_SET_CONTAINER, &container);
	ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU);
	if (ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bdf) < 0) {
		perror("VFIO_GROUP_GET_DEVICE_FD");
		exit(1);
	}
	if (write(open("/sys/bus/pci/drivers/vfio-pci/unbind", O_WRONLY), bdf, strlen(bdf)) < 0)
		perror("unbind");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";

	printf("mode %s: \033[31mdevice %s\033[0m\n", mode, getenv("NESTBED_BDF"));
	if (!strcmp(mode, "exit")) {
		daemonise();
		fprintf(stderr, "this is stderr\n");
		return atoi(argv[2]);
	}
	if (!strcmp(mode, "unbind"))
		unbind();
	if (!strcmp(mode, "env"))
		for (char **e = environ; *e; e++)
			puts(*e);
	if (!strcmp(mode, "abort"))
		abort();
	for (int i = 0; !strcmp(mode, "flood"); i++)
		printf("line %d\n", i);
	while (!strcmp(mode, "forever"))
		pause();
	return 0;
}
