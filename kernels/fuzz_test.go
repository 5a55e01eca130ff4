package kernels

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func FuzzBzImage(f *testing.F) {
	f.Add(fakeImage(fakeRelease))
	f.Add(fakeImage("../../x"))
	f.Add(fakeImage("6.9")[:0x301])
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, image []byte) {
		if release, err := bzImageRelease(bytes.NewReader(image)); err == nil {
			assert.Assert(t, validRelease(release))
		} else {
			assert.Assert(t, len(err.Error()) < 2000)
		}
	})
}

// A package may hold anything; what is taken from it stays where it belongs.
func FuzzPackage(f *testing.F) {
	f.Add(fakeDeb(f, "", "", fakeKernel(f, fakeRelease)))
	f.Add(fakeDeb(f, "", ".gz", map[string][]byte{"boot/vmlinuz-6.9.1": fakeImage("6.9.1"), "../../boot/config": nil}))
	f.Add(writeAr(arMember{"data.tar", []byte("x")}))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, deb []byte) {
		name := filepath.Join(dir, "x.deb")
		assert.NilError(t, os.WriteFile(name, deb, 0o600))
		s, err := newSpool(dir)
		assert.NilError(t, err)
		defer s.Close()
		var l layout
		if bytes.Contains(deb, []byte(".xz")) {
			return // starts a program for each input
		}
		_ = l.addPackage(t.Context(), name, s)
		for _, list := range [][]file{l.vmlinuz, l.config, l.builtin, l.modules} {
			for _, file := range list {
				assert.Assert(t, filepath.IsLocal(file.name) && packageFolder.MatchString(file.name), file.name)
			}
		}
		_, _ = l.choose("")
		left, err := os.ReadDir(dir)
		assert.NilError(t, err)
		assert.Equal(t, len(left), 1)
	})
}

// kernel.json lies in a folder that others can write to.
func FuzzEntry(f *testing.F) {
	hash := strings.Repeat("a", 64)
	seed, err := json.Marshal(entry{Schema: entrySchema, Release: "6.9.1", Hash: hash, Config: true, Modules: []entryModule{
		{Name: "kvm", Deps: []string{"irqbypass", "../x"}}, {Name: "a", Deps: []string{"b"}}, {Name: "b", Deps: []string{"a"}}}})
	assert.NilError(f, err)
	f.Add(seed)
	f.Add([]byte("{}"))
	dir := filepath.Join(f.TempDir(), hash)
	assert.NilError(f, os.Mkdir(dir, 0o700))
	f.Fuzz(func(t *testing.T, data []byte) {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, entryFile), data, 0o600))
		k, err := loadKernel(dir)
		if err != nil {
			return
		}
		assert.Assert(t, validRelease(k.Release))
		for _, m := range k.entry.Modules {
			assert.Equal(t, filepath.Dir(k.module(m).File), filepath.Join(dir, modulesDir))
			_, _ = k.LoadOrder(m.Name)
		}
	})
}
