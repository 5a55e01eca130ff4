package vfio

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestIRQData(t *testing.T) {
	assert.DeepEqual(t, words([]int{7, -1}), []byte{7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	assert.DeepEqual(t, bools([]bool{false, true}), []byte{0, 1})
	assert.Equal(t, len(words(nil))+len(bools(nil)), 0)
}

func TestIRQErrorsNameTheOperation(t *testing.T) {
	d := &Device{uapi.Own(-1, "0000:01:00.0")}
	_, info := d.IRQInfo(0)
	assert.Error(t, info, "VFIO_DEVICE_GET_IRQ_INFO 0000:01:00.0: bad file descriptor")
	for _, err := range []error{
		d.SetTriggers(uapi.VFIOPCIMSIX, 0, 3, -1), d.Trigger(0, 0, 1), d.TriggerIf(0, 0, true),
		d.DisableIRQ(0), d.Mask(), d.Unmask(), d.UnmaskOn(-1),
	} {
		assert.Error(t, err, "VFIO_DEVICE_SET_IRQS 0000:01:00.0: bad file descriptor")
	}
	_, err := (&Region{dev: d, name: "0000:01:00.0 region 0", size: 8}).Memory(4096)
	assert.Error(t, err, "mmap 0000:01:00.0 region 0: 4096 bytes of 0x8")
	_, err = (&Region{dev: d, name: "0000:01:00.0 region 0", size: 4096}).Memory(4096)
	assert.Error(t, err, "mmap 0000:01:00.0 region 0: bad file descriptor")
}
