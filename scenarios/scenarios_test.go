package scenarios

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/scenarios/lab"
)

// Each scenario has a file that bears its name and a comment that says what should hold.
func TestFiles(t *testing.T) {
	files, err := source.ReadDir(".")
	assert.NilError(t, err)
	all := lab.All()
	assert.Assert(t, len(all) >= 8, "%d scenarios", len(all))
	want := map[string]bool{"doc.go": true, "scenarios_test.go": true}
	for _, s := range all {
		want[string(s.Area)+"_test.go"] = true // how its scenarios were seen to fail
	}
	for _, s := range all {
		name := strings.ReplaceAll(s.Name, "-", "_") + ".go"
		want[name] = true
		comment, lit := registration(t, name)
		assert.Assert(t, len(comment) > 100, "%s: no comment worth the name before lab.Register", name)
		assert.Equal(t, lit, s.Name, name)
		assert.NilError(t, s.Validate())
	}
	for _, f := range files {
		assert.Assert(t, want[f.Name()], "%s: neither a scenario's file nor an area's test", f.Name())
	}
}

// registration finds `var _ = lab.Register(lab.Scenario{Name: "..."})`, its comment and the name.
func registration(t *testing.T, file string) (comment, name string) {
	t.Helper()
	text, err := os.ReadFile(file)
	assert.NilError(t, err)
	tree, err := parser.ParseFile(token.NewFileSet(), file, text, parser.ParseComments)
	assert.NilError(t, err)
	for _, d := range tree.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR || !strings.Contains(string(text[g.Pos()-1:g.End()-1]), "lab.Register(") {
			continue
		}
		_, after, _ := strings.Cut(string(text[g.Pos()-1:g.End()-1]), `Name:`)
		_, after, _ = strings.Cut(after, `"`)
		name, _, _ = strings.Cut(after, `"`)
		return g.Doc.Text(), name
	}
	t.Fatalf("%s registers no scenario", file)
	return "", ""
}

// What the plan reads must be what the scenario uses.
func TestNeeds(t *testing.T) {
	for _, s := range lab.All() {
		text, err := os.ReadFile(strings.ReplaceAll(s.Name, "-", "_") + ".go")
		assert.NilError(t, err)
		uses := func(word string) bool { return strings.Contains(string(text), word) }
		needs := everyNeed(s)
		device := uses("BindVFIO(")
		assert.Equal(t, len(needs.Devices) > 0, device, "%s: devices", s.Name)
		assert.Equal(t, needs.IOMMU == lab.AnyIOMMU, device, "%s: IOMMU", s.Name)
		for _, c := range []struct {
			word string
			list []string
			used bool
		}{
			{"kvm", needs.Modules, uses("t.NewVM()")},
			{"CONFIG_KVM", needs.Options, uses("t.NewVM()")},
			{"vfio_pci", needs.Modules, device},
			{"CONFIG_VFIO_PCI", needs.Options, device},
			{"CONFIG_MODULE_UNLOAD", needs.Options, uses(".Unload()")},
		} {
			assert.Assert(t, !c.used || slices.Contains(c.list, c.word), "%s: %s is used and not needed", s.Name, c.word)
		}
	}
}

// everyNeed is what some variant of the scenario needs.
func everyNeed(s lab.Scenario) lab.Needs {
	needs := s.Needs
	for _, v := range s.Variants {
		more := s.NeedsOf(v.Name)
		needs.Devices = append(needs.Devices, more.Devices...)
		needs.Modules = append(needs.Modules, more.Modules...)
		needs.Options = append(needs.Options, more.Options...)
		needs.IOMMU = max(needs.IOMMU, more.IOMMU)
	}
	return needs
}

// seen says of every scenario how it was seen to fail; the files of the areas fill it. A check that was never
// red may be one that cannot be.
var seen = map[string]string{}

// seenToFail notes how a scenario was seen to fail, and as what: a kernel that has the bug, a fault put
// into the kernel, or a wrong expectation put into the scenario by hand.
func seenToFail(scenario, how string) bool {
	if seen[scenario] != "" {
		panic(scenario + " noted twice")
	}
	seen[scenario] = how
	return true
}

func TestSeenToFail(t *testing.T) {
	for _, s := range lab.All() {
		assert.Check(t, len(seen[s.Name]) > 20, "%s: how was it seen to fail?", s.Name)
		delete(seen, s.Name)
	}
	assert.Check(t, len(seen) == 0, "no such scenario: %v", seen)
}
