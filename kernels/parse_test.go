package kernels

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestParseSpec(t *testing.T) {
	for text, want := range map[string]spec{
		"debian:6.12":                   {kind: specDebian, version: "6.12"},
		"debian:6.12.48":                {kind: specDebian, version: "6.12.48"},
		"debian:trixie-backports/7.3":   {kind: specDebian, suite: "trixie-backports", version: "7.3"},
		"/a/b.deb":                      {kind: specPackage, paths: []string{"/a/b.deb"}},
		"a.deb,dir/b.deb":               {kind: specPackage, paths: []string{"a.deb", "dir/b.deb"}},
		"./linux":                       {kind: specFolder, paths: []string{"./linux"}},
		".":                             {kind: specFolder, paths: []string{"."}},
		"running":                       {kind: specRunning},
		"/build/linux,with-a-comma/x86": {kind: specFolder, paths: []string{"/build/linux,with-a-comma/x86"}},
	} {
		got, err := parseSpec(text)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, want, cmpSpec)
	}
}

func TestParseSpecSaysWhatToType(t *testing.T) {
	for text, want := range map[string]string{
		"":                      "is empty",
		"6.12":                  "did you mean debian:6.12?",
		"linux":                 "for a folder type ./linux",
		"debian:":               `"" is not a kernel version; want for example debian:6.12`,
		"debian:trixie":         "want for example debian:trixie/6.12",
		"debian:6":              `"6" is not a kernel version`,
		"debian:../6.1":         `".." is not the name of a suite; want for example debian:trixie-backports/6.1`,
		"debian:sid/6.1; rm x":  "is not a kernel version",
		"fedora:41":             "only Debian's kernels are known by name",
		"a,b.deb":               "give several packages as a.deb,b.deb",
		".deb":                  "a .deb has no name",
		"debian:6.12\ndebian:x": "control character",
	} {
		_, err := parseSpec(text)
		mistake, ok := errors.AsType[*SpecError](err)
		assert.Assert(t, ok, "%q: %v", text, err)
		assert.Equal(t, mistake.Spec, text)
		assert.Assert(t, is.Contains(err.Error(), want))
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{"debian:6.12", "debian:sid/7.3.1", "a.deb,b.deb", "./x", "running", "debian:/", "a.deb,", "/x.deb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSpec(text)
		if err != nil {
			_, ok := errors.AsType[*SpecError](err)
			assert.Assert(t, ok)
			return
		}
		again, err := parseSpec(s.String())
		assert.NilError(t, err)
		assert.DeepEqual(t, again, s, cmpSpec)
	})
}

func TestCompareDebian(t *testing.T) {
	// Each is older than the next.
	order := []string{"5.10.223-1", "6.1~rc1-1~exp1", "6.1-1", "6.1.9-1", "6.1.55-1", "6.1.192-2", "6.12.48-1~bpo12+1", "6.12.48-1",
		"6.12.117-1~deb12u1", "6.12.117-1", "6.12.117-1+b1", "6.12.117-2", "7.3.4-1~bpo13+1", "7.3.4-1", "1:1.0-1"}
	for i, a := range order {
		for j, b := range order {
			got := compareDebian(a, b)
			assert.Equal(t, got < 0, i < j, "%s, %s", a, b)
			assert.Equal(t, got > 0, i > j, "%s, %s", a, b)
		}
	}
	assert.Equal(t, compareDebian("1.01-1", "1.1-1"), 0)
	assert.Assert(t, compareDebian("1.a", "1.+") < 0)
}

func TestHasVersion(t *testing.T) {
	assert.Assert(t, hasVersion("6.1.192-2", "6.1"))
	assert.Assert(t, hasVersion("6.1.192-2", "6.1.192"))
	assert.Assert(t, hasVersion("6.18~rc5-1~exp1", "6.18"))
	assert.Assert(t, !hasVersion("6.12.117-1", "6.1"))
	assert.Assert(t, !hasVersion("6.1.19-1", "6.1.192"))
	assert.Assert(t, !hasVersion("6.1-1", "6.1.1"))
}

func TestVersion(t *testing.T) {
	v, err := ParseVersion("6.12.117+deb12-amd64")
	assert.NilError(t, err)
	assert.Equal(t, v, Version{6, 12})
	assert.Equal(t, v.String(), "6.12")
	assert.Assert(t, Version{6, 2}.Less(v))
	assert.Assert(t, !v.Less(Version{6, 2}))
	assert.Assert(t, v.Less(Version{7, 0}))
	assert.Equal(t, v.Compare(v), 0)
	for _, bad := range []string{"", "7", "x.1", "7-rc1", "99999999999.1"} {
		_, err := ParseVersion(bad)
		assert.ErrorContains(t, err, "want MAJOR.MINOR", bad)
	}
}

func TestArReader(t *testing.T) {
	archive := writeAr(arMember{"odd/", []byte("12345")}, arMember{"empty", nil}, arMember{"last", []byte("abc")})
	// The last member's padding may be missing.
	for _, data := range [][]byte{archive, archive[:len(archive)-1]} {
		a, err := newArReader(bytes.NewReader(data))
		assert.NilError(t, err)
		name, size, err := a.next()
		assert.NilError(t, err)
		assert.Equal(t, name, "odd")
		assert.Equal(t, size, int64(5))
		name, _, err = a.next() // unread content is skipped
		assert.NilError(t, err)
		assert.Equal(t, name, "empty")
		_, _, err = a.next()
		assert.NilError(t, err)
		content, err := io.ReadAll(a)
		assert.NilError(t, err)
		assert.Equal(t, string(content), "abc")
		_, _, err = a.next()
		assert.Equal(t, err, io.EOF)
	}
}

func TestArReaderDamaged(t *testing.T) {
	whole := writeAr(arMember{"a", []byte("1234")}, arMember{"b", []byte("5678")})
	read := func(data []byte) error {
		a, err := newArReader(bytes.NewReader(data))
		for err == nil {
			if _, _, err = a.next(); err == nil {
				_, err = io.ReadAll(a)
			}
		}
		return err
	}
	assert.Equal(t, read(whole), io.EOF)
	for _, cut := range []int{4, 20, 70, len(whole) - 2} {
		err := read(whole[:cut])
		assert.Assert(t, errors.Is(err, errAr) || errors.Is(err, io.ErrUnexpectedEOF), "cut at %d: %v", cut, err)
	}
	for _, size := range []string{"-5        ", "x         ", "99999999999"[:10]} {
		bad := bytes.Clone(whole)
		copy(bad[8+48:], size)
		err := read(bad)
		assert.Assert(t, errors.Is(err, errAr) || errors.Is(err, io.ErrUnexpectedEOF), "size %q: %v", size, err)
	}
}

func FuzzArReader(f *testing.F) {
	f.Add(writeAr(arMember{"a", []byte("1")}, arMember{"b", []byte("22")}))
	f.Add([]byte(arMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := newArReader(bytes.NewReader(data))
		var total int64
		for err == nil {
			var size int64
			if _, size, err = a.next(); err != nil {
				break
			}
			assert.Assert(t, size >= 0)
			var n int64
			n, err = io.Copy(io.Discard, a)
			total += n
			assert.Assert(t, err != nil || n == size)
		}
		assert.Assert(t, total <= int64(len(data)))
	})
}

func TestParseModinfo(t *testing.T) {
	m := parseModinfo([]byte("name=kvm-amd\x00depends=kvm,ccp,,../x\x00softdep=pre: a-b c post: d\x00softdep=pre: c e\x00vermagic=6.1.0 SMP\x00nonsense\x00alias=x=y\x00"))
	assert.DeepEqual(t, m, moduleInfo{name: "kvm_amd", depends: []string{"kvm", "ccp"}, pre: []string{"a_b", "c", "e"}, release: "6.1.0"}, cmpInfo)
}

func TestReadModule(t *testing.T) {
	m, debug, err := readModule(bytes.NewReader(fakeModule([]string{"name=x", "depends=y"})))
	assert.NilError(t, err)
	assert.Assert(t, !debug)
	assert.DeepEqual(t, m.depends, []string{"y"})

	_, debug, err = readModule(bytes.NewReader(fakeModule([]string{"name=x"}, ".debug_info")))
	assert.NilError(t, err)
	assert.Assert(t, debug)

	_, _, err = readModule(strings.NewReader("not an ELF file, but long enough for its header to be read ......................"))
	assert.ErrorContains(t, err, "read module")
	noInfo := bytes.Replace(fakeModule(nil), []byte(".modinfo"), []byte(".nothing"), 1)
	_, _, err = readModule(bytes.NewReader(noInfo))
	assert.ErrorContains(t, err, "no .modinfo section")
}

func FuzzModinfo(f *testing.F) {
	f.Add([]byte("name=a\x00depends=b,c\x00softdep=pre: d post: e\x00"))
	f.Add(fakeModule([]string{"name=a", "depends=b"}, ".debug_info"))
	f.Add(fakeImage("6.1.0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, _, err := readModule(bytes.NewReader(data))
		if err != nil {
			m = parseModinfo(data)
		}
		for _, name := range append(m.depends, m.pre...) {
			assert.Assert(t, validModuleName(name))
		}
		if release, err := bzImageRelease(bytes.NewReader(data)); err == nil {
			assert.Assert(t, validRelease(release))
		}
	})
}

func TestBzImageRelease(t *testing.T) {
	got, err := bzImageRelease(bytes.NewReader(fakeImage("6.12.117+deb12-amd64")))
	assert.NilError(t, err)
	assert.Equal(t, got, "6.12.117+deb12-amd64")
	noVersion := fakeImage("6.1")
	noVersion[0x20e], noVersion[0x20f] = 0, 0
	outside := fakeImage("6.1")
	outside[0x20e], outside[0x20f] = 0xff, 0xff
	long := fakeImage("6.1")
	long[0x1f4] = 1
	for want, data := range map[string][]byte{
		"cut short: its header promises 1040 bytes": long,
		"promises 1024 bytes":                       fakeImage("6.1")[:0x3ff],
		"an ELF vmlinux, not a bzImage":             fakeModule(nil),
		"not an x86 bzImage":                        []byte("MZ short"),
		"without a version":                         noVersion,
		`with the version ""`:                       outside,
		`with the version "../../x"`:                fakeImage("../../x"),
	} {
		_, err := bzImageRelease(bytes.NewReader(data))
		assert.ErrorContains(t, err, want)
	}
}

func TestParseConfig(t *testing.T) {
	set, err := parseConfig(strings.NewReader(fakeConfig + "CONFIG_EMPTY=\"\"\nCONFIG_=y\nCONFIG_NOVALUE\n  # CONFIG_SPACE is not set\r\n"))
	assert.NilError(t, err)
	assert.DeepEqual(t, set, map[string]string{"KVM": "m", "KVM_AMD": "m", "VIRTIO_PCI": "y", "IOMMUFD": "n",
		"LOCALVERSION": `-a"b`, "NR_CPUS": "64", "EMPTY": "", "SPACE": "n"})
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(fakeConfig))
	f.Add([]byte("CONFIG_A=\"\\\\\"\n# CONFIG_ is not set\nCONFIG_B=\""))
	f.Fuzz(func(t *testing.T, data []byte) {
		set, err := parseConfig(bytes.NewReader(data))
		if err != nil {
			return
		}
		for name := range set {
			assert.Assert(t, name != "" && bytes.Contains(data, []byte("CONFIG_"+name)))
		}
	})
}

func TestModuleOfFile(t *testing.T) {
	for base, want := range map[string]string{"kvm-amd.ko": "kvm_amd", "a.ko.xz": "a", "a.ko.zst": "a", "a.ko.gz": "a",
		"a.ko.debug": "", ".ko": "", "vmlinux.o": "", "a b.ko": "", "ko": ""} {
		assert.Equal(t, moduleOfFile(base), want, base)
	}
}
