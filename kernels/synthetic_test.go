package kernels

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"gotest.tools/v3/assert"
)

// fakeImage is the part of a bzImage that says which release it is.
func fakeImage(release string) []byte {
	image := make([]byte, 0x400)
	image[0x1f1] = 1 // one sector of set-up code, and nothing behind it
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(image[0x20e:], 0x100)
	copy(image[0x300:], release+" (builder@example) #1 SMP\x00")
	return image
}

// fakeModule is a relocatable ELF file with a .modinfo section of the given fields, and others on request.
func fakeModule(fields []string, sections ...string) []byte {
	info := []byte(strings.Join(fields, "\x00") + "\x00")
	names := "\x00.modinfo\x00.shstrtab\x00"
	headers := []elf.Section64{{}, {Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(info))}}
	for _, s := range sections {
		headers = append(headers, elf.Section64{Name: uint32(len(names)), Type: uint32(elf.SHT_PROGBITS), Off: 64})
		names += s + "\x00"
	}
	headers = append(headers, elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(info)), Size: uint64(len(names))})
	at := (64 + len(info) + len(names) + 7) &^ 7
	var b bytes.Buffer
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Shoff: uint64(at), Ehsize: 64, Shentsize: 64, Shnum: uint16(len(headers)), Shstrndx: uint16(len(headers) - 1)}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(binary.Write(&b, binary.LittleEndian, h))
	b.Write(info)
	b.WriteString(names)
	b.Write(make([]byte, at-b.Len()))
	must(binary.Write(&b, binary.LittleEndian, headers))
	return b.Bytes()
}

// ko is a module as the kernel's build writes it.
func ko(name, release, depends string, more ...string) []byte {
	return fakeModule(append([]string{"license=GPL", "depends=" + depends, "name=" + name, "vermagic=" + release + " SMP preempt mod_unload "}, more...))
}

func pack(t testing.TB, suffix string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case ".xz":
		w, err = xz.NewWriter(&b)
	case ".zst":
		w, err = zstd.NewWriter(&b)
	case ".gz":
		w = gzip.NewWriter(&b)
	case "":
		return data
	}
	assert.NilError(t, err)
	_, err = w.Write(data)
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	return b.Bytes()
}

type arMember struct {
	name string
	data []byte
}

func writeAr(members ...arMember) []byte {
	var b bytes.Buffer
	b.WriteString(arMagic)
	for _, m := range members {
		fmt.Fprintf(&b, "%-16s%-12d%-6d%-6d%-8o%-10d`\n", m.name, 0, 0, 0, 0o100644, len(m.data))
		b.Write(m.data)
		if len(m.data)%2 == 1 {
			b.WriteByte('\n')
		}
	}
	return b.Bytes()
}

func writeTar(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		assert.NilError(t, w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(files[name]))}))
		_, err := w.Write(files[name])
		assert.NilError(t, err)
	}
	assert.NilError(t, w.Close())
	return b.Bytes()
}

// fakeDeb is a package with files, its data compressed by suffix.
func fakeDeb(t testing.TB, control, suffix string, files map[string][]byte) []byte {
	t.Helper()
	return writeAr(
		arMember{"debian-binary", []byte("2.0\n")},
		arMember{"control.tar.gz/", pack(t, ".gz", writeTar(t, map[string][]byte{"control": []byte(control)}))},
		arMember{"data.tar" + suffix, pack(t, suffix, writeTar(t, files))},
	)
}

const fakeConfig = `#
# Linux/x86 6.9.1 Kernel Configuration
#
CONFIG_KVM=m
CONFIG_KVM_AMD=m
CONFIG_VIRTIO_PCI=y
# CONFIG_IOMMUFD is not set
CONFIG_LOCALVERSION="-a\"b"
CONFIG_NR_CPUS=64
`

const fakeRelease = "6.9.1+test1-amd64"

// fakeKernel is a small distribution kernel in the old layout: three modules that are wanted, one that they
// need, one that nobody wants.
func fakeKernel(t testing.TB, release string) map[string][]byte {
	modules := "lib/modules/" + release + "/"
	return map[string][]byte{
		"boot/vmlinuz-" + release:                       fakeImage(release),
		"boot/config-" + release:                        []byte(fakeConfig),
		"usr/share/doc/linux/config":                    []byte("CONFIG_KVM=y\n"),
		modules + "modules.builtin":                     []byte("kernel/drivers/virtio/virtio_pci.ko\nkernel/lib/crc-t10.ko\n"),
		modules + "kernel/arch/x86/kvm/kvm.ko":          ko("kvm", release, "irqbypass"),
		modules + "kernel/arch/x86/kvm/kvm-amd.ko":      ko("kvm_amd", release, "kvm,ccp", "softdep=pre: rng-core absent post: tpm"),
		modules + "kernel/drivers/crypto/ccp/ccp.ko.xz": pack(t, ".xz", ko("ccp", release, "")),
		modules + "kernel/virt/lib/irqbypass.ko.zst":    pack(t, ".zst", ko("irqbypass", release, "")),
		modules + "kernel/drivers/char/rng-core.ko.gz":  pack(t, ".gz", ko("rng_core", release, "")),
		modules + "kernel/sound/snd.ko":                 ko("snd", release, ""),
	}
}

// tree writes files below a new folder.
func tree(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		full := filepath.Join(dir, name)
		assert.NilError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		assert.NilError(t, os.WriteFile(full, data, 0o644))
	}
	return dir
}

func writeDeb(t testing.TB, name string, data []byte) string {
	t.Helper()
	full := filepath.Join(t.TempDir(), name)
	assert.NilError(t, os.WriteFile(full, data, 0o644))
	return full
}

func moduleNames(modules []Module) []string {
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	return names
}
