package lab

import (
	"bytes"
	"fmt"
	"os"
	"slices"

	"github.com/nestbed/nestbed/guestagent/kmod"
)

// Regime is how the kernel ties a VFIO device to the VM that it was opened on behalf of.
type Regime uint8

// The regimes. Each releases the VM no later than the device's last close.
const (
	// R61, up to 6.1: the device points at the VM and holds nothing. Closing the VM's own descriptors
	// destroys it.
	R61 Regime = 1 + iota
	// RSYM, 6.2 to 7.3 (2b48f52f2bff): the first open takes symbol_get(kvm_put_kvm), so one reference of
	// kvm.ko, and one of the VM. It does not reach the vendor module.
	RSYM
	// RFILE, kvms390/next of October 2026 (5c3ea6d3e836), so 7.4 at the earliest: the VM's file is pinned,
	// and with it its module.
	RFILE
)

func (r Regime) String() string {
	switch r {
	case R61:
		return "R61: VFIO holds nothing of a VM"
	case RSYM:
		return "RSYM: VFIO holds the VM and kvm.ko"
	case RFILE:
		return "RFILE: VFIO holds the VM's file"
	}
	return fmt.Sprintf("regime %d", uint8(r))
}

// Regime is the kernel's. It is read off the code that is there, not off what the code does: a kernel that
// forgets the reference must fail the claims of its regime, not be taken for another.
func (t *T) Regime() Regime { return t.regime }

// findRegime looks for symbol_get(kvm_put_kvm) in vfio.ko, where a backport shows too. With VFIO built in
// only the version is left.
func findRegime(mods *kmod.Set, kernel version) (Regime, error) {
	if mods.Has("vfio") {
		text, err := os.ReadFile(mods.File("vfio"))
		if err != nil {
			return 0, fmt.Errorf("regime: %w", err)
		}
		switch bySymbol := bytes.Contains(text, []byte("kvm_put_kvm\x00")); {
		case bySymbol:
			return RSYM, nil
		case kernel.before(version{6, 2}):
			return R61, nil
		}
		return RFILE, nil
	}
	switch {
	case kernel.before(version{6, 2}):
		return R61, nil
	case kernel.before(version{7, 4}):
		return RSYM, nil
	}
	return RFILE, nil
}

// Since reports whether the kernel is of this release or a later one.
func (t *T) Since(major, minor int) bool { return !t.kernel.before(version{major, minor}) }

// version is the part of a kernel's release that scenarios may depend on.
type version struct{ major, minor int }

func (v version) before(w version) bool {
	return slices.Compare([]int{v.major, v.minor}, []int{w.major, w.minor}) < 0
}

// parseVersion reads the start of uname -r: "6.12.117+deb12-amd64".
func parseVersion(release string) (version, error) {
	var v version
	if _, err := fmt.Sscanf(release, "%d.%d", &v.major, &v.minor); err != nil {
		return v, fmt.Errorf("kernel release %q: %w", release, err)
	}
	return v, nil
}
