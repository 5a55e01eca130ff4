package kernels

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// compressions are the suffixes that decompress knows.
var compressions = []string{".xz", ".zst", ".gz"}

// maxSpool bounds what a package may unpack to; a distribution's kernel has 100 to 450 MB.
const maxSpool = 4 << 30

// spool keeps the interesting files of packages, one after the other, in one unnamed file. A module's
// dependencies may stand before it in the archive, and reading the archive twice costs seconds.
type spool struct {
	f    *os.File
	used int64
}

func newSpool(dir string) (*spool, error) {
	f, err := os.CreateTemp(dir, "spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return &spool{f: f}, nil
}

func (s *spool) Close() error { return s.f.Close() }

// section is a file inside the spool.
type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

func (s *spool) add(r io.Reader, size int64) (open func() (content, error), err error) {
	if size > maxSpool-s.used {
		return nil, fmt.Errorf("unpacks to more than %d MB", maxSpool>>20)
	}
	at := s.used
	n, err := io.CopyN(s.f, r, size)
	s.used += n
	if err != nil {
		return nil, err
	}
	return func() (content, error) { return section{io.NewSectionReader(s.f, at, size)}, nil }, nil
}

// packageFolder matches where kernel packages keep what an import wants; their documentation is not it.
var packageFolder = regexp.MustCompile(`^(boot|(usr/)?lib/modules/[^/]+)(/|$)`)

// addPackage adds the files of a .deb to l and keeps their content in s.
func (l *layout) addPackage(ctx context.Context, name string, s *spool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("read package %s: %w", filepath.Base(name), err)
		}
		if err != nil && ctx.Err() == nil && !errors.As(err, new(*fs.PathError)) {
			err = fmt.Errorf("%w: fetch it again (dpkg-deb --contents %s must list it to the end)", err, name)
		}
	}()
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return err
	} else if !info.Mode().IsRegular() {
		return &fs.PathError{Op: "read", Path: name, Err: errors.New("not a file")}
	}
	archive, err := newArReader(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		return err
	}
	for {
		member, _, err := archive.next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("no data.tar: %w", errAr)
		} else if err != nil {
			return err
		}
		if strings.HasPrefix(member, "data.tar") {
			return l.addTar(ctx, member, archive, s)
		}
	}
}

func (l *layout) addTar(ctx context.Context, member string, r io.Reader, s *spool) error {
	data, err := decompress(ctx, member, r)
	if err != nil {
		return err
	}
	err = l.addEntries(ctx, data, s)
	if err == nil {
		// The archive's own padding and the check of its compression are still to come.
		_, err = io.Copy(io.Discard, data)
	}
	// The program's own words, when it is one, explain why the stream was cut.
	if closed := data.Close(); closed != nil && ctx.Err() == nil {
		return closed
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (l *layout) addEntries(ctx context.Context, data io.Reader, s *spool) error {
	for archive := tar.NewReader(data); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		rel := path.Clean(strings.TrimPrefix(h.Name, "./"))
		if h.Typeflag != tar.TypeReg || !packageFolder.MatchString(rel) || l.listFor(rel) == nil {
			continue
		}
		open, err := s.add(archive, h.Size)
		if err != nil {
			return fmt.Errorf("unpack %s: %w", rel, err)
		}
		l.add(rel, open)
	}
}

// decompress reads r by the suffix of name. xz runs as a program where there is one: a kernel's package
// takes it 3 to 6 s, and ours 11 to 14 s.
func decompress(ctx context.Context, name string, r io.Reader) (io.ReadCloser, error) {
	switch filepath.Ext(name) {
	case ".xz":
		if program, err := exec.LookPath("xz"); err == nil {
			return startFilter(ctx, r, program, "--decompress", "--stdout", "--threads=2")
		}
		return decompressSmall(name, r)
	case ".tar", ".ko":
		return io.NopCloser(r), nil
	}
	return decompressSmall(name, r)
}

// decompressSmall is decompress without starting a program, which costs more than it saves on a module.
func decompressSmall(name string, r io.Reader) (io.ReadCloser, error) {
	switch filepath.Ext(name) {
	case ".xz":
		x, err := xz.NewReader(bufio.NewReaderSize(r, 1<<16))
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", name, err)
		}
		return io.NopCloser(x), nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", name, err)
		}
		return z.IOReadCloser(), nil
	case ".gz":
		g, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("decompress %s: %w", name, err)
		}
		return g, nil
	case ".ko", ".tar":
		return io.NopCloser(r), nil
	}
	return nil, fmt.Errorf("%s: unknown compression", name)
}

// filter is a program that reads r and is read. It ends with its input, so it cannot outlive us.
type filter struct {
	io.Reader
	stop   context.CancelFunc
	cmd    *exec.Cmd
	stderr bytes.Buffer
	ended  bool
}

func startFilter(ctx context.Context, r io.Reader, program string, args ...string) (*filter, error) {
	ctx, stop := context.WithCancel(ctx)
	f := &filter{stop: stop, cmd: exec.CommandContext(ctx, program, args...)}
	f.cmd.Stdin = r
	f.cmd.Stderr = &f.stderr
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		stop()
		return nil, err
	}
	if err := f.cmd.Start(); err != nil {
		stop()
		return nil, err
	}
	f.Reader = bufio.NewReaderSize(readerFunc(func(p []byte) (int, error) {
		n, err := out.Read(p)
		f.ended = f.ended || errors.Is(err, io.EOF)
		return n, err
	}), 1<<18)
	return f, nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// Close ends the program; its failure is an error only if its output was wanted to the end.
func (f *filter) Close() error {
	wanted := f.ended
	if !wanted {
		f.stop()
	}
	err := f.cmd.Wait()
	f.stop()
	if err != nil && wanted {
		return fmt.Errorf("%s: %w: %s", path.Base(f.cmd.Path), err, strings.TrimSpace(f.stderr.String()))
	}
	return nil
}
