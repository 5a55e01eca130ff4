package kernels

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// bzImageRelease reads `uname -r` out of a bzImage's setup header
// (Documentation/arch/x86/boot.rst: kernel_version). It is what the kernel will call itself, whatever its
// file is called.
func bzImageRelease(r io.ReaderAt) (string, error) {
	head := make([]byte, 0x210)
	if _, err := r.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if bytes.HasPrefix(head, []byte("\x7fELF")) {
		return "", errors.New("an ELF vmlinux, not a bzImage")
	}
	if string(head[0x202:0x206]) != "HdrS" {
		return "", errors.New("not an x86 bzImage")
	}
	if err := bzImageWhole(r, head); err != nil {
		return "", err
	}
	at := binary.LittleEndian.Uint16(head[0x20e:])
	if at == 0 {
		return "", errors.New("a bzImage without a version")
	}
	text := make([]byte, 256)
	n, err := r.ReadAt(text, int64(at)+0x200)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	line, _, found := bytes.Cut(text[:n], []byte{0})
	release, _, _ := strings.Cut(string(line), " ")
	if !found && n == len(text) && release == string(text) || !validRelease(release) {
		return "", fmt.Errorf("a bzImage with the version %q", release)
	}
	return release, nil
}

// bzImageWhole compares the image with the size that its header gives (setup_sects and syssize; a signature may
// follow). A boot loader reads past the end of a shorter file, and what dies of that says nothing about the kernel.
func bzImageWhole(r io.ReaderAt, head []byte) error {
	sectors := int64(head[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	want := (1+sectors)*512 + int64(binary.LittleEndian.Uint32(head[0x1f4:]))*16
	var last [1]byte
	if _, err := r.ReadAt(last[:], want-1); errors.Is(err, io.EOF) {
		return fmt.Errorf("a bzImage that was cut short: its header promises %d bytes; copy or build it again", want)
	} else if err != nil {
		return err
	}
	return nil
}

// validRelease keeps releases printable and usable as a file name.
func validRelease(s string) bool {
	if s == "" || len(s) > 64 || s[0] < '0' || s[0] > '9' {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._+-~", c) >= 0) {
			return false
		}
	}
	return true
}
