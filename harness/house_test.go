package harness

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/scenarios/lab"

	_ "github.com/nestbed/nestbed/scenarios"
)

const module = "github.com/nestbed/nestbed/"

// imports is the house's plan: "A: B C" says that packages matching A may import those matching B or C,
// and nothing else of this module. A pattern is matched by path.Match, element by element; NONE is nothing.
const imports = `
results/record: NONE
images/control: NONE
images/layout: NONE
guestagent/uapi: NONE
guestagent/tracefs: NONE
guestagent/uevent: NONE
guestagent/kprobe: NONE
guestagent/bpf: NONE
harness/qmp: NONE
harness/qmp/qmptest: harness/qmp
kernels/flock: NONE
kernels/program: NONE
kernels/kconfig: NONE
kernels: kernels/flock kernels/program
kernels/fragments: kernels
kernels/source: kernels kernels/flock kernels/program
kernels/patch: NONE
kernels/mutants: NONE
kernels/checkout: kernels/flock kernels/program
kernels/build: kernels kernels/flock kernels/program kernels/fragments kernels/kconfig kernels/source

guestagent/kvm:  guestagent/uapi
guestagent/vfio: guestagent/uapi
guestagent/iommufd: guestagent/uapi
guestagent/pci:  guestagent/uapi
guestagent/kmod: guestagent/uapi
scenarios/lab: guestagent/* results/record
scenarios: scenarios/lab guestagent/* results/record
guestagent: scenarios scenarios/lab guestagent/* results/record

images: images/layout
images/sshd: images/control
images/init: images/control images/layout images/sshd guestagent/kmod

results: results/record
results/effect: results results/record
results/render: results results/effect results/record
harness/console: results/record
harness/symbols: results/record
harness/machine: images/control
harness/qemu: harness/machine harness/qmp
harness/guest: results/record images/control harness/qmp
harness/snapshot: images/control kernels/flock
harness/pool: harness/snapshot harness/qemu harness/guest harness/machine harness/qmp harness/console results/record images images/control kernels
harness/doctor: harness/qemu harness/guest harness/machine harness/pool harness/console results/record kernels
harness/plan: scenarios scenarios/lab kernels kernels/fragments harness/machine results/record
harness/runner: scenarios scenarios/lab kernels images images/layout harness/* results results/record
harness/series: scenarios/lab kernels kernels/checkout kernels/flock kernels/patch harness/machine harness/plan results results/effect results/record
harness/repro: images/layout harness/guest
harness/bench: scenarios kernels images harness/* results results/record
harness/cmd/nestbed: scenarios scenarios/lab kernels kernels/build kernels/checkout kernels/fragments kernels/patch images harness/* results results/*
harness: NONE
`

type goPackage struct {
	ImportPath   string
	Doc          string
	Name         string
	Imports      []string
	Deps         []string
	GoFiles      []string
	TestImports  []string
	XTestImports []string
}

func house(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json", "./...")
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	assert.NilError(t, err, "go list")
	var pkgs []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	assert.Assert(t, len(pkgs) > 20, "go list found %d packages", len(pkgs))
	return pkgs
}

func allowed(t *testing.T, rules, pkg string) ([]string, bool) {
	t.Helper()
	for scan := bufio.NewScanner(strings.NewReader(rules)); scan.Scan(); {
		of, may, found := strings.Cut(scan.Text(), ":")
		if found && strings.TrimSpace(of) == pkg {
			return strings.Fields(may), true
		}
	}
	return nil, false
}

// breaches lists the imports that the rules do not allow.
func breaches(t *testing.T, rules string, pkgs []goPackage) []string {
	t.Helper()
	var bad []string
	for _, p := range pkgs {
		name := strings.TrimPrefix(p.ImportPath, module)
		may, known := allowed(t, rules, name)
		if !known {
			bad = append(bad, name+" has no line in the plan")
			continue
		}
		for _, imp := range p.Imports {
			imp, ours := strings.CutPrefix(imp, module)
			if ours && !slices.ContainsFunc(may, func(pat string) bool { ok, _ := path.Match(pat, imp); return ok }) {
				bad = append(bad, name+" imports "+imp)
			}
		}
	}
	return bad
}

func TestImportsGoOneWay(t *testing.T) {
	assert.DeepEqual(t, breaches(t, imports, house(t)), []string(nil))
}

// The check itself must be able to fail.
func TestImportBreachIsSeen(t *testing.T) {
	pkgs := []goPackage{
		{ImportPath: module + "results/record", Imports: []string{"fmt", module + "kernels"}},
		{ImportPath: module + "harness/attic"},
		{ImportPath: module + "harness/runner", Imports: []string{module + "harness/pool"}},
	}
	assert.DeepEqual(t, breaches(t, imports, pkgs), []string{
		"results/record imports kernels", "harness/attic has no line in the plan",
	})
}

func TestAgentStaysSmallAndAlone(t *testing.T) {
	for _, p := range house(t) {
		if p.ImportPath != module+"guestagent" {
			continue
		}
		for _, dep := range p.Deps {
			own, ours := strings.CutPrefix(dep, module)
			if dep == "net/http" || ours && (strings.HasPrefix(own, "harness") || strings.HasPrefix(own, "results/render")) {
				t.Errorf("the guest agent links %s", dep)
			}
		}
		return
	}
	t.Fatal("no package guestagent")
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range house(t) {
		if len(p.GoFiles) > 0 && len(strings.Fields(p.Doc)) < 8 {
			t.Errorf("%s: package comment %q does not say what it owns", p.ImportPath, p.Doc)
		}
	}
}

func TestScenarioFilesAndNames(t *testing.T) {
	all := lab.All()
	assert.Assert(t, len(all) >= 8, "%d scenarios", len(all))
	shape := regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	// Go drops files that end so without a word.
	dropped := regexp.MustCompile(`-(test|linux|windows|darwin|amd64|arm64|386|arm|s390x|riscv64)$`)
	for _, s := range all {
		assert.Check(t, shape.MatchString(s.Name) && !dropped.MatchString(s.Name), "scenario name %q", s.Name)
		file := strings.ReplaceAll(s.Name, "-", "_") + ".go"
		_, err := os.Stat(filepath.Join("..", "scenarios", file))
		assert.Check(t, err, "scenario %s has no file of its own", s.Name)
		assert.Check(t, s.Summary != "" && s.Timeout > 0, "scenario %s lacks a summary or a timeout", s.Name)
	}
}

// Nothing in the repository names a package mirror of the machine that it was written on.
func TestNoMirrorIsNamed(t *testing.T) {
	cmd := exec.Command("git", "ls-files", "-z")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Skip("not a git checkout: nothing to list")
	}
	host := regexp.MustCompile(`\b(deb|security|ftp\.[a-z]{2}|archive)\.(debian\.org|ubuntu\.com)\b|proxy\.golang\.org`)
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		if name == "harness/house_test.go" {
			continue
		}
		data, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			continue // deleted, not yet committed
		}
		if hit := host.Find(data); hit != nil {
			t.Errorf("%s names %s", name, hit)
		}
	}
}
