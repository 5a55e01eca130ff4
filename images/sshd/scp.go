package sshd

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The original protocol of scp: `scp -t TARGET` receives, `scp -f FILE...` sends; -r takes folders, -p
// keeps times. Each message is answered by a zero byte, or by 1 or 2 and a line that says what is wrong.

// scpLine bounds one line of the protocol: a name of the file system's limit and its numbers.
const scpLine = 4 << 10

type scpPeer struct {
	r         *bufio.Reader
	w         io.Writer
	recursive bool
	times     bool
	dirTarget bool
}

// scp is the server's side of a copy; it gives the exit status.
func scp(args []string, std streams) int {
	p := &scpPeer{r: bufio.NewReaderSize(std.in, 64<<10), w: std.out}
	var sink, source bool
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		flags := args[0]
		args = args[1:]
		if flags == "--" {
			break
		}
		for _, flag := range flags[1:] {
			switch flag {
			case 't':
				sink = true
			case 'f':
				source = true
			case 'r':
				p.recursive = true
			case 'p':
				p.times = true
			case 'd':
				p.dirTarget = true
			case 'q', 'v':
			default:
				fmt.Fprintf(std.err, "scp: unknown option -%c\n", flag)
				return 2
			}
		}
	}
	var err error
	switch {
	case sink && !source && len(args) == 1:
		if err = p.receive(args[0]); err != nil {
			// Until the client has read what is wrong it must not see us gone: go-scp sends all before it reads.
			_, _ = io.Copy(io.Discard, p.r)
		}
	case source && !sink && len(args) >= 1:
		err = p.send(args)
	default:
		fmt.Fprintln(std.err, "scp: only as the far end of a copy: -t TARGET or -f FILE...")
		return 2
	}
	if err != nil {
		return 1 // the client knows it from the protocol: refuse has told it, or it was its own doing
	}
	return 0
}

func (p *scpPeer) ack() error {
	_, err := p.w.Write([]byte{0})
	return err
}

// refuse tells the client; the copy is over.
func (p *scpPeer) refuse(err error) error {
	_, _ = fmt.Fprintf(p.w, "\x01scp: %s\n", strings.ReplaceAll(err.Error(), "\n", " "))
	return err
}

// answer reads the client's reply to what was sent.
func (p *scpPeer) answer() error {
	b, err := p.r.ReadByte()
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if b == 0 {
		return nil
	}
	line, _ := p.line()
	return fmt.Errorf("refused by the client: %s", line)
}

func (p *scpPeer) line() (string, error) {
	var line []byte
	for {
		b, err := p.r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '\n' {
			return string(line), nil
		}
		if line = append(line, b); len(line) > scpLine {
			return "", errors.New("line too long")
		}
	}
}

// receive is `scp -t`.
func (p *scpPeer) receive(target string) error {
	info, err := os.Stat(target)
	isDir := err == nil && info.IsDir()
	if p.dirTarget && !isDir {
		return p.refuse(fmt.Errorf("%s: not a folder", target))
	}
	if err := p.ack(); err != nil {
		return err
	}
	return p.receiveInto(target, isDir, 0)
}

// receiveInto takes entries until the folder (or the copy) ends.
func (p *scpPeer) receiveInto(target string, isDir bool, depth int) error {
	var mtime time.Time
	for {
		line, err := p.line()
		if err == io.EOF && depth == 0 && line == "" {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if line == "" {
			return p.refuse(errors.New("empty message"))
		}
		kind, rest := line[0], line[1:]
		switch kind {
		case 1, 2:
			return fmt.Errorf("the client gave up: %s", rest)
		case 'E':
			if depth == 0 {
				return p.refuse(errors.New("end of a folder that was not begun"))
			}
			return p.ack()
		case 'T':
			sec, _, _ := strings.Cut(rest, " ")
			n, err := strconv.ParseInt(sec, 10, 64)
			if err != nil {
				return p.refuse(fmt.Errorf("times %q", rest))
			}
			mtime = time.Unix(n, 0)
			if err := p.ack(); err != nil {
				return err
			}
			continue
		case 'C', 'D':
			mode, size, name, err := parseEntry(rest)
			if err != nil {
				return p.refuse(err)
			}
			to := target
			if isDir {
				to = filepath.Join(target, name)
			}
			if kind == 'C' {
				err = p.receiveFile(to, mode, size)
			} else {
				err = p.receiveDir(to, mode, depth)
			}
			if err != nil {
				return err
			}
			if !mtime.IsZero() && p.times {
				_ = os.Chtimes(to, mtime, mtime) // files of /proc and /sys have no times to set
			}
			mtime = time.Time{}
		default:
			return p.refuse(fmt.Errorf("unknown message %q", line))
		}
	}
}

// parseEntry reads "0644 123 name".
func parseEntry(s string) (os.FileMode, int64, string, error) {
	mode, rest, ok1 := strings.Cut(s, " ")
	size, name, ok2 := strings.Cut(rest, " ")
	m, err1 := strconv.ParseUint(mode, 8, 16)
	n, err2 := strconv.ParseInt(size, 10, 64)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || n < 0 {
		return 0, 0, "", fmt.Errorf("malformed entry %q", s)
	}
	if name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
		return 0, 0, "", fmt.Errorf("file name %q", name)
	}
	return os.FileMode(m) & os.ModePerm, n, name, nil
}

// receiveFile takes one file. A regular one appears whole or not at all: a program that runs from the old
// file keeps it, and a copy that is cut leaves nothing behind. Others (/proc, /sys, devices) are written in place.
func (p *scpPeer) receiveFile(to string, mode os.FileMode, size int64) (err error) {
	var f *os.File
	info, serr := os.Stat(to)
	inPlace := serr == nil && (!info.Mode().IsRegular() || isKernelFile(to))
	if inPlace {
		f, err = os.OpenFile(to, os.O_WRONLY, 0)
	} else {
		f, err = os.CreateTemp(filepath.Dir(to), ".scp-*")
	}
	if err != nil {
		return p.refuse(err)
	}
	defer func() {
		if f.Close(); err != nil && !inPlace {
			os.Remove(f.Name())
		}
	}()
	if err := p.ack(); err != nil {
		return err
	}
	if _, err := io.CopyN(f, p.r, size); err != nil {
		return p.refuse(fmt.Errorf("write %s: %w", to, err))
	}
	if err := p.answer(); err != nil {
		return err
	}
	if !inPlace {
		if err := f.Chmod(mode); err != nil {
			return p.refuse(err)
		}
		// Closed before it gets its name: a program cannot be started while somebody may write to it.
		if err := errors.Join(f.Close(), os.Rename(f.Name(), to)); err != nil {
			return p.refuse(err)
		}
	}
	return p.ack()
}

func (p *scpPeer) receiveDir(to string, mode os.FileMode, depth int) error {
	if !p.recursive {
		return p.refuse(fmt.Errorf("%s: a folder without -r", to))
	}
	if depth > 100 {
		return p.refuse(errors.New("folders too deep"))
	}
	if err := os.Mkdir(to, mode|0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return p.refuse(err)
	}
	if err := p.ack(); err != nil {
		return err
	}
	return p.receiveInto(to, true, depth+1)
}

// send is `scp -f`.
func (p *scpPeer) send(names []string) error {
	if err := p.answer(); err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, p.sendEntry(name))
	}
	return errors.Join(errs...)
}

func (p *scpPeer) sendEntry(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return p.refuse(err)
	}
	if p.times {
		t := info.ModTime().Unix()
		if err := p.say("T%d 0 %d 0\n", t, t); err != nil {
			return err
		}
	}
	if !info.IsDir() {
		return p.sendFile(name, info)
	}
	if !p.recursive {
		return p.refuse(fmt.Errorf("%s: a folder without -r", name))
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return p.refuse(err)
	}
	if err := p.say("D%04o 0 %s\n", info.Mode().Perm(), filepath.Base(name)); err != nil {
		return err
	}
	for _, e := range entries {
		if err := p.sendEntry(filepath.Join(name, e.Name())); err != nil {
			return err
		}
	}
	return p.say("E\n")
}

func (p *scpPeer) say(format string, args ...any) error {
	if _, err := fmt.Fprintf(p.w, format, args...); err != nil {
		return err
	}
	return p.answer()
}

func (p *scpPeer) sendFile(name string, info os.FileInfo) error {
	f, err := os.Open(name)
	if err != nil {
		return p.refuse(err)
	}
	defer f.Close()
	size, content := info.Size(), io.Reader(f)
	if isKernelFile(name) {
		// Its size is 0 or a page, whatever it holds; the protocol needs the true one first.
		data, err := io.ReadAll(io.LimitReader(f, 64<<20))
		if err != nil {
			return p.refuse(err)
		}
		size, content = int64(len(data)), bytes.NewReader(data)
	}
	if err := p.say("C%04o %d %s\n", info.Mode().Perm(), size, filepath.Base(name)); err != nil {
		return err
	}
	if _, err := io.CopyN(p.w, content, size); err != nil {
		return p.refuse(fmt.Errorf("read %s: %w", name, err))
	}
	if err := p.ack(); err != nil {
		return err
	}
	return p.answer()
}

// isKernelFile reports whether a file's content is made by the kernel as it is read.
func isKernelFile(name string) bool {
	abs, err := filepath.Abs(name)
	return err == nil && (strings.HasPrefix(abs, "/proc/") || strings.HasPrefix(abs, "/sys/"))
}
