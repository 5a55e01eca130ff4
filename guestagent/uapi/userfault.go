package uapi

// The ioctls of a userfaultfd that the agent uses.
var (
	UFFDAPI      = Request{"UFFDIO_API", ioc(iocRead|iocWrite, 0xaa, 0x3f, 24)}
	UFFDRegister = Request{"UFFDIO_REGISTER", ioc(iocRead|iocWrite, 0xaa, 0x00, 32)}
)

// UFFDVersion is UFFD_API, and UFFDMissing is UFFDIO_REGISTER_MODE_MISSING.
const (
	UFFDVersion = 0xaa
	UFFDMissing = 1
)

// UFFDAPIArgs is struct uffdio_api.
type UFFDAPIArgs struct{ API, Features, Ioctls uint64 }

// UFFDRegisterArgs is struct uffdio_register.
type UFFDRegisterArgs struct{ Start, Len, Mode, Ioctls uint64 }
