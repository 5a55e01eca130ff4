package kernels

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// moduleInfo is what a module says about itself in its .modinfo section.
type moduleInfo struct {
	name    string
	depends []string // direct, modules only: modpost leaves out what is built in
	pre     []string // softdep pre: to be loaded before, where they exist
	release string   // first word of vermagic
}

// moduleName is the name the kernel knows a module by: it has underscores where its file may have hyphens.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

// parseModinfo reads the NUL-separated KEY=VALUE strings of a .modinfo section.
func parseModinfo(section []byte) moduleInfo {
	var m moduleInfo
	for field := range bytes.SplitSeq(section, []byte{0}) {
		key, value, ok := strings.Cut(string(field), "=")
		if !ok {
			continue
		}
		switch key {
		case "name":
			m.name = moduleName(value)
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				m.depends = appendName(m.depends, d)
			}
		case "softdep":
			before := false
			for _, word := range strings.Fields(value) {
				switch word {
				case "pre:":
					before = true
				case "post:":
					before = false
				default:
					if before {
						m.pre = appendName(m.pre, word)
					}
				}
			}
		case "vermagic":
			m.release, _, _ = strings.Cut(value, " ")
		}
	}
	return m
}

func appendName(names []string, s string) []string {
	name := moduleName(strings.TrimSpace(s))
	if !validModuleName(name) || slices.Contains(names, name) {
		return names
	}
	return append(names, name)
}

// validModuleName keeps names that become file names from leaving their folder. The kernel's own limit is
// MODULE_NAME_LEN, 56 bytes.
func validModuleName(s string) bool {
	if s == "" || len(s) > 56 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}

// maxModinfo bounds the section: the largest of a distribution's, a driver's with all its aliases, is 200 KB.
const maxModinfo = 4 << 20

// readModule reads the .modinfo of an uncompressed module, and says whether it carries debug information.
func readModule(r io.ReaderAt) (m moduleInfo, debug bool, err error) {
	f, err := elf.NewFile(r)
	if err != nil {
		return moduleInfo{}, false, fmt.Errorf("read module: %w", err)
	}
	s := f.Section(".modinfo")
	if f.Type != elf.ET_REL || s == nil {
		return moduleInfo{}, false, errors.New("read module: no .modinfo section")
	}
	if s.Size > maxModinfo {
		return moduleInfo{}, false, fmt.Errorf("read module: .modinfo of %d bytes", s.Size)
	}
	data, err := s.Data()
	if err != nil {
		return moduleInfo{}, false, fmt.Errorf("read module: %w", err)
	}
	return parseModinfo(data), f.Section(".debug_info") != nil, nil
}
