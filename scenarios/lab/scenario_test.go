package lab

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/guestagent/kmod"
	"github.com/nestbed/nestbed/guestagent/pci"
)

func TestValidate(t *testing.T) {
	good := Scenario{
		Name: "attach-device-twice", Summary: "it works", Area: Attach, Timeout: time.Second, Run: func(*T) {},
		Variants: []Variant{{Name: "cdev-iommufd"}},
		Needs:    Needs{MinKernel: "6.6", Options: []string{"CONFIG_IOMMUFD"}},
	}
	assert.NilError(t, good.Validate())
	for want, change := range map[string]func(*Scenario){
		"lower-case words":    func(s *Scenario) { s.Name = "Attach" },
		"not lower-case":      func(s *Scenario) { s.Name = "" },
		`ends in "test"`:      func(s *Scenario) { s.Name = "attach-test" },
		`ends in "arm64"`:     func(s *Scenario) { s.Name = "attach-arm64" },
		"not one line":        func(s *Scenario) { s.Summary = "a\nb" },
		"unknown area":        func(s *Scenario) { s.Area = "sundry" },
		"asks for area":       func(s *Scenario) { s.Area = Detect },
		"no timeout":          func(s *Scenario) { s.Timeout = 0 },
		"nothing to run":      func(s *Scenario) { s.Run = nil },
		"MAJOR.MINOR":         func(s *Scenario) { s.Needs.MaxKernel = "6" },
		`variant "x y"`:       func(s *Scenario) { s.Variants = []Variant{{Name: "x y"}} },
		"variant v twice":     func(s *Scenario) { s.Variants = []Variant{{Name: "v"}, {Name: "v"}} },
		"@v: option":          func(s *Scenario) { s.Variants = []Variant{{Name: "v", Needs: Needs{Options: []string{"X"}}}} },
		`option "IOMMUFD" is`: func(s *Scenario) { s.Needs.Options = []string{"IOMMUFD"} },
		`option "KASAN" is`:   func(s *Scenario) { s.Needs.Without = []string{"KASAN"} },
	} {
		s := good
		change(&s)
		assert.ErrorContains(t, s.Validate(), want)
	}
}

func panics(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// clean puts the registry back, which a program fills only while it starts.
func clean(t *testing.T) {
	saved := registry
	registry.scenarios, registry.sources = nil, nil
	t.Cleanup(func() { registry = saved })
}

func TestRegister(t *testing.T) {
	clean(t)
	s := Scenario{Name: "b", Summary: "b", Area: Attach, Timeout: time.Second, Run: func(*T) {}}
	Register(s)
	s.Name = "a"
	Register(s)
	all := All()
	assert.Assert(t, len(all) == 2 && all[0].Name == "a" && all[1].Name == "b")
	_, ok := Lookup("b")
	assert.Assert(t, ok)
	_, ok = Lookup("c")
	assert.Assert(t, !ok)
	assert.Assert(t, panics(func() { Register(s) }) != nil, "twice")
	assert.Assert(t, panics(func() { Register(Scenario{Name: "c"}) }) != nil, "invalid")
	assert.Assert(t, panics(func() { RegisterChild("test-speaks", nil) }) != nil, "child twice")
}

func TestCatalogue(t *testing.T) {
	clean(t)
	files := fstest.MapFS{"a.go": {Data: []byte("package a")}, "a_test.go": {Data: []byte("package a")}}
	RegisterSource("scenarios", files)
	before := Catalogue()
	files["a_test.go"].Data = []byte("package a // changed")
	assert.Equal(t, Catalogue(), before, "a test changes nothing that runs")
	files["a.go"].Data = []byte("package a // changed")
	assert.Assert(t, Catalogue() != before)
}

func TestWatcher(t *testing.T) {
	kvm := func(event, pid, path string) map[string]string {
		ev := map[string]string{"ACTION": "change", "DEVPATH": "/devices/virtual/misc/kvm", "SUBSYSTEM": "misc", "EVENT": event, "PID": pid}
		if path != "" {
			ev["STATS_PATH"] = path
		}
		return ev
	}
	w := &watcher{}
	w.take(kvm("create", "7", "/kvm/7-4"))
	w.take(kvm("create", "7", "")) // the same pid and number again: no directory
	w.take(kvm("create", "9", "/kvm/9-4"))
	w.take(map[string]string{"ACTION": "remove", "DEVPATH": "/devices/virtual/misc/kvm", "SUBSYSTEM": "misc"})
	assert.Assert(t, w.lives(1) && w.lives(2) && w.lives(3) && !w.lives(4))
	w.take(kvm("destroy", "7", ""))
	assert.Assert(t, w.lives(1) && !w.lives(2), "the one without a directory went")
	w.take(kvm("destroy", "9", "/kvm/9-4"))
	w.take(kvm("destroy", "8", "/kvm/8-1")) // somebody else's, from before we listened
	assert.Assert(t, w.lives(1) && len(w.live) == 1)

	w.take(map[string]string{"ACTION": "add", "SUBSYSTEM": "pci", "PCI_ID": "8086:100E", "PCI_SLOT_NAME": "0000:02:00.0"})
	w.take(map[string]string{"ACTION": "add", "SUBSYSTEM": "pci", "PCI_ID": "1234:11E8", "PCI_SLOT_NAME": "0000:01:00.0"})
	assert.DeepEqual(t, w.added, []string{"8086:100E 0000:02:00.0", "1234:11E8 0000:01:00.0"})
	assert.Equal(t, strings.ToUpper(pci.EDUID.String()), "1234:11E8")
}

func TestRegimes(t *testing.T) {
	root := guestRoot(t)
	mods, err := kmod.Open(root.Path(), kmod.Dir)
	assert.NilError(t, err)
	vfio := mods.File("vfio")
	for _, c := range []struct {
		text    string
		release string
		want    Regime
	}{
		{"\x00kvm_put_kvm\x00", "6.12.117+deb12-amd64", RSYM},
		{"\x00kvm_put_kvm\x00", "5.14.0-503.el9", RSYM}, // a backport
		{"vfio_device_put_kvm\x00", "6.1.0-56-amd64", R61},
		{"vfio_device_put_kvm\x00", "6.2.0", RFILE},
		{"vfio_device_put_kvm\x00", "7.4.0-rc1", RFILE},
	} {
		writeFile(t, vfio, c.text)
		v, err := parseVersion(c.release)
		assert.NilError(t, err)
		got, err := findRegime(mods, v)
		assert.NilError(t, err)
		assert.Equal(t, got, c.want, c.release)
	}

	// Built in: the version is all there is.
	writeFile(t, root.Join("lib/nestbed/modules.json"), "[]")
	mods, err = kmod.Open(root.Path(), kmod.Dir)
	assert.NilError(t, err)
	for release, want := range map[string]Regime{"6.1.0": R61, "6.2.0": RSYM, "7.3.4": RSYM, "7.4.0": RFILE} {
		v, err := parseVersion(release)
		assert.NilError(t, err)
		got, err := findRegime(mods, v)
		assert.NilError(t, err)
		assert.Equal(t, got, want, release)
	}
	_, err = parseVersion("linux")
	assert.ErrorContains(t, err, `kernel release "linux"`)
}
