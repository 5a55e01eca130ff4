package kconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		assert.NilError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	return dir
}

var sample = map[string]string{
	"Kconfig": `mainmenu "Linux"
source "scripts/Kconfig.include"
source "arch/$(SRCARCH)/Kconfig"
if NET
rsource "lib/Kconfig"
endif
`,
	"arch/x86/Kconfig": `config KVM
	tristate "KVM support"
	depends on X86_LOCAL_APIC
	help
	  Words of help:
	  config NOT_A_SYMBOL
	     bool "neither is this"

	  depends on NOTHING

menu "Vendors"
	depends on VIRTUALIZATION
config KVM_AMD
	tristate "AMD"
	depends on KVM && (CPU_SUP_AMD || \
		CPU_SUP_HYGON)
endmenu
config SELECTED
	bool
config FREE
	bool "free"
config KVM_SMM
	bool "a boolean that hangs on a module"
	depends on KVM
`,
	"lib/Kconfig": `config LKDTM
	tristate "crash" if EXPERT
	depends on DEBUG_FS=y && !TINY
	depends on $(success,true)
`,
}

func TestWhy(t *testing.T) {
	k, err := Read(tree(t, sample))
	assert.NilError(t, err)
	config := map[string]string{"KVM": "m", "CPU_SUP_AMD": "y", "DEBUG_FS": "m", "NET": "y"}
	for _, c := range []struct{ symbol, want, why string }{
		{"KVM", "m", "needs X86_LOCAL_APIC [X86_LOCAL_APIC=n] (arch/x86/Kconfig)"},
		{"KVM_AMD", "m", "needs VIRTUALIZATION [VIRTUALIZATION=n] (arch/x86/Kconfig)"},
		{"KVM_AMD", "y", "needs VIRTUALIZATION [VIRTUALIZATION=n] and KVM && (CPU_SUP_AMD ||  CPU_SUP_HYGON) [KVM=m CPU_SUP_AMD=y CPU_SUP_HYGON=n] (arch/x86/Kconfig)"},
		{"LKDTM", "m", "needs EXPERT [EXPERT=n] and DEBUG_FS=y && !TINY [DEBUG_FS=m TINY=n] (lib/Kconfig)"},
		{"SELECTED", "y", "it cannot be asked for, only other options select it (arch/x86/Kconfig)"},
		{"FREE", "y", "nothing that it depends on is missing: a choice or a select decides (arch/x86/Kconfig)"},
		{"KVM_SMM", "y", "nothing that it depends on is missing: a choice or a select decides (arch/x86/Kconfig)"},
		{"NOT_A_SYMBOL", "y", "this tree has no such option"},
	} {
		got := strings.Join(strings.Fields(k.Why(c.symbol, c.want, config)), " ")
		assert.Equal(t, got, strings.Join(strings.Fields(c.why), " "), "%s=%s", c.symbol, c.want)
	}
	assert.Assert(t, strings.Contains(k.Why("LKDTM", "m", nil), "NET [NET=n]"), "the if around the source command")
}

func TestHashFollowsEveryFile(t *testing.T) {
	dir := tree(t, sample)
	one, err := Read(dir)
	assert.NilError(t, err)
	again, err := Read(dir)
	assert.NilError(t, err)
	assert.Equal(t, one.Hash(), again.Hash())
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "lib/Kconfig"), []byte(sample["lib/Kconfig"]+"\n"), 0o644))
	other, err := Read(dir)
	assert.NilError(t, err)
	assert.Assert(t, one.Hash() != other.Hash())
}

func TestReadOfNoTree(t *testing.T) {
	_, err := Read(t.TempDir())
	assert.ErrorContains(t, err, "read Kconfig")
}

// Whatever the files hold, reading ends.
func FuzzRead(f *testing.F) {
	f.Add(sample["arch/x86/Kconfig"])
	f.Add("source \"Kconfig\"\nendif\nendmenu\nif A ||\nconfig X\nbool \"")
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		assert.NilError(t, os.WriteFile(filepath.Join(dir, "Kconfig"), []byte(text), 0o644))
		k, err := Read(dir)
		if err != nil {
			return
		}
		for symbol := range k.symbols {
			k.Why(symbol, "y", map[string]string{"A": "y"})
		}
	})
}
