package uapi

import (
	"testing"
	"unsafe"

	"gotest.tools/v3/assert"
)

// From a C program compiled against the headers of Linux 6.1.
func TestUserfault(t *testing.T) {
	assert.Equal(t, UFFDAPI.Number, uintptr(0xc018aa3f))
	assert.Equal(t, UFFDRegister.Number, uintptr(0xc020aa00))
	assert.Equal(t, unsafe.Sizeof(UFFDAPIArgs{}), uintptr(24))
	assert.Equal(t, unsafe.Sizeof(UFFDRegisterArgs{}), uintptr(32))
	assert.Equal(t, UFFDVersion, 0xaa)
	assert.Equal(t, UFFDMissing, 1)
}
