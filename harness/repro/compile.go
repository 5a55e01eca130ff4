package repro

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// compilers are tried in this order.
var compilers = []string{"cc", "gcc", "clang"}

// compile makes a static program of one C file and gives it with the compiler's warnings.
func compile(ctx context.Context, file string) (program []byte, warnings string, err error) {
	compiler := ""
	for _, name := range compilers {
		if path, err := exec.LookPath(name); err == nil {
			compiler = path
			break
		}
	}
	if compiler == "" {
		return nil, "", fmt.Errorf("%s: no C compiler in PATH: apt-get install gcc libc6-dev, or give a static program", file)
	}
	dir, err := os.MkdirTemp("", "nestbed-cc-")
	if err != nil {
		return nil, "", err
	}
	defer os.RemoveAll(dir)
	built := filepath.Join(dir, "program")
	// -pthread costs nothing where it is not needed, and reproducers of races need it.
	cmd := exec.CommandContext(ctx, compiler, "-static", "-O2", "-g", "-pthread", "-o", built, argument(file))
	cmd.Env = append(os.Environ(), "LC_ALL=C") // its words are looked at
	said, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return nil, "", ctx.Err()
	}
	words := strings.TrimSpace(string(said))
	if err != nil {
		return nil, "", fmt.Errorf("%s does not compile: %w%s\n%s", file, err, hint(said), words)
	}
	if program, err = os.ReadFile(built); err != nil {
		return nil, "", fmt.Errorf("%s: the compiler succeeds and leaves no program: %w", file, err)
	}
	return program, words, nil
}

// hint names the package that is missing, if the compiler's words say that one is.
func hint(said []byte) string {
	for _, sign := range []string{"cannot find -lc", "unable to find library -lc", "stdio.h: No such file", "stdio.h' file not found", "cannot find crt1.o"} {
		if bytes.Contains(said, []byte(sign)) {
			return " (no static C library here: apt-get install libc6-dev)"
		}
	}
	if bytes.Contains(said, []byte("linux/vfio.h: No such file")) {
		return " (the kernel's headers: apt-get install linux-libc-dev)"
	}
	return ""
}

// argument keeps a file's name from being taken for an option.
func argument(file string) string {
	if strings.HasPrefix(file, "-") {
		return "./" + file
	}
	return file
}
