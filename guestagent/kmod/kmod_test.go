package kmod

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"

	"github.com/nestbed/nestbed/guestagent/uapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// root is a guest's file system with kvm loaded, irqbypass built in and vfio neither.
func root(t *testing.T) *fs.Dir {
	t.Helper()
	return fs.NewDir(t, "root",
		fs.WithDir("lib", fs.WithDir("nestbed",
			fs.WithFile("modules.json", `[
				{"name":"kvm","deps":["irqbypass"]},
				{"name":"vfio","deps":[]},
				{"name":"vfio_pci","deps":["builtin_one","vfio"]},
				{"name":"a","deps":["b"]}, {"name":"b","deps":["a"]}]`),
			fs.WithDir("modules", fs.WithFile("vfio.ko", "not a module"), fs.WithFile("a.ko", ""), fs.WithFile("b.ko", "")))),
		fs.WithDir("sys", fs.WithDir("module",
			fs.WithDir("kvm",
				fs.WithFile("refcnt", "3\n"), fs.WithFile("initstate", "live\n"),
				fs.WithDir("parameters", fs.WithFile("ignore_msrs", "N"))),
			fs.WithDir("kvm_amd", fs.WithFile("refcnt", "0\n"), fs.WithFile("initstate", "going\n")),
			fs.WithDir("irqbypass", fs.WithDir("parameters")))))
}

func TestSysfs(t *testing.T) {
	dir := root(t)
	s, err := Open(dir.Path(), Dir)
	assert.NilError(t, err)

	assert.Assert(t, s.Has("vfio") && !s.Has("irqbypass"))
	assert.Equal(t, s.File("vfio"), dir.Join("lib/nestbed/modules/vfio.ko"))
	assert.Assert(t, s.Present("kvm") && s.Loaded("kvm"))
	assert.Assert(t, s.Present("irqbypass") && !s.Loaded("irqbypass"), "built in: there, without a count")
	assert.Assert(t, !s.Present("kvm_amd"), "going")
	assert.Assert(t, !s.Present("vfio"))

	n, err := s.Refs("kvm")
	assert.NilError(t, err)
	assert.Equal(t, n, 3)
	_, err = s.Refs("vfio")
	assert.Error(t, err, "reference count of module vfio: not loaded")

	assert.NilError(t, s.SetParameter("kvm", "ignore_msrs", "Y"))
	text, err := os.ReadFile(dir.Join("sys/module/kvm/parameters/ignore_msrs"))
	assert.NilError(t, err)
	assert.Equal(t, string(text), "Y")
	assert.ErrorContains(t, s.SetParameter("vfio", "x", "Y"), "parameter of module vfio")
}

func TestLoad(t *testing.T) {
	s, err := Open(root(t).Path(), Dir)
	assert.NilError(t, err)

	assert.NilError(t, s.Load("kvm"), "loaded already")
	assert.NilError(t, s.Load("irqbypass"), "built in")
	assert.ErrorIs(t, s.Load("nvidia"), ErrMissing)
	assert.ErrorContains(t, s.Load("a"), "load module a: depends on itself through a b")

	// The dependency is tried first, and its file is no module (or we may not load one): either way the
	// kernel is asked about vfio, not about vfio_pci. builtin_one, which has no file, was no error.
	err = s.Load("vfio_pci")
	refused, ok := errors.AsType[*uapi.Error](err)
	assert.Assert(t, ok, "%v", err)
	assert.Equal(t, refused.Op+" "+refused.Object, "finit_module vfio")
}

func TestUnloadOfWhatIsNotThere(t *testing.T) {
	s, err := Open(root(t).Path(), Dir)
	assert.NilError(t, err)
	// ENOENT for root, EPERM for others, ENOSYS in some containers: in each the kernel refuses by name.
	refused, ok := errors.AsType[*uapi.Error](s.Unload("nestbed_has_no_such_module"))
	assert.Assert(t, ok)
	assert.Equal(t, refused.Op+" "+refused.Object, "delete_module nestbed_has_no_such_module")
}

func TestOpenBadIndex(t *testing.T) {
	dir := fs.NewDir(t, "root")
	_, err := Open(dir.Path(), Dir)
	assert.ErrorIs(t, err, os.ErrNotExist)

	assert.NilError(t, os.MkdirAll(dir.Join("lib/nestbed"), 0o755))
	assert.NilError(t, os.WriteFile(filepath.Join(dir.Path(), Dir+".json"), []byte("{"), 0o644))
	_, err = Open(dir.Path(), Dir)
	assert.ErrorContains(t, err, "module index")
}
