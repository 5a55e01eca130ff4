package kernels

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
)

// fakeVmlinux is an ELF file with one note.
func fakeVmlinux(owner string, kind uint32) []byte {
	var note, file bytes.Buffer
	write := func(to *bytes.Buffer, v any) {
		if err := binary.Write(to, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	// First one with an odd length, which the search must step over.
	write(&note, []uint32{6, 3, 1})
	note.WriteString("Linux\x00\x00\x00abc\x00")
	write(&note, []uint32{uint32(len(owner) + 1), 4, kind})
	note.WriteString(owner + "\x00\x00\x00\x00"[:1+(4-(len(owner)+1)%4)%4])
	write(&note, uint32(0x1000000))
	h := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	write(&file, h)
	write(&file, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: 64 + 56, Filesz: uint64(note.Len()), Memsz: uint64(note.Len()), Align: 4})
	file.Write(note.Bytes())
	return file.Bytes()
}

// compressedImage is a bzImage with a payload, as the kernel's build puts it there.
func compressedImage(payload []byte, sized bool) []byte {
	image := fakeImage(fakeRelease)
	binary.LittleEndian.PutUint16(image[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(image[0x248:], 0x100) // behind one sector of set-up code and the boot sector
	if sized {
		payload = append(payload[:len(payload):len(payload)], 1, 2, 3, 4)
	}
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	image = append(image, make([]byte, 0x100)...)
	image = append(image, payload...)
	return append(image, "a signature"...)
}

func TestVmlinux(t *testing.T) {
	pvh := fakeVmlinux("Xen", xenPhys32Entry)
	cut := pack(t, ".zst", bytes.Repeat(pvh, 100))
	tests := map[string]struct {
		image []byte
		want  []byte // nil: only to be booted as it is
	}{
		"xz":                         {compressedImage(pack(t, ".xz", pvh), true), pvh},
		"zstd":                       {compressedImage(pack(t, ".zst", pvh), true), pvh},
		"gzip":                       {compressedImage(pack(t, ".gz", pvh), false), pvh},
		"unknown compression":        {compressedImage(pvh, true), nil},
		"cut payload":                {compressedImage(cut[:len(cut)/2], true), nil},
		"no payload":                 {fakeImage(fakeRelease), nil},
		"a header only":              {fakeImage(fakeRelease)[:0x220], nil},
		"built without CONFIG_PVH":   {compressedImage(pack(t, ".gz", fakeVmlinux("Xen", 6)), false), nil},
		"a note 18 of somebody else": {compressedImage(pack(t, ".gz", fakeVmlinux("GNU", xenPhys32Entry)), false), nil},
		"not an ELF file":            {compressedImage(pack(t, ".gz", []byte("MZ")), false), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := Kernel{Dir: t.TempDir()}
			assert.NilError(t, os.WriteFile(k.Vmlinuz(), tt.image, 0o600))
			f, err := os.Create(filepath.Join(t.TempDir(), "vmlinux"))
			assert.NilError(t, err)
			defer f.Close()
			ok, err := k.Vmlinux(t.Context(), f)
			assert.NilError(t, err)
			assert.Equal(t, ok, tt.want != nil)
			if tt.want == nil {
				return
			}
			got, err := os.ReadFile(f.Name())
			assert.NilError(t, err)
			assert.Assert(t, bytes.Equal(got, tt.want))
		})
	}
}

// A file that cannot be written is this host's trouble, not the kernel's.
func TestVmlinuxUnwritten(t *testing.T) {
	k := Kernel{Dir: t.TempDir()}
	assert.NilError(t, os.WriteFile(k.Vmlinuz(), compressedImage(pack(t, ".gz", fakeVmlinux("Xen", xenPhys32Entry)), false), 0o600))
	f, err := os.Open(k.Vmlinuz()) // for reading only
	assert.NilError(t, err)
	defer f.Close()
	_, err = k.Vmlinux(t.Context(), f)
	assert.ErrorIs(t, err, unix.EBADF)
}
