package kernels

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
)

// xenPhys32Entry is the ELF note with the address of a kernel's PVH entry (CONFIG_PVH; include/xen/interface/elfnote.h,
// XEN_ELFNOTE_PHYS32_ENTRY).
const xenPhys32Entry = 18

// payloads are the compressions of a bzImage by the magic of their streams (arch/x86/boot/compressed/Makefile).
var payloads = []struct{ magic, suffix string }{
	{"\x1f\x8b", ".gz"}, {"\xfd7zXZ\x00", ".xz"}, {"\x28\xb5\x2f\xfd", ".zst"},
}

// Vmlinux writes the ELF image that the kernel's bzImage unpacks itself to, which QEMU boots through its PVH
// entry: the guest is spared the unpacking, more than a second of a TCG guest's boot. False says that the image
// is no such kernel (built without CONFIG_PVH, in a compression that we do not know, damaged): it can only be
// booted as it is, and the file's content is then of no use. The error is one of this host, or ctx's.
func (k Kernel) Vmlinux(ctx context.Context, to *os.File) (bool, error) {
	image, err := os.Open(k.Vmlinuz())
	if err != nil {
		return false, err
	}
	defer image.Close()
	payload, suffix, err := bzImagePayload(image)
	if err != nil || suffix == "" {
		return false, err
	}
	r, err := decompress(ctx, "vmlinux"+suffix, payload)
	if err != nil {
		return false, ctx.Err() // not the stream that its magic promised
	}
	w := &writer{to: to}
	_, err = io.Copy(w, r)
	err = errors.Join(err, r.Close())
	switch {
	case w.err != nil:
		return false, w.err
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		return false, nil // damaged: let the kernel say so itself
	}
	return hasPVH(to), nil
}

// writer tells the errors of writing from those of reading.
type writer struct {
	to  io.Writer
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.to.Write(p)
	w.err = err
	return n, err
}

// bzImagePayload is the compressed kernel in a bzImage and the suffix of its compression, "" for one that we do
// not know (Documentation/arch/x86/boot.rst: payload_offset, payload_length; boot protocol 2.08).
func bzImagePayload(r io.ReaderAt) (io.Reader, string, error) {
	head := make([]byte, 0x250)
	if _, err := r.ReadAt(head, 0); errors.Is(err, io.EOF) {
		return nil, "", nil
	} else if err != nil {
		return nil, "", err
	}
	if string(head[0x202:0x206]) != "HdrS" || binary.LittleEndian.Uint16(head[0x206:]) < 0x208 {
		return nil, "", nil
	}
	sectors := int64(head[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	at := (1+sectors)*512 + int64(binary.LittleEndian.Uint32(head[0x248:]))
	// The build appends the unpacked size, four bytes that a decompressor would take for garbage. gzip has it as
	// part of its own format.
	length := int64(binary.LittleEndian.Uint32(head[0x24c:]))
	magic := make([]byte, 8)
	if _, err := r.ReadAt(magic, at); err != nil {
		return nil, "", nil
	}
	for _, p := range payloads {
		if string(magic[:len(p.magic)]) != p.magic {
			continue
		}
		if p.suffix != ".gz" {
			length -= 4
		}
		return io.NewSectionReader(r, at, max(length, 0)), p.suffix, nil
	}
	return nil, "", nil
}

// hasPVH says whether an x86-64 ELF kernel has a PVH entry.
func hasPVH(r io.ReaderAt) bool {
	f, err := elf.NewFile(r)
	if err != nil || f.Machine != elf.EM_X86_64 || f.Class != elf.ELFCLASS64 {
		return false
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_NOTE || p.Filesz > 1<<20 {
			continue
		}
		notes := make([]byte, p.Filesz)
		if _, err := p.ReadAt(notes, 0); err != nil {
			return false
		}
		for len(notes) >= 12 {
			name, desc := pad4(f.ByteOrder.Uint32(notes)), pad4(f.ByteOrder.Uint32(notes[4:]))
			kind, rest := f.ByteOrder.Uint32(notes[8:]), notes[12:]
			if name+desc > uint64(len(rest)) {
				return false
			}
			if kind == xenPhys32Entry && string(rest[:name]) == "Xen\x00" && desc >= 4 {
				return true
			}
			notes = rest[name+desc:]
		}
	}
	return false
}

func pad4(n uint32) uint64 { return (uint64(n) + 3) &^ 3 }
