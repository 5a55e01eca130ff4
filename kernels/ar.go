package kernels

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// arReader reads the members of an ar archive in order: the outer format of a .deb.
type arReader struct {
	r    io.Reader
	left int64 // of the current member, padding excluded
	pad  int64
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60
)

var errAr = errors.New("no Debian package, or a damaged one")

func newArReader(r io.Reader) (*arReader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errAr
	}
	return &arReader{r: r}, nil
}

// next moves to the next member; io.EOF after the last.
func (a *arReader) next() (name string, size int64, err error) {
	if n, err := io.CopyN(io.Discard, a.r, a.left+a.pad); err != nil {
		// The padding of the last member may be missing.
		if !errors.Is(err, io.EOF) || n < a.left {
			return "", 0, fmt.Errorf("member cut short: %w", errors.Join(errAr, err))
		}
	}
	a.left, a.pad = 0, 0
	var h [arHeader]byte
	if n, err := io.ReadFull(a.r, h[:]); err != nil {
		if n == 0 && errors.Is(err, io.EOF) {
			return "", 0, io.EOF
		}
		return "", 0, fmt.Errorf("header cut short: %w", errAr)
	}
	if string(h[58:]) != "`\n" {
		return "", 0, fmt.Errorf("bad header: %w", errAr)
	}
	size, err = strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("bad size: %w", errAr)
	}
	name = strings.TrimSuffix(strings.TrimRight(string(h[:16]), " "), "/")
	a.left, a.pad = size, size&1
	return name, size, nil
}

// Read reads the current member.
func (a *arReader) Read(p []byte) (int, error) {
	if a.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err := a.r.Read(p)
	a.left -= int64(n)
	if errors.Is(err, io.EOF) && a.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
