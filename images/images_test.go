package images_test

import (
	"bytes"
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cavaliergopher/cpio"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/nestbed/nestbed/images"
)

// spec writes module files and gives the spec that names them, in the order given.
func spec(t *testing.T, names ...string) images.Spec {
	t.Helper()
	dir := t.TempDir()
	s := images.Spec{Init: []byte("the init"), Boot: []string{"virtio_ring", "virtio"}}
	deps := map[string][]string{"virtio": {"virtio_ring"}, "kvm": {"irqbypass"}}
	for _, name := range names {
		file := filepath.Join(dir, name+".ko")
		assert.NilError(t, os.WriteFile(file, []byte("module "+name), 0o600))
		s.Modules = append(s.Modules, images.Module{Name: name, Deps: deps[name], Path: file})
	}
	return s
}

var all = []string{"virtio", "virtio_ring", "kvm", "irqbypass"}

func TestBuild(t *testing.T) {
	var archive bytes.Buffer
	assert.NilError(t, images.Build(&archive, spec(t, all...)))

	var listing bytes.Buffer
	r := cpio.NewReader(&archive)
	inodes := map[int64]string{}
	for {
		hdr, err := r.Next()
		if err == io.EOF {
			break
		}
		assert.NilError(t, err)
		content, err := io.ReadAll(r)
		assert.NilError(t, err)
		listing.WriteString(hdr.Mode.String() + " " + hdr.Name + " " + string(bytes.TrimSpace(content)) + "\n")
		assert.Equal(t, hdr.ModTime.Unix(), int64(0), hdr.Name)
		assert.Equal(t, inodes[hdr.Inode], "", "%s has the inode of another file", hdr.Name)
		inodes[hdr.Inode] = hdr.Name
	}
	golden.Assert(t, listing.String(), "listing.golden")
}

func TestBuildIsReproducible(t *testing.T) {
	var one, two bytes.Buffer
	assert.NilError(t, images.Build(&one, spec(t, all...)))
	turned := slices.Clone(all)
	slices.Reverse(turned)
	assert.NilError(t, images.Build(&two, spec(t, turned...)))
	assert.Equal(t, images.Hash(one.Bytes()), images.Hash(two.Bytes()))
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(*images.Spec)
		want   string
	}{
		"no init":           {func(s *images.Spec) { s.Init = nil }, "build initramfs: no init program"},
		"missing dep":       {func(s *images.Spec) { s.Modules = s.Modules[:3] }, `module kvm needs "irqbypass", which is not in the image`},
		"missing boot":      {func(s *images.Spec) { s.Boot = []string{"virtio_net"} }, `boot module "virtio_net" is not in the image`},
		"boot order":        {func(s *images.Spec) { slices.Reverse(s.Boot) }, "boot module virtio comes before virtio_ring, which it needs"},
		"twice":             {func(s *images.Spec) { s.Modules = append(s.Modules, s.Modules[0]) }, "module virtio twice"},
		"a name that walks": {func(s *images.Spec) { s.Modules[2].Name = "../kvm" }, `module name "../kvm"`},
		"no file":           {func(s *images.Spec) { s.Modules[2].Path += ".gone" }, "no such file or directory"},
		"a folder":          {func(s *images.Spec) { s.Modules[2].Path = os.TempDir() }, "is not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t, all...)
			c.damage(&s)
			assert.Check(t, is.ErrorContains(images.Build(io.Discard, s), c.want))
		})
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestBuildReportsWriteErrors(t *testing.T) {
	assert.ErrorContains(t, images.Build(full{}, spec(t, all...)), "disk full")
}

func TestReadPayload(t *testing.T) {
	dir := t.TempDir()
	assert.NilError(t, os.WriteFile(filepath.Join(dir, images.InitName), []byte("i"), 0o600))
	_, _, err := images.ReadPayload(os.DirFS(dir), ".")
	assert.ErrorIs(t, err, images.ErrNoPayload)
	assert.ErrorContains(t, err, "make build")

	assert.NilError(t, os.WriteFile(filepath.Join(dir, images.AgentName), []byte("a"), 0o600))
	init, agent, err := images.ReadPayload(os.DirFS(dir), ".")
	assert.NilError(t, err)
	assert.Equal(t, string(init)+string(agent), "ia")
}

// init must run in a guest that has no loader and no C library, and its bytes must not depend on where it was built.
func TestBuildProgramInit(t *testing.T) {
	var built [2][]byte
	for i := range built {
		out := filepath.Join(t.TempDir(), "init")
		assert.NilError(t, images.BuildProgram(t.Context(), "..", "./images/init", out))
		data, err := os.ReadFile(out)
		assert.NilError(t, err)
		built[i] = data
		entries, err := os.ReadDir(filepath.Dir(out))
		assert.NilError(t, err)
		assert.Equal(t, len(entries), 1, "something is left beside the program")
	}
	assert.Equal(t, images.Hash(built[0]), images.Hash(built[1]))
	assert.Check(t, len(built[0]) <= 6<<20, "init has %d bytes", len(built[0]))
	f, err := elf.NewFile(bytes.NewReader(built[0]))
	assert.NilError(t, err)
	for _, p := range f.Progs {
		assert.Check(t, p.Type != elf.PT_INTERP, "init is not static")
	}
	assert.Check(t, f.Section(".symtab") == nil, "init is not stripped")
	moduleDir, err := filepath.Abs("..")
	assert.NilError(t, err)
	assert.Check(t, !bytes.Contains(built[0], []byte(moduleDir)), "init holds the folder that it was built in")
}

func TestBuildProgramFails(t *testing.T) {
	out := filepath.Join(t.TempDir(), "x")
	err := images.BuildProgram(t.Context(), "..", "./images/nothing", out)
	assert.ErrorContains(t, err, "go build ./images/nothing")
	_, err = os.Stat(out)
	assert.ErrorIs(t, err, os.ErrNotExist)
}
