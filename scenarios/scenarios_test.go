package scenarios

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
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
		name := strings.ReplaceAll(s.Name, "-", "_") + ".go"
		want[name] = true
		comment, lit := registration(t, name)
		assert.Assert(t, len(comment) > 100, "%s: no comment worth the name before lab.Register", name)
		assert.Equal(t, lit, s.Name, name)
		assert.NilError(t, s.Validate())
	}
	for _, f := range files {
		assert.Assert(t, want[f.Name()], "%s: neither a scenario's file nor doc.go", f.Name())
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
		assert.Equal(t, len(s.Needs.Devices), strings.Count(string(text), "t.BindVFIO("), "%s: devices", s.Name)
		assert.Equal(t, s.Needs.IOMMU == lab.AnyIOMMU, uses("BindVFIO"), "%s: IOMMU", s.Name)
		has := func(list []string, word string) bool {
			return strings.Contains(" "+strings.Join(list, " ")+" ", " "+word+" ")
		}
		assert.Equal(t, has(s.Needs.Modules, "kvm"), uses("t.NewVM()"), "%s: module kvm", s.Name)
		assert.Equal(t, has(s.Needs.Options, "CONFIG_KVM"), uses("t.NewVM()"), "%s: CONFIG_KVM", s.Name)
		assert.Equal(t, has(s.Needs.Modules, "vfio_pci"), uses("BindVFIO"), "%s: module vfio_pci", s.Name)
		assert.Equal(t, has(s.Needs.Options, "CONFIG_MODULE_UNLOAD"), uses(".Unload()"), "%s: CONFIG_MODULE_UNLOAD", s.Name)
	}
}
