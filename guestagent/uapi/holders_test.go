package uapi

import (
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// The numbers come from a C program compiled against the headers of Linux 6.12.
func TestHolders(t *testing.T) {
	assert.Equal(t, unsafe.Sizeof(KVMGuestMemfd{}), uintptr(64))
	assert.Equal(t, unsafe.Sizeof(KVMStatsHeader{}), uintptr(24))
	for _, c := range []struct {
		req  Request
		want uintptr
	}{
		{KVMGetStatsFD, 0xaece},
		{KVMCreateGuestMemfd, 0xc040aed4},
		{VFIOGroupUnsetContainer, 0x3b69},
	} {
		assert.Equal(t, c.req.Number, c.want, c.req.Name)
	}
}
