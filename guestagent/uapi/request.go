package uapi

// VFIOPCIRequest is the interrupt index by which the kernel asks for a device back
// (VFIO_PCI_REQ_IRQ_INDEX).
const VFIOPCIRequest = 4
