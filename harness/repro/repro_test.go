package repro

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

// program writes the head of an ELF file, as much of it as is looked at.
func program(t *testing.T, kind elf.Type, machine elf.Machine, interpreter string) []byte {
	t.Helper()
	head := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(kind), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Entry: 0x401000, Ehsize: 64, Phentsize: 56, Phoff: 64,
	}
	var segments []elf.Prog64
	if interpreter != "" {
		segments = append(segments, elf.Prog64{Type: uint32(elf.PT_INTERP), Off: 64 + 56, Filesz: uint64(len(interpreter) + 1)})
	}
	head.Phnum = uint16(len(segments))
	var b bytes.Buffer
	assert.NilError(t, binary.Write(&b, binary.LittleEndian, head))
	assert.NilError(t, binary.Write(&b, binary.LittleEndian, segments))
	b.WriteString(interpreter + "\x00")
	return b.Bytes()
}

func write(t *testing.T, name string, mode os.FileMode, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	assert.NilError(t, os.WriteFile(path, data, mode))
	return path
}

func TestStaticProgram(t *testing.T) {
	for _, kind := range []elf.Type{elf.ET_EXEC, elf.ET_DYN} { // the latter as static-pie
		data := program(t, kind, elf.EM_X86_64, "")
		p, err := Load(t.Context(), write(t, "My Bug_v2", 0o755, data), []string{"-n", "it's"})
		assert.NilError(t, err)
		assert.Equal(t, p.Name, "my-bug-v2")
		assert.DeepEqual(t, p.Argv, []string{"/tmp/My_Bug_v2", "-n", "it's"})
		assert.Equal(t, len(p.Files), 1)
		assert.Equal(t, p.Files[0].Name, "/tmp/My_Bug_v2")
		assert.DeepEqual(t, p.Files[0].Data, data)
		assert.Equal(t, len(p.SHA256), 64)
	}
}

func TestRefused(t *testing.T) {
	static := program(t, elf.ET_EXEC, elf.EM_X86_64, "")
	for _, c := range []struct {
		name string
		mode os.FileMode
		data []byte
		want string
	}{
		{"dynamic", 0o755, program(t, elf.ET_DYN, elf.EM_X86_64, "/lib64/ld-linux-x86-64.so.2"), "dynamically linked, and the guest has no /lib64/ld-linux-x86-64.so.2 and no libraries: link it with -static"},
		{"arm", 0o755, program(t, elf.ET_EXEC, elf.EM_AARCH64, ""), "built for EM_AARCH64, the guest is x86-64"},
		{"object.o", 0o755, program(t, elf.ET_REL, elf.EM_X86_64, ""), "of type ET_REL, no program"},
		{"cut", 0o755, []byte("\x7fELF\x02"), "cut: "},
		{"empty", 0o755, nil, "neither an ELF program nor a script (#!) nor C (.c)"},
		{"text", 0o755, []byte("hello"), "neither an ELF program"},
		{"plain", 0o644, static, "not executable: chmod +x it"},
		{"x.py", 0o755, []byte("#!/usr/bin/env python3\n"), "the guest has no python3, only a shell"},
		{"x.pl", 0o755, []byte("#!/usr/bin/perl -w\n"), "the guest has no perl"},
	} {
		_, err := Load(t.Context(), write(t, c.name, c.mode, c.data), nil)
		assert.Check(t, cmp.ErrorContains(err, c.want), c.name)
	}
	_, err := Load(t.Context(), t.TempDir(), nil)
	assert.ErrorContains(t, err, "a folder, no program")
	_, err = Load(t.Context(), "nowhere-at-all", nil)
	assert.ErrorContains(t, err, "no such file or directory (a program is named by its file: ./nowhere-at-all)")
	_, err = Load(t.Context(), write(t, "x", 0o755, static), []string{strings.Repeat("x", maxArguments)})
	assert.ErrorContains(t, err, "arguments of")
	big := write(t, "big", 0o755, static)
	assert.NilError(t, os.Truncate(big, maxProgram+1))
	_, err = Load(t.Context(), big, nil)
	assert.ErrorContains(t, err, "at most 100 MB fit into a guest")
}

// The test's own compiler and C library are real where they are there at all.
func TestCompile(t *testing.T) {
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip("needs a C compiler: make setup installs one")
	}
	p, err := Load(t.Context(), write(t, "t.c", 0o644, []byte("#include <stdio.h>\nint main(void) { return nowhere; }\n")), nil)
	assert.ErrorContains(t, err, "t.c does not compile: exit status 1")
	assert.Equal(t, len(p.Files), 0)
	p, err = Load(t.Context(), write(t, "t.c", 0o644, []byte("#include <pthread.h>\n#warning mind the gap\nint main(void) { return 0; }\n")), []string{"x"})
	assert.NilError(t, err)
	assert.DeepEqual(t, p.Argv, []string{"/tmp/t", "x"})
	assert.Check(t, cmp.Contains(p.Warnings, "mind the gap"))
	assert.NilError(t, checkELF("t", p.Files[0].Data))
}

// path makes a PATH of one folder with these programs in it.
func path(t *testing.T, programs map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range programs {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	t.Setenv("PATH", dir)
}

func TestCompilerThatCannot(t *testing.T) {
	file := write(t, "-t.c", 0o644, []byte("int main;"))
	path(t, nil)
	_, err := Load(t.Context(), file, nil)
	assert.ErrorContains(t, err, "no C compiler in PATH: apt-get install gcc libc6-dev, or give a static program")
	for said, want := range map[string]string{
		"/usr/bin/ld: cannot find -lc: No such file or directory":        "no static C library here: apt-get install libc6-dev",
		"t.c:1:10: fatal error: stdio.h: No such file or directory":      "apt-get install libc6-dev",
		"t.c:1:10: fatal error: linux/vfio.h: No such file or directory": "apt-get install linux-libc-dev",
		"t.c:1: error: everything":                                       "does not compile: exit status 1\nt.c:1: error: everything",
	} {
		path(t, map[string]string{"gcc": "#!/bin/sh\necho '" + said + "' >&2; exit 1\n"})
		_, err := Load(t.Context(), file, nil)
		assert.Check(t, cmp.ErrorContains(err, want), said)
	}
	path(t, map[string]string{"clang": "#!/bin/sh\nexit 0\n"})
	_, err = Load(t.Context(), file, nil)
	assert.ErrorContains(t, err, "the compiler succeeds and leaves no program")
	// The name is no option.
	path(t, map[string]string{"cc": "#!/bin/sh\nfor last; do :; done; echo \"file $last\"; exit 1\n"})
	t.Chdir(filepath.Dir(file))
	_, err = Load(t.Context(), "-t.c", nil)
	assert.ErrorContains(t, err, "file ./-t.c")
}

func TestScript(t *testing.T) {
	static := string(program(t, elf.ET_EXEC, elf.EM_X86_64, ""))
	file := write(t, "go.sh", 0o644, []byte("echo hello\n"))
	path(t, nil)
	_, err := Load(t.Context(), file, nil)
	assert.ErrorContains(t, err, "a script needs a shell in the guest, a static busybox in PATH: apt-get install busybox-static")
	path(t, map[string]string{"busybox": string(program(t, elf.ET_DYN, elf.EM_X86_64, "/lib/ld.so"))})
	_, err = Load(t.Context(), file, nil)
	assert.ErrorContains(t, err, "apt-get install busybox-static; the one that is there will not do")

	path(t, map[string]string{"busybox": static})
	for name, text := range map[string]string{"go.sh": "echo hello\n", "a": "#!/bin/sh\n", "b": "#! /usr/bin/env bash\n", "c": "#!/bin/busybox sh\n"} {
		p, err := Load(t.Context(), write(t, name, 0o644, []byte(text)), []string{"x"})
		assert.NilError(t, err, name)
		assert.DeepEqual(t, p.Argv, []string{"/bin/busybox", "sh", "/tmp/" + name, "x"})
		assert.Equal(t, p.Files[0].Name, "/bin/busybox")
		assert.Equal(t, string(p.Files[1].Data), text)
	}
}

func TestName(t *testing.T) {
	for in, want := range map[string]string{
		"l1.c": "l1", "go.sh": "go", "CVE-2024-26812": "cve-2024-26812", "a_b c.bin": "a-b-c-bin", "___": "program", "ü": "program",
		strings.Repeat("a-", 40): strings.TrimSuffix(strings.Repeat("a-", 20), "-"),
	} {
		assert.Check(t, cmp.Equal(Name(in), want))
	}
}
