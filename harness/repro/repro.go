// Package repro makes what a user wants to run in a guest fit for it: it compiles C, finds a shell for a script,
// and refuses what cannot run there with the way out.
//
// It owns the files that go into the guest and the command line there. How the program is run and judged is
// scenarios/lab's and the runner's matter, how often it did what it should, package results'.
package repro

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/nestbed/nestbed/harness/guest"
	"github.com/nestbed/nestbed/images/layout"
)

// maxProgram bounds what is pushed into a guest of 512 MB, whose root is its memory.
const maxProgram = 100 << 20

// maxArguments is below the limit of one SSH request.
const maxArguments = 128 << 10

// Program is ready to be run in a guest.
type Program struct {
	Name     string       // of the file, as lower-case words with hyphens
	Files    []guest.File // to be pushed
	Argv     []string     // in the guest
	SHA256   string       // of the file that the user named or, for C, of what it compiled to
	Warnings string       // the compiler's
}

// kind is what the user's file is.
type kind int

const (
	executable kind = iota
	source          // C
	script
)

// Load reads the program of that file. Errors say what is wrong with it and what to do.
func Load(ctx context.Context, file string, args []string) (Program, error) {
	size := 0
	for _, arg := range args {
		size += len(arg) + 3
	}
	if size > maxArguments {
		return Program{}, fmt.Errorf("%s: arguments of %d bytes, at most %d", file, size, maxArguments)
	}
	data, k, err := read(file)
	if err != nil {
		return Program{}, err
	}
	base := filepath.Base(file)
	p := Program{Name: Name(base)}
	inGuest := layout.Programs + "/" + guestName(base)
	p.Argv = append([]string{inGuest}, args...)
	switch k {
	case source:
		inGuest = strings.TrimSuffix(inGuest, ".c")
		p.Argv[0] = inGuest
		if data, p.Warnings, err = compile(ctx, file); err != nil {
			return p, err
		}
	case script:
		shell, err := findShell(file, data)
		if err != nil {
			return p, err
		}
		p.Files = append(p.Files, shell)
		p.Argv = append([]string{shell.Name, "sh"}, p.Argv...)
	}
	if k != script {
		if err := checkELF(file, data); err != nil {
			return p, err
		}
	}
	sum := sha256.Sum256(data)
	p.SHA256 = hex.EncodeToString(sum[:])
	p.Files = append(p.Files, guest.File{Name: inGuest, Mode: 0o755, Data: data})
	return p, nil
}

// read reads the file and tells what it is.
func read(file string) ([]byte, kind, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) && !strings.Contains(file, "/") {
		err = fmt.Errorf("%w (a program is named by its file: ./%s)", err, file)
	}
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, 0, err
	case info.IsDir():
		return nil, 0, fmt.Errorf("%s: a folder, no program", file)
	case info.Size() > maxProgram:
		return nil, 0, fmt.Errorf("%s: %d MB, at most %d MB fit into a guest", file, info.Size()>>20, maxProgram>>20)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxProgram))
	if err != nil {
		return nil, 0, err
	}
	switch {
	case strings.HasSuffix(file, ".c"):
		return data, source, nil
	case bytes.HasPrefix(data, []byte("#!")), strings.HasSuffix(file, ".sh"):
		return data, script, nil
	case !bytes.HasPrefix(data, []byte(elf.ELFMAG)):
		return nil, 0, fmt.Errorf("%s: neither an ELF program nor a script (#!) nor C (.c)", file)
	case info.Mode()&0o111 == 0:
		return nil, 0, fmt.Errorf("%s: not executable: chmod +x it", file)
	}
	return data, executable, nil
}

// Name makes lower-case words with hyphens of a file's name without its ending.
func Name(base string) string {
	base = strings.TrimSuffix(strings.TrimSuffix(base, ".c"), ".sh")
	words := strings.FieldsFunc(strings.ToLower(base), func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') })
	if len(words) == 0 {
		return "program"
	}
	name := strings.Join(words, "-")
	return strings.TrimRight(name[:min(len(name), 40)], "-")
}

// guestName is a file's name with nothing in it that needs quoting.
func guestName(base string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r) {
			return r
		}
		return '_'
	}, base)
	return name[:min(len(name), 100)]
}

// checkELF refuses what the guest cannot execute, above all a program that needs a dynamic linker.
func checkELF(file string, data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	switch {
	case f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN:
		return fmt.Errorf("%s: an ELF file of type %v, no program: link it", file, f.Type)
	case f.Machine != elf.EM_X86_64 && f.Machine != elf.EM_386:
		return fmt.Errorf("%s: built for %v, the guest is x86-64", file, f.Machine)
	}
	for _, segment := range f.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		linker, err := io.ReadAll(io.LimitReader(segment.Open(), 256))
		if err != nil {
			return fmt.Errorf("%s: dynamically linked, and its PT_INTERP is unreadable: %w", file, err)
		}
		return fmt.Errorf("%s: dynamically linked, and the guest has no %s and no libraries: "+
			"link it with -static (Go: CGO_ENABLED=0; Rust: --target x86_64-unknown-linux-musl)", file, bytes.TrimRight(linker, "\x00"))
	}
	if f.Entry == 0 {
		return fmt.Errorf("%s: a shared library, no program", file)
	}
	return nil
}

// findShell finds what a script needs. The guest has no shell, and no program of any distribution can run in
// it but a static one; busybox is one that is a shell.
func findShell(file string, text []byte) (guest.File, error) {
	line, _, _ := bytes.Cut(text, []byte("\n"))
	if words := strings.Fields(strings.TrimPrefix(string(line), "#!")); bytes.HasPrefix(line, []byte("#!")) && len(words) > 0 {
		name := filepath.Base(words[0])
		if name == "env" && len(words) > 1 {
			name = filepath.Base(words[1])
		}
		switch name {
		case "sh", "ash", "dash", "bash", "busybox":
		default:
			return guest.File{}, fmt.Errorf("%s: the guest has no %s, only a shell can be had there: write it in sh, C or Go", file, name)
		}
	}
	const wanted = "a script needs a shell in the guest, a static busybox in PATH: apt-get install busybox-static"
	path, err := exec.LookPath("busybox")
	if err != nil {
		return guest.File{}, fmt.Errorf("%s: %s", file, wanted)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return guest.File{}, fmt.Errorf("%s: %w", file, err)
	}
	if err := checkELF(path, data); err != nil {
		return guest.File{}, fmt.Errorf("%s: %s; the one that is there will not do: %w", file, wanted, err)
	}
	return guest.File{Name: layout.Path + "/busybox", Mode: 0o755, Data: data}, nil
}
