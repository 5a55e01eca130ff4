package console

import (
	"bytes"
	"strings"
)

// KVMUnusable recognizes, in a guest's console or in QEMU's standard error, that the host's KVM cannot run
// a guest although /dev/kvm opens; reason says so in words.
func KVMUnusable(log []byte) (reason string, ok bool) {
	find := func(marker string) string {
		_, rest, ok := bytes.Cut(log, []byte(marker))
		if !ok {
			return ""
		}
		rest, _, _ = bytes.Cut(rest, []byte("\n"))
		return clean(append([]byte(marker), rest...))
	}
	if text := find("KVM internal error. Suberror: "); text != "" {
		if bytes.Contains(log, []byte("\nemulation failure")) {
			return "KVM cannot run the guest's first instructions: emulation failure", true
		}
		return "KVM cannot run the guest: " + text, true
	}
	for _, m := range []struct{ marker, words string }{
		{"error: failed to set MSR ", "KVM refuses a model-specific register of this CPU model"},
		{"KVM: entry failed, hardware error ", "KVM cannot enter the guest"},
		{"Could not access KVM kernel module: ", "/dev/kvm cannot be opened"},
		{"failed to initialize kvm: ", "KVM cannot be used"},
		{"failed to initialize KVM: ", "KVM cannot be used"},
		{"ioctl(KVM_CREATE_VM) failed: ", "KVM cannot make a VM"},
		{"kvm run failed ", "KVM cannot run the guest"},
		{"error: kvm run failed ", "KVM cannot run the guest"},
		{"kvm_buf_set_msrs: Assertion ", "KVM refuses a model-specific register of this CPU model"},
	} {
		if text := find(m.marker); text != "" {
			return m.words + ": " + strings.TrimPrefix(text, "error: "), true
		}
	}
	return "", false
}
