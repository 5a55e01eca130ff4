package sshd

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// split cuts a command line into words: blanks separate, quotes of both kinds and backslashes protect.
// There are no variables, pipes, patterns or separators.
func split(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			if quote == '"' && r != '"' && r != '\\' && r != '$' && r != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case r == ' ' || r == '\t' || r == '\n' || r == '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("a quote that does not end")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// builtin is a command that the server runs itself.
type builtin struct {
	usage string
	run   func(se *session, args []string, std streams) int
}

var builtins map[string]builtin

func init() { // help and the table need each other
	builtins = map[string]builtin{
		"cat":       {"cat [FILE]...", cat},
		"cd":        {"cd [FOLDER]", cd},
		"dmesg":     {"dmesg", dmesg},
		"echo":      {"echo [WORD]... [> FILE]", echo},
		"help":      {"help", help},
		"kill":      {"kill [-SIGNAL] PID...", kill},
		"ls":        {"ls [FILE]...", ls},
		"poweroff":  {"poweroff", func(se *session, _ []string, std streams) int { return se.power(false, std) }},
		"ps":        {"ps", ps},
		"quiesce":   {"quiesce WORD", func(_ *session, args []string, std streams) int { return each(args, std, quiesce) }},
		"pwd":       {"pwd", func(se *session, _ []string, std streams) int { fmt.Fprintln(std.out, se.dir); return 0 }},
		"reboot":    {"reboot", func(se *session, _ []string, std streams) int { return se.power(true, std) }},
		"rm":        {"rm FILE...", rm},
		"sha256sum": {"sha256sum FILE...", sha256sum},
		"uname":     {"uname", uname},
	}
}

// each runs f for every argument and gives the status of a command that goes on after an error.
func each(args []string, std streams, f func(string) error) int {
	status := 0
	for _, arg := range args {
		if err := f(arg); err != nil {
			fmt.Fprintln(std.err, "nestbed:", err)
			status = 1
		}
	}
	return status
}

func cat(se *session, args []string, std streams) int {
	if len(args) == 0 {
		_, _ = io.Copy(std.out, std.in)
		return 0
	}
	return each(args, std, func(name string) error {
		f, err := se.open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(std.out, f)
		return err
	})
}

func cd(se *session, args []string, std streams) int {
	to := append(args, "/")[0]
	return each([]string{to}, std, func(name string) error {
		dir := filepath.Clean(se.path(name))
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			err = &os.PathError{Op: "cd", Path: dir, Err: unix.ENOTDIR}
		}
		if err == nil {
			se.dir = dir
		}
		return err
	})
}

func dmesg(_ *session, _ []string, std streams) int {
	const sizeBuffer, readAll = 10, 3 // SYSLOG_ACTION_SIZE_BUFFER, SYSLOG_ACTION_READ_ALL
	return each([]string{""}, std, func(string) error {
		n, err := unix.Klogctl(sizeBuffer, nil)
		if err != nil {
			return fmt.Errorf("klogctl: %w", err)
		}
		buf := make([]byte, n)
		if n, err = unix.Klogctl(readAll, buf); err != nil {
			return fmt.Errorf("klogctl: %w", err)
		}
		_, err = std.out.Write(buf[:n])
		return err
	})
}

// echo writes words to a file as well, because most of /sys and /proc is driven by that.
func echo(se *session, args []string, std streams) int {
	words, to := args, ""
	if n := len(args); n >= 2 && args[n-2] == ">" {
		words, to = args[:n-2], args[n-1]
	}
	line := []byte(strings.Join(words, " ") + "\n")
	if to == "" {
		_, _ = std.out.Write(line)
		return 0
	}
	return each([]string{to}, std, func(name string) error {
		f, err := os.OpenFile(se.path(name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(line)
		return errors.Join(err, f.Close())
	})
}

func help(_ *session, _ []string, std streams) int {
	fmt.Fprintln(std.out, "This guest has no shell. Programs run by name or path with words as arguments; also:")
	for _, name := range slices.Sorted(maps.Keys(builtins)) {
		fmt.Fprintln(std.out, "  "+builtins[name].usage)
	}
	fmt.Fprintln(std.out, "  exit [STATUS]")
	return 0
}

func kill(_ *session, args []string, std streams) int {
	sig := unix.SIGTERM
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		name := strings.TrimPrefix(args[0][1:], "SIG")
		if n, err := strconv.Atoi(name); err == nil {
			sig = unix.Signal(n)
		} else if sig = unix.SignalNum("SIG" + name); sig == 0 {
			fmt.Fprintf(std.err, "nestbed: unknown signal %q\n", name)
			return 2
		}
		args = args[1:]
	}
	return each(args, std, func(arg string) error {
		pid, err := strconv.Atoi(arg)
		if err != nil {
			return err
		}
		if err := unix.Kill(pid, sig); err != nil {
			return fmt.Errorf("kill %d: %w", pid, err)
		}
		return nil
	})
}

// quiesce waits for what the end of a process has left to be done (a grace period of RCU, in which files and VMs
// are freed) and then has the kernel print the word: whatever the kernel had to say before stands before it.
func quiesce(word string) error {
	for range 2 { // the first one's callbacks may have queued more
		// MEMBARRIER_CMD_GLOBAL is synchronize_rcu. A kernel without it only waits less.
		_, _, _ = unix.Syscall(unix.SYS_MEMBARRIER, 1, 0, 0)
	}
	return os.WriteFile("/dev/kmsg", []byte("<6>nestbed: quiet "+word+"\n"), 0)
}

func ls(se *session, args []string, std streams) int {
	if len(args) == 0 {
		args = []string{"."}
	}
	return each(args, std, func(name string) error {
		info, err := os.Stat(se.path(name))
		if err != nil {
			return err
		}
		if !info.IsDir() {
			fmt.Fprintln(std.out, name)
			return nil
		}
		entries, err := os.ReadDir(se.path(name))
		for _, e := range entries {
			switch {
			case e.IsDir():
				fmt.Fprintln(std.out, e.Name()+"/")
			case e.Type()&os.ModeSymlink != 0:
				to, _ := os.Readlink(filepath.Join(se.path(name), e.Name()))
				fmt.Fprintln(std.out, e.Name()+" -> "+to)
			default:
				fmt.Fprintln(std.out, e.Name())
			}
		}
		return err
	})
}

func ps(_ *session, _ []string, std streams) int {
	names, _ := filepath.Glob("/proc/[0-9]*")
	for _, name := range names {
		cmdline, err := os.ReadFile(name + "/cmdline")
		if err != nil || len(cmdline) == 0 {
			continue // a kernel thread, or it ended meanwhile
		}
		fmt.Fprintf(std.out, "%6s %s\n", filepath.Base(name), bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte{' '}))
	}
	return 0
}

func rm(se *session, args []string, std streams) int {
	return each(args, std, func(name string) error { return os.Remove(se.path(name)) })
}

func sha256sum(se *session, args []string, std streams) int {
	return each(args, std, func(name string) error {
		f, err := se.open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return err
		}
		_, err = fmt.Fprintf(std.out, "%x  %s\n", h.Sum(nil), name)
		return err
	})
}

func uname(_ *session, _ []string, std streams) int {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		fmt.Fprintln(std.err, "nestbed: uname:", err)
		return 1
	}
	fmt.Fprintln(std.out, unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]),
		unix.ByteSliceToString(u.Version[:]), unix.ByteSliceToString(u.Machine[:]))
	return 0
}

// power answers first: a client wants its exit status before the connection dies.
func (se *session) power(reboot bool, std streams) int {
	if se.server.cfg.Power == nil {
		fmt.Fprintln(std.err, "nestbed: this server cannot end its machine")
		return 1
	}
	se.finish(result{})
	if err := se.server.cfg.Power(reboot); err != nil {
		fmt.Fprintln(std.err, "nestbed:", err)
		return 1
	}
	return 0
}

// shell reads lines and runs them, with editing when the client has a terminal.
func (se *session) shell(ctx context.Context) result {
	if se.term == nil {
		return se.script(ctx)
	}
	keys := newKeys(ctx, se.ch)
	console := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{keys, se.ch}, "")
	last := result{}
	fmt.Fprintln(console, "nestbed guest; help lists the commands, exit ends the shell")
	for {
		console.SetPrompt(se.dir + " # ")
		se.term.watch(func(cols, rows uint32) {
			if cols > 0 && rows > 0 { // a client whose input is no terminal says 0
				_ = console.SetSize(int(cols), int(rows))
			}
		})
		line, err := console.ReadLine()
		if err != nil {
			return last // ^D, or the client is gone
		}
		next, done := se.line(line, crlf{se.ch}, func(argv []string) result { return se.runTerminal(ctx, argv, keys) })
		if last = next; done {
			return last
		}
		if last != (result{}) {
			fmt.Fprintf(console, "[%s]\n", last)
		}
	}
}

// script is a shell without a terminal: each line of the input is a command.
func (se *session) script(ctx context.Context) result {
	last := result{}
	lines := bufio.NewScanner(se.ch)
	for lines.Scan() {
		std := streams{in: strings.NewReader(""), out: se.ch, err: se.ch.Stderr()}
		next, done := se.line(lines.Text(), se.ch, func(argv []string) result { return se.run(ctx, argv, std) })
		if last = next; done {
			break
		}
	}
	return last
}

// line runs one line of a shell; done says that it was exit.
func (se *session) line(line string, out io.Writer, run func(argv []string) result) (r result, done bool) {
	argv, err := split(line)
	if err != nil {
		fmt.Fprintln(out, "nestbed:", err)
		return result{status: 2}, false
	}
	if len(argv) == 0 {
		return result{}, false
	}
	if argv[0] == "exit" {
		status, _ := strconv.Atoi(append(argv, "0")[1])
		return result{status: status}, true
	}
	if b, ok := builtins[argv[0]]; ok {
		return result{status: b.run(se, argv[1:], streams{in: strings.NewReader(""), out: out, err: out})}, false
	}
	return run(argv), false
}

func (r result) String() string {
	if r.signal != "" {
		return "killed by SIG" + r.signal
	}
	return "exit status " + strconv.Itoa(r.status)
}

// crlf writes for a terminal that nobody's line discipline serves.
type crlf struct{ io.Writer }

func (c crlf) Write(p []byte) (int, error) {
	if _, err := c.Writer.Write(bytes.ReplaceAll(p, []byte("\n"), []byte("\r\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// keys is a person's typing: the shell's editor and the programs that it runs take turns in reading it,
// and neither may swallow what is meant for the other.
type keys struct {
	ctx  context.Context
	in   chan []byte
	rest []byte
}

// newKeys reads from until it ends or ctx does.
func newKeys(ctx context.Context, from io.Reader) *keys {
	k := &keys{ctx: ctx, in: make(chan []byte)}
	go func() {
		defer close(k.in)
		for {
			buf := make([]byte, 1024)
			n, err := from.Read(buf)
			if n > 0 {
				select {
				case k.in <- buf[:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return k
}

// Read is the editor's side.
func (k *keys) Read(p []byte) (int, error) {
	if len(k.rest) == 0 {
		select {
		case b, ok := <-k.in:
			if !ok {
				return 0, io.EOF
			}
			k.rest = b
		case <-k.ctx.Done():
			return 0, io.EOF
		}
	}
	n := copy(p, k.rest)
	k.rest = k.rest[n:]
	for i := range p[:n] {
		if p[i] == '\x03' { // ^C: the editor would end the shell; as ^U it drops the line
			p[i] = '\x15'
		}
	}
	return n, nil
}

// feed gives the typing to a program until ctx ends; the end of the typing is a ^D.
func (k *keys) feed(ctx context.Context, to io.Writer) {
	for {
		select {
		case b, ok := <-k.in:
			if !ok {
				_, _ = to.Write([]byte{4})
				return
			}
			if _, err := to.Write(b); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
