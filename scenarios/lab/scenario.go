// Package lab is the vocabulary that scenarios are written in: Scenario and what it Needs, and T, whose
// verbs attach, unload and detach KVM and VFIO, claim what should hold, and clean up.
//
// It owns how a scenario runs in the guest, the stream of records it writes, and the closing invariant. It
// does not own ioctls and sysfs (guestagent/...), which return errors and know nothing of tests, nor what a
// record means for a verdict (package results). The host reads scenarios' metadata from here; only the
// guest agent runs one.
package lab

import (
	"cmp"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Scenario is one way in which a kernel's handling of KVM and VFIO can be put to the test.
type Scenario struct {
	Name     string // lower-case words with hyphens: verb-object-state
	Summary  string // the claim, in half a line
	Area     Area
	Needs    Needs
	Timeout  time.Duration // on the reference guest; scaled by how slow the guest is
	Variants []Variant     // empty: the scenario runs as it is
	Run      func(*T)
}

// Variant is one way to run a scenario's body: another interface to the same thing, another kind of
// machine.
type Variant struct {
	Name  string // as T.Variant gives it: "acpi"
	Needs Needs  // besides the scenario's own
}

// NeedsOf is what the scenario needs in one of its variants, "" being none.
func (s Scenario) NeedsOf(variant string) Needs {
	i := slices.IndexFunc(s.Variants, func(v Variant) bool { return v.Name == variant })
	if i < 0 {
		return s.Needs
	}
	return s.Needs.and(s.Variants[i].Needs)
}

// Area is the part of the subject that a scenario belongs to.
type Area string

// The areas of the subject.
const (
	Attach   Area = "attach"
	Unload   Area = "unload"
	Detach   Area = "detach"
	Hotplug  Area = "hotplug"
	IOMMU    Area = "iommu"
	IRQ      Area = "irq"
	Reset    Area = "reset" // power states too
	DMABuf   Area = "dmabuf"
	Negative Area = "negative" // bad input
	Nested   Area = "nested"

	// Detect is about nestbed itself: each of its scenarios makes the kernel report something, declares the
	// report, and passes when the kernel's log is read as exactly that. Such a report is no finding, so that a
	// cell of this area passes where the same words would be a crash anywhere else.
	Detect Area = "detect"
)

var areas = []Area{Attach, Unload, Detach, Hotplug, IOMMU, IRQ, Reset, DMABuf, Negative, Nested, Detect}

// OnDemand says whether the area's scenarios run only when they are asked for by a name or a pattern that
// begins with the area's own. They say nothing about KVM and VFIO, and their guests end badly.
func (a Area) OnDemand() bool { return a == Detect }

// Needs is what a scenario asks of kernel and machine. It is data, so that a plan can decide without
// booting anything.
type Needs struct {
	Devices   []Device // hot-added by the host when BindVFIO asks, at most so many
	IOMMU     IOMMUNeed
	Modules   []string // loaded before the baseline; "kvm" brings the CPU's vendor module, "vfio_pci" the type1 IOMMU if there is one
	MinKernel string   // "6.6"; empty: any
	MaxKernel string   // inclusive: "6.1" includes every 6.1.y
	Options   []string // "CONFIG_X", each y or m
	Without   []string // "CONFIG_X", none y or m

	// NativeHotplug asks for root ports that do hot-plug by themselves (pciehp). q35 leaves it to ACPI
	// otherwise, as stock machines do.
	NativeHotplug bool

	// NoInterruptRemapping asks for an IOMMU that does not remap interrupts. It translates DMA as ever.
	NoInterruptRemapping bool

	// FreshBoot says why a guest that was saved and restored would not do: "" for nearly all. It takes a boot.
	FreshBoot string
}

// and joins two needs: bounds of more replace those of n, all else adds up.
func (n Needs) and(more Needs) Needs {
	return Needs{
		Devices:       slices.Concat(n.Devices, more.Devices),
		IOMMU:         max(n.IOMMU, more.IOMMU),
		Modules:       slices.Concat(n.Modules, more.Modules),
		MinKernel:     cmp.Or(more.MinKernel, n.MinKernel),
		MaxKernel:     cmp.Or(more.MaxKernel, n.MaxKernel),
		Options:       slices.Concat(n.Options, more.Options),
		Without:       slices.Concat(n.Without, more.Without),
		NativeHotplug: n.NativeHotplug || more.NativeHotplug,

		NoInterruptRemapping: n.NoInterruptRemapping || more.NoInterruptRemapping,

		FreshBoot: cmp.Or(more.FreshBoot, n.FreshBoot),
	}
}

// IOMMUNeed is what a scenario needs of the machine's virtual IOMMU.
type IOMMUNeed uint8

// The needs. The zero value does not care.
const (
	NoIOMMU  IOMMUNeed = iota // runs with or without
	AnyIOMMU                  // intel, amd or virtio
)

func (n IOMMUNeed) String() string {
	switch n {
	case NoIOMMU:
		return "no IOMMU needed"
	case AnyIOMMU:
		return "any IOMMU"
	}
	return fmt.Sprintf("IOMMU need %d", uint8(n))
}

var (
	nameForm    = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	optionForm  = regexp.MustCompile(`^CONFIG_[A-Z0-9_]+$`)
	versionForm = regexp.MustCompile(`^([0-9]+\.[0-9]+)?$`)

	// Go drops a file silently whose name ends in one of these after an underscore.
	fileSuffixes = []string{
		"test", "aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "netbsd",
		"openbsd", "plan9", "solaris", "wasip1", "windows", "386", "amd64", "arm", "arm64", "loong64", "mips",
		"mips64", "mips64le", "mipsle", "ppc64", "ppc64le", "riscv", "riscv64", "s390x", "wasm",
	}
)

// Validate says what is wrong with the metadata.
func (s Scenario) Validate() error {
	last := s.Name[strings.LastIndex(s.Name, "-")+1:]
	switch {
	case !nameForm.MatchString(s.Name):
		return fmt.Errorf("scenario %q: the name is not lower-case words with hyphens", s.Name)
	case slices.Contains(fileSuffixes, last):
		return fmt.Errorf("scenario %s: Go would drop a file whose name ends in %q", s.Name, last)
	case s.Summary == "" || strings.ContainsAny(s.Summary, "\n\t"):
		return fmt.Errorf("scenario %s: the summary is not one line", s.Name)
	case !slices.Contains(areas, s.Area):
		return fmt.Errorf("scenario %s: unknown area %q", s.Name, s.Area)
	case s.Area.OnDemand() && !strings.HasPrefix(s.Name, string(s.Area)+"-"):
		return fmt.Errorf("scenario %s: nobody who asks for area %s would get it by this name", s.Name, s.Area)
	case s.Timeout <= 0:
		return fmt.Errorf("scenario %s: no timeout", s.Name)
	case s.Run == nil:
		return fmt.Errorf("scenario %s: nothing to run", s.Name)
	}
	for i, v := range s.Variants {
		if !nameForm.MatchString(v.Name) {
			return fmt.Errorf("scenario %s: variant %q is not lower-case words with hyphens", s.Name, v.Name)
		}
		if slices.ContainsFunc(s.Variants[:i], func(w Variant) bool { return w.Name == v.Name }) {
			return fmt.Errorf("scenario %s: variant %s twice", s.Name, v.Name)
		}
		if err := v.Needs.validate(); err != nil {
			return fmt.Errorf("scenario %s@%s: %w", s.Name, v.Name, err)
		}
	}
	if err := s.Needs.validate(); err != nil {
		return fmt.Errorf("scenario %s: %w", s.Name, err)
	}
	return nil
}

func (n Needs) validate() error {
	if !versionForm.MatchString(n.MinKernel) || !versionForm.MatchString(n.MaxKernel) {
		return errors.New("a kernel bound that is not MAJOR.MINOR")
	}
	for _, o := range slices.Concat(n.Options, n.Without) {
		if !optionForm.MatchString(o) {
			return fmt.Errorf("option %q is not CONFIG_X", o)
		}
	}
	return nil
}

// registry is what the scenarios' files announce when the program starts, before anything runs.
var registry struct {
	scenarios map[string]Scenario
	children  map[string]ChildFunc
	sources   map[string]fs.FS
}

// Register announces a scenario. A mistake in one is a mistake in the program, hence the panic.
func Register(s Scenario) Scenario {
	if err := s.Validate(); err != nil {
		panic(err)
	}
	if _, twice := registry.scenarios[s.Name]; twice {
		panic(fmt.Errorf("scenario %s: registered twice", s.Name))
	}
	if registry.scenarios == nil {
		registry.scenarios = map[string]Scenario{}
	}
	registry.scenarios[s.Name] = s
	return s
}

// All lists the scenarios by name.
func All() []Scenario {
	list := make([]Scenario, 0, len(registry.scenarios))
	for _, s := range registry.scenarios {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Scenario) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Lookup finds a scenario by its name.
func Lookup(name string) (Scenario, bool) {
	s, ok := registry.scenarios[name]
	return s, ok
}

//go:embed *.go
var source embed.FS

// RegisterSource adds a package's source to what Catalogue stands for.
func RegisterSource(pkg string, files fs.FS) bool {
	if registry.sources == nil {
		registry.sources = map[string]fs.FS{}
	}
	registry.sources[pkg] = files
	return true
}

var _ = RegisterSource("lab", source)

// Catalogue is a hash of the sources of the scenarios and of this package. Host and agent each know it; an
// agent that says another one was built from other scenarios than the host plans with.
func Catalogue() string {
	h := sha256.New()
	pkgs := make([]string, 0, len(registry.sources))
	for pkg := range registry.sources {
		pkgs = append(pkgs, pkg)
	}
	slices.Sort(pkgs)
	for _, pkg := range pkgs {
		names, err := fs.Glob(registry.sources[pkg], "*.go")
		if err != nil { // only a bad pattern
			panic(err)
		}
		for _, name := range names {
			// A test does not change what runs.
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			text, err := fs.ReadFile(registry.sources[pkg], name)
			if err != nil { // the files are in the binary
				panic(err)
			}
			fmt.Fprintf(h, "%s/%s %d\n", pkg, name, len(text))
			h.Write(text)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
