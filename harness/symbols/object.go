package symbols

import (
	"bytes"
	"cmp"
	"debug/dwarf"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Line is a place in the source.
type Line struct {
	Func string
	File string // as the build names it, relative to the kernel's tree when it lies in there
	Line int
}

// object is one ELF file with DWARF: vmlinux, or a module, which is relocatable.
type object struct {
	file    *elf.File
	base    []uint64 // per section: sections of a relocatable file all begin at 0, and are laid out one behind the other
	funcs   map[string][]elf.Symbol
	dwarf   *dwarf.Data
	units   []unit // sorted by address
	buildID string // hexadecimal, "" when it has none
	release string // of the kernel that it is or belongs to, "" when it does not say
}

// unit is a range of addresses that a compilation unit covers.
type unit struct {
	low, high uint64
	entry     *dwarf.Entry
}

func (o *object) Close() error { return o.file.Close() }

func open(name string) (*object, error) {
	f, err := elf.Open(name)
	var format *elf.FormatError
	switch {
	case errors.As(err, &format), errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%s: no ELF file: %w (vmlinux is one, the bootable vmlinuz is none)", name, err)
	case err != nil:
		return nil, err // it names the file
	}
	o := &object{file: f, base: make([]uint64, len(f.Sections)), funcs: map[string][]elf.Symbol{}}
	if err := o.read(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), f.Close())
	}
	return o, nil
}

func (o *object) read() error {
	if o.file.Type == elf.ET_REL {
		next := uint64(1 << 20)
		for i, s := range o.file.Sections {
			if s.Flags&elf.SHF_EXECINSTR != 0 {
				o.base[i] = next
				next += (s.Size + 0xffff) &^ 0xffff
			}
		}
	}
	symbols, err := o.file.Symbols()
	if err != nil {
		return fmt.Errorf("its functions: %w (was it stripped?)", err)
	}
	for _, s := range symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section > elf.SHN_UNDEF && int(s.Section) < len(o.base) {
			s.Value += o.base[s.Section]
			o.funcs[s.Name] = append(o.funcs[s.Name], s)
		}
		if s.Name == "linux_banner" {
			o.release = o.banner(s)
		}
	}
	if s := o.file.Section(".modinfo"); s != nil {
		if data, err := s.Data(); err == nil {
			_, magic, _ := bytes.Cut(append([]byte{0}, data...), []byte("\x00vermagic="))
			release, _, _ := bytes.Cut(magic, []byte(" "))
			o.release = string(release)
		}
	}
	o.buildID = o.note()
	if o.dwarf, err = o.debug(symbols); err != nil {
		return err
	}
	return o.index()
}

// banner reads "Linux version 6.12.117 (...": the release.
func (o *object) banner(s elf.Symbol) string {
	if int(s.Section) >= len(o.file.Sections) {
		return ""
	}
	section := o.file.Sections[s.Section]
	text := make([]byte, 128)
	n, _ := section.ReadAt(text, int64(s.Value-section.Addr)) // what is short or absent says no release
	words := strings.Fields(string(text[:n]))
	if len(words) < 3 || words[0] != "Linux" || words[1] != "version" {
		return ""
	}
	return words[2]
}

// note reads the build id: the note of type 3 whose owner is GNU.
func (o *object) note() string {
	const ntBuildID = 3
	for _, s := range o.file.Sections {
		if s.Type != elf.SHT_NOTE {
			continue
		}
		data, err := s.Data()
		if err != nil {
			continue
		}
		for len(data) >= 12 {
			name, desc, kind := o.file.ByteOrder.Uint32(data), o.file.ByteOrder.Uint32(data[4:]), o.file.ByteOrder.Uint32(data[8:])
			start := 12 + (uint64(name)+3)&^3
			end := start + uint64(desc)
			if end > uint64(len(data)) {
				break
			}
			if kind == ntBuildID && string(data[12:12+name]) == "GNU\x00" {
				return hex.EncodeToString(data[start:end])
			}
			data = data[min((end+3)&^3, uint64(len(data))):]
		}
	}
	return ""
}

// debug reads the DWARF sections, with the addresses of a relocatable file's functions put where base says.
func (o *object) debug(symbols []elf.Symbol) (*dwarf.Data, error) {
	section := map[string][]byte{}
	for i, s := range o.file.Sections {
		name, ok := strings.CutPrefix(s.Name, ".debug_")
		if !ok || s.Type == elf.SHT_RELA || s.Type == elf.SHT_REL {
			continue
		}
		data, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
		if o.file.Type == elf.ET_REL {
			if err := o.relocate(data, i, symbols); err != nil {
				return nil, fmt.Errorf("section %s: %w", s.Name, err)
			}
		}
		section[name] = data
	}
	if len(section["info"]) == 0 {
		return nil, errors.New("no debug information (a kernel built with CONFIG_DEBUG_INFO has it, a distribution's is in a package of its own)")
	}
	d, err := dwarf.New(section["abbrev"], nil, nil, section["info"], section["line"], nil, section["ranges"], section["str"])
	if err != nil {
		return nil, fmt.Errorf("debug information: %w", err)
	}
	for _, name := range []string{"addr", "line_str", "str_offsets", "rnglists", "loclists"} {
		if data := section[name]; len(data) > 0 {
			if err := d.AddSection(".debug_"+name, data); err != nil {
				return nil, fmt.Errorf("debug information: %w", err)
			}
		}
	}
	return d, nil
}

// relocate applies the relocations of one section in place: absolute ones, there are no others in DWARF but
// differences on riscv, which are left alone.
func (o *object) relocate(data []byte, index int, symbols []elf.Symbol) error {
	for _, s := range o.file.Sections {
		if s.Type != elf.SHT_RELA || int(s.Info) != index || o.file.Class != elf.ELFCLASS64 {
			continue
		}
		rela, err := s.Data()
		if err != nil {
			return err
		}
		for ; len(rela) >= 24; rela = rela[24:] {
			at, info, addend := o.file.ByteOrder.Uint64(rela), o.file.ByteOrder.Uint64(rela[8:]), o.file.ByteOrder.Uint64(rela[16:])
			n := int(info >> 32)
			if n == 0 || n > len(symbols) {
				continue
			}
			sym := symbols[n-1]
			value := sym.Value + addend
			if int(sym.Section) < len(o.base) {
				value += o.base[sym.Section]
			}
			if at > uint64(len(data)) {
				return errors.New("a relocation lies outside of it")
			}
			put(data[at:], o.width(uint32(info)), value, o.file.ByteOrder)
		}
	}
	return nil
}

// width gives how many bytes a relocation writes, 0 for one that is not absolute.
func (o *object) width(kind uint32) int {
	switch o.file.Machine {
	case elf.EM_X86_64:
		switch elf.R_X86_64(kind) {
		case elf.R_X86_64_64:
			return 8
		case elf.R_X86_64_32:
			return 4
		}
	case elf.EM_AARCH64:
		switch elf.R_AARCH64(kind) {
		case elf.R_AARCH64_ABS64:
			return 8
		case elf.R_AARCH64_ABS32:
			return 4
		}
	case elf.EM_S390:
		switch elf.R_390(kind) {
		case elf.R_390_64:
			return 8
		case elf.R_390_32:
			return 4
		}
	case elf.EM_PPC64:
		switch elf.R_PPC64(kind) {
		case elf.R_PPC64_ADDR64:
			return 8
		case elf.R_PPC64_ADDR32:
			return 4
		}
	case elf.EM_RISCV:
		switch elf.R_RISCV(kind) {
		case elf.R_RISCV_64:
			return 8
		case elf.R_RISCV_32:
			return 4
		}
	}
	return 0
}

func put(to []byte, width int, value uint64, order binary.ByteOrder) {
	switch {
	case width > len(to):
	case width == 8:
		order.PutUint64(to, value)
	case width == 4:
		order.PutUint32(to, uint32(value))
	}
}

// index notes which compilation unit covers which addresses.
func (o *object) index() error {
	for r := o.dwarf.Reader(); ; {
		e, err := r.Next()
		switch {
		case err != nil:
			return fmt.Errorf("debug information: %w", err)
		case e == nil:
			slices.SortFunc(o.units, func(a, b unit) int { return cmp.Compare(a.low, b.low) })
			return nil
		}
		if e.Tag == dwarf.TagCompileUnit {
			ranges, err := o.dwarf.Ranges(e)
			if err != nil {
				return fmt.Errorf("debug information: %w", err)
			}
			for _, a := range ranges {
				o.units = append(o.units, unit{a[0], a[1], e})
			}
		}
		r.SkipChildren()
	}
}

// function finds where a function of this name and size is. The kernel's sizes reach to the next function, so
// they are those of the file or a little more.
func (o *object) function(name string, size uint64) (elf.Symbol, bool) {
	const padding = 128
	var best elf.Symbol
	found := false
	for _, s := range o.funcs[name] {
		if s.Size <= size && size-s.Size < padding && (!found || s.Size > best.Size) {
			best, found = s, true
		}
	}
	return best, found
}

// lines gives the source of an address, innermost first: the last one is that of the function which the
// compiler made, the ones before it are inlined into it.
func (o *object) lines(pc uint64) ([]Line, error) {
	at, ok := slices.BinarySearchFunc(o.units, pc, func(u unit, pc uint64) int {
		switch {
		case pc < u.low:
			return 1
		case pc >= u.high:
			return -1
		}
		return 0
	})
	if !ok {
		return nil, nil // assembly without debug information
	}
	cu := o.units[at].entry
	table, err := o.dwarf.LineReader(cu)
	if err != nil || table == nil {
		return nil, err
	}
	var row dwarf.LineEntry
	if err := table.SeekPC(pc, &row); err != nil {
		return nil, nil // a gap
	}
	tree, _ := cu.Val(dwarf.AttrCompDir).(string)
	chain, err := o.chain(cu, pc)
	if err != nil {
		return nil, err
	}
	file, line := "", row.Line
	if row.File != nil {
		file = row.File.Name
	}
	files := table.Files()
	var out []Line
	for _, e := range slices.Backward(chain) {
		out = append(out, Line{Func: o.name(e, 0), File: within(tree, file), Line: line})
		called, _ := e.Val(dwarf.AttrCallFile).(int64)
		if called < 0 || int(called) >= len(files) || files[called] == nil {
			file = ""
		} else {
			file = files[called].Name
		}
		from, _ := e.Val(dwarf.AttrCallLine).(int64)
		line = int(from)
	}
	return out, nil
}

// chain gives the function around an address and the inlined ones in it, outermost first.
func (o *object) chain(cu *dwarf.Entry, pc uint64) ([]*dwarf.Entry, error) {
	var out []*dwarf.Entry
	r := o.dwarf.Reader()
	r.Seek(cu.Offset)
	for depth := 0; ; {
		e, err := r.Next()
		switch {
		case err != nil:
			return nil, fmt.Errorf("debug information: %w", err)
		case e == nil:
			return out, nil
		case e.Tag == 0:
			if depth--; depth <= 0 {
				return out, nil
			}
			continue
		}
		covers := e.Tag == dwarf.TagCompileUnit
		if e.Tag == dwarf.TagSubprogram || e.Tag == dwarf.TagInlinedSubroutine || e.Tag == dwarf.TagLexDwarfBlock {
			ranges, err := o.dwarf.Ranges(e)
			if err != nil {
				return nil, fmt.Errorf("debug information: %w", err)
			}
			covers = slices.ContainsFunc(ranges, func(a [2]uint64) bool { return a[0] <= pc && pc < a[1] })
			if covers && e.Tag != dwarf.TagLexDwarfBlock {
				out = append(out, e)
			}
		}
		switch {
		case !e.Children:
		case covers:
			depth++
		default:
			r.SkipChildren()
		}
	}
}

// name gives a function's name, which an inlined one and a clone have elsewhere.
func (o *object) name(e *dwarf.Entry, depth int) string {
	if name, ok := e.Val(dwarf.AttrName).(string); ok {
		return name
	}
	for _, attr := range []dwarf.Attr{dwarf.AttrAbstractOrigin, dwarf.AttrSpecification} {
		if at, ok := e.Val(attr).(dwarf.Offset); ok && depth < 4 {
			r := o.dwarf.Reader()
			r.Seek(at)
			if e, err := r.Next(); err == nil && e != nil {
				return o.name(e, depth+1)
			}
		}
	}
	return "?"
}

// within gives a file's name relative to the tree that it was built in.
func within(tree, file string) string {
	file = path.Clean(file)
	if rest, ok := strings.CutPrefix(file, path.Clean(tree)+"/"); ok && tree != "" {
		return rest
	}
	return file
}
