package console

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func TestDemangle(t *testing.T) {
	for symbol, want := range map[string]string{
		"kvm_put_kvm": "kvm_put_kvm",
		"_RNvCs1a2B3c_10rust_vhost18vhost_rust_release":                 "rust_vhost::vhost_rust_release",
		"_RNvNtCs9jEwPDbx20M_4core9panicking9panic_fmt":                 "core::panicking::panic_fmt",
		"_RNvCscSpY9Juk0HT_7___rustc17rust_begin_unwind":                "__rustc::rust_begin_unwind",
		"_RNvMs3_NtCs1a2B3c_10rust_vhost6deviceNtB5_6Device3put":        "<rust_vhost::device::Device>::put",
		"_RNCNvCs1a2B3c_4vfio4open0":                                    "vfio::open::{closure#0}",
		"_RNCNvCs1a2B3c_4vfio4opens_0":                                  "vfio::open::{closure#1}",
		"_RNvXs_NtCs1a2B3c_4vfio5groupNtB4_5GroupNtNtB6_3ops4Drop4drop": "<vfio::group::Group as vfio::ops::Drop>::drop",
		"_RINvCs1a2B3c_4vfio3mapRShmECs4d_3kvm":                         "vfio::map<&[u8], u32>",
		"_RNvCs1a2B3c_10rust":                                           "_RNvCs1a2B3c_10rust", // cut
		"_RB_":                                                          "_RB_",
		"_RNvB0_1a":                                                     "_RNvB0_1a",
		"_RIB_" + strings.Repeat("TTTT", 400):                           "_RIB_" + strings.Repeat("TTTT", 400),
	} {
		assert.Equal(t, demangle(symbol), want)
	}
}
