package fragments

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/nestbed/nestbed/kernels"
)

func version(t *testing.T, s string) kernels.Version {
	t.Helper()
	v, err := kernels.ParseVersion(s)
	assert.NilError(t, err)
	return v
}

func TestParse(t *testing.T) {
	f, err := Parse("mine.config", []byte(`# why
CONFIG_KVM=m
# optional: CONFIG_VFIO_GROUP since 6.6
CONFIG_VFIO_GROUP=y
# optional: CONFIG_VFIO_MDEV_DEVICE until 5.15
CONFIG_VFIO_MDEV_DEVICE=m

# optional: CONFIG_WHATEVER
CONFIG_WHATEVER="a name"
# CONFIG_SWAP is not set
`))
	assert.NilError(t, err)
	var got []string
	for _, o := range f.Options {
		got = append(got, o.Name+"="+o.Value)
	}
	assert.Equal(t, strings.Join(got, " "), "KVM=m VFIO_GROUP=y VFIO_MDEV_DEVICE=m WHATEVER=a name SWAP=n")
	required := func(i int) (list []string) {
		for _, v := range []string{"5.10", "5.15", "6.1", "6.6", "6.12", "7.3"} {
			if f.Options[i].Required(version(t, v)) {
				list = append(list, v)
			}
		}
		return list
	}
	assert.DeepEqual(t, required(0), []string{"5.10", "5.15", "6.1", "6.6", "6.12", "7.3"})
	assert.DeepEqual(t, required(1), []string{"6.6", "6.12", "7.3"})
	assert.DeepEqual(t, required(2), []string{"5.10", "5.15"})
	assert.DeepEqual(t, required(3), []string(nil))
}

func TestParseRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"KVM=m\n", `line 1: "KVM=m": want CONFIG_X=y`},
		{"CONFIG_KVM=\n", `line 1`},
		{"\nCONFIG_KVM\n", `line 2`},
		{"# optional: KVM since 6.6\nCONFIG_KVM=y\n", `line 1`},
		{"# optional: CONFIG_KVM from 6.6\nCONFIG_KVM=y\n", `line 1`},
		{"# optional: CONFIG_KVM since 6.6\n", "line 1: CONFIG_KVM is marked optional and not asked for"},
	} {
		_, err := Parse("mine.config", []byte(c.text))
		assert.ErrorContains(t, err, c.want, "%q", c.text)
		assert.ErrorContains(t, err, "mine.config", "%q", c.text)
	}
}

// Every flavour parses, names itself, and asks for the modules whose unloading is what nestbed tests.
func TestFlavours(t *testing.T) {
	seen := make(map[string]bool)
	for _, f := range Flavours() {
		assert.Assert(t, !seen[f.Name], "flavour %s twice", f.Name)
		seen[f.Name] = true
		assert.Assert(t, f.Purpose != "", f.Name)
		parts, err := f.Fragments()
		assert.NilError(t, err, f.Name)
		last := make(map[string]string)
		for _, part := range parts {
			for _, o := range part.Options {
				last[o.Name] = o.Value
			}
		}
		assert.Equal(t, last["LOCALVERSION"], "-"+f.Name)
		assert.Equal(t, last["VIRTIO_CONSOLE"], "y", f.Name)
		assert.Equal(t, last["MODULE_UNLOAD"], "y", f.Name)
	}
	_, err := Named("kcsan")
	assert.ErrorContains(t, err, `no flavour "kcsan", there are base, lockdep`)
	kasan, err := Named("kasan")
	assert.NilError(t, err)
	assert.Equal(t, kasan.Name, "kasan")
}
