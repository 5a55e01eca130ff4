package lab

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nestbed/nestbed/results/record"
)

// ExecName is the name of the scenario that a program of the user's makes. It is in no catalogue; its one
// variant names the program.
const ExecName = "exec"

// Program is a program that runs in the place of a scenario's body: what `nestbed exec` asks for on the
// host, and `agent exec` runs in the guest.
type Program struct {
	Name       string        // lower-case words with hyphens
	Argv       []string      // the first is a path in the guest
	Devices    []Device      // bound to vfio-pci before it starts, in this order
	Timeout    time.Duration // on the reference guest; scaled by how slow the guest is
	Reproducer bool          // how it ends is evidence and no claim
}

// dieGrace is what a program gets to die after SIGKILL. One that takes longer is held by the kernel.
const dieGrace = 10 * time.Second

// Scenario is the program as something to plan, run and judge. It needs the modules even when it has no
// device: a guest in which it finds neither KVM nor VFIO is none of ours.
func (p Program) Scenario() Scenario {
	needs := Needs{
		Devices: p.Devices,
		Modules: []string{"kvm", "vfio_pci"},
		Options: []string{"CONFIG_KVM", "CONFIG_VFIO_PCI"},
	}
	if len(p.Devices) > 0 {
		needs.IOMMU = AnyIOMMU
	}
	return Scenario{
		Name:     ExecName,
		Summary:  "a program of the user's: " + p.Name,
		Needs:    needs,
		Timeout:  p.Timeout + dieGrace,
		Variants: []Variant{{Name: p.Name}},
		Run:      p.run,
	}
}

// Words are the agent's arguments that run the program; ParseProgram reads them.
func (p Program) Words(scale float64) []string {
	words := []string{"exec", "--name", p.Name, "--timeout", p.Timeout.String(), "--scale", strconv.FormatFloat(scale, 'f', 2, 64)}
	for _, d := range p.Devices {
		words = append(words, "--device", d.Name)
	}
	if p.Reproducer {
		words = append(words, "--reproducer")
	}
	return append(append(words, "--"), p.Argv...)
}

// ParseProgram reads what follows the word exec in Words.
func ParseProgram(args []string) (p Program, scale float64, err error) {
	flags := flag.NewFlagSet("exec", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // the error says it
	flags.StringVar(&p.Name, "name", "program", "")
	flags.DurationVar(&p.Timeout, "timeout", time.Minute, "")
	flags.Float64Var(&scale, "scale", 1, "")
	flags.BoolVar(&p.Reproducer, "reproducer", false, "")
	flags.Func("device", "", func(name string) error {
		d, err := DeviceNamed(name)
		p.Devices = append(p.Devices, d)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return p, scale, err
	}
	p.Argv = flags.Args()
	return p, scale, errors.Join(p.Validate(), positive(scale))
}

func positive(scale float64) error {
	if scale <= 0 {
		return errors.New("the scale is not positive")
	}
	return nil
}

// Validate says what is wrong with the program as far as that can be told without it.
func (p Program) Validate() error {
	switch {
	case len(p.Argv) == 0:
		return errors.New("no program")
	case !nameForm.MatchString(p.Name):
		return fmt.Errorf("program name %q: not lower-case words with hyphens", p.Name)
	case p.Timeout <= 0:
		return fmt.Errorf("a time limit of %v is none", p.Timeout)
	case slices.ContainsFunc(p.Argv, func(word string) bool { return strings.ContainsRune(word, 0) }):
		return errors.New("a zero byte in the arguments")
	}
	return nil
}

// run is the scenario's body.
func (p Program) run(t *T) {
	var devices []*VFIODevice
	for _, kind := range p.Devices {
		t.Step("bind " + kind.Name + " to vfio-pci")
		devices = append(devices, t.BindVFIO(kind))
	}
	environ := p.environ(t, devices)
	t.Log("environment: " + strings.Join(environ, " "))

	t.Step(record.ProgramStep)
	proc := t.startProgram(p.Argv, environ)
	inTime := proc.wait(p.Timeout)
	proc.end() // nothing of it may be left when the closing invariant is taken
	t.mustHost("uevents", proc.lost)
	end := fmt.Sprintf("%s after %.1fs", proc.how(), proc.took.Seconds())
	if !inTime {
		end = fmt.Sprintf("no end within %v, killed", p.Timeout)
	}
	t.exit(end)
	if !p.Reproducer {
		p.claim(t, inTime, proc)
	}
	t.reloadNeeds()
}

// exit says how the program ended; the last word counts.
func (t *T) exit(how string) {
	t.stream.write(record.Record{Kind: record.KindLog, Log: &record.Log{Text: how, From: record.FromExit}})
}

func (p Program) claim(t *T, inTime bool, proc *program) {
	if !inTime {
		t.stream.check(record.Check{
			Claim: fmt.Sprintf("the program ends within %v", p.Timeout), Want: "an end", Got: "no end within " + p.Timeout.String(),
		})
		return
	}
	const well = "exit status 0"
	t.stream.check(record.Check{OK: proc.how() == well, Claim: "the program exits with status 0", Want: well, Got: proc.how()})
}

// environ is the program's environment: of the guest, and of each device. The first device's variables have
// no number, so that a program for one device need not know of numbers.
func (p Program) environ(t *T, devices []*VFIODevice) []string {
	iommu := string(t.IOMMU())
	if iommu == "" {
		iommu = "none"
	}
	env := []string{
		"PATH=" + filepath.Dir(t.env.Self), "HOME=/root", "TERM=dumb",
		"NESTBED_IOMMU=" + iommu, "NESTBED_KVM_MODULE=" + t.vendor, fmt.Sprintf("NESTBED_DEVICES=%d", len(devices)),
	}
	for i, d := range devices {
		suffix := ""
		if i > 0 {
			suffix = fmt.Sprintf("_%d", i+1)
		}
		env = append(env,
			"NESTBED_DEVICE"+suffix+"="+p.Devices[i].Name,
			"NESTBED_BDF"+suffix+"="+d.Address(),
			fmt.Sprintf("NESTBED_GROUP%s=%d", suffix, d.Group()))
		if node := t.cdev(d.Address()); node != "" {
			env = append(env, "NESTBED_CDEV"+suffix+"="+node)
		}
	}
	return env
}

// reloadNeeds puts back the modules that the program has unloaded, as it may: the closing invariant counts
// their references.
func (t *T) reloadNeeds() {
	for _, name := range slices.Sorted(maps.Keys(t.baseline.refs)) {
		if t.mods.Loaded(name) {
			continue
		}
		t.Log("the program has left " + name + " unloaded; it is loaded again")
		t.must(t.mods.Load(name))
	}
}
