// Package kconfig owns the reading of a kernel's Kconfig files, as far as it takes to say why an option that
// was asked for is not to be had, and which files decide.
//
// It does not configure: the tree's own scripts do. What it cannot read (macros in expressions) it skips.
package kconfig

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Tree is what the Kconfig files of a kernel's sources say.
type Tree struct {
	symbols map[string][]entry
	hash    [sha256.Size]byte
}

// entry is one definition of a symbol. A symbol may have several.
type entry struct {
	file    string
	prompt  bool
	boolean bool     // m in a condition is enough for y
	depends []string // all must hold: its own, and those of the menus and ifs around it
}

// maxDepth is far above how deep source commands nest.
const maxDepth = 64

// Read reads the Kconfig files of the tree in dir, for x86.
func Read(dir string) (*Tree, error) {
	r := &reader{dir: dir, tree: &Tree{symbols: make(map[string][]entry)}, seen: make(map[string]bool)}
	sum := sha256.New()
	r.sum = sum
	if err := r.file("Kconfig", nil, 0); err != nil {
		return nil, fmt.Errorf("read Kconfig: %w", err)
	}
	sum.Sum(r.tree.hash[:0])
	return r.tree, nil
}

// Hash changes with any of the files.
func (t *Tree) Hash() string { return fmt.Sprintf("%x", t.hash) }

type reader struct {
	dir  string
	tree *Tree
	seen map[string]bool // being read
	sum  io.Writer
}

// expand replaces the few variables that name files.
var expand = strings.NewReplacer("$(SRCARCH)", "x86", "$SRCARCH", "x86", "$(ARCH)", "x86", "$(HEADER_ARCH)", "x86", `"`, "")

func (r *reader) file(name string, around []string, depth int) error {
	if depth > maxDepth || r.seen[name] || strings.Contains(name, "$") || !filepath.IsLocal(name) {
		return nil
	}
	r.seen[name] = true
	defer delete(r.seen, name)
	f, err := os.Open(filepath.Join(r.dir, name))
	if errors.Is(err, fs.ErrNotExist) && depth > 0 {
		return nil // osource
	} else if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintln(r.sum, name)
	p := parser{reader: r, name: name, depth: depth, around: around}
	lines := bufio.NewScanner(io.TeeReader(f, r.sum))
	lines.Buffer(nil, 1<<20)
	whole := ""
	for lines.Scan() {
		line := lines.Text()
		if part, more := strings.CutSuffix(line, "\\"); more {
			whole += part + " "
			continue
		}
		if err := p.line(whole + line); err != nil {
			return err
		}
		whole = ""
	}
	p.flush()
	return lines.Err()
}

// parser reads one file.
type parser struct {
	*reader
	name   string
	depth  int
	around []string   // conditions that hold for all that follows
	blocks [][]string // the conditions of the blocks that are open
	symbol string     // the symbol whose attributes are being read
	entry  entry
	menu   bool // a menu's or choice's attributes are being read: its conditions hold for what is inside
	help   int  // the indentation of the help text that is being skipped, -1 before its first line, 0 outside
}

func (p *parser) conditions() []string {
	all := append([]string(nil), p.around...)
	for _, b := range p.blocks {
		all = append(all, b...)
	}
	return all
}

func (p *parser) flush() {
	if p.symbol != "" {
		p.entry.depends = append(p.conditions(), p.entry.depends...)
		p.tree.symbols[p.symbol] = append(p.tree.symbols[p.symbol], p.entry)
	}
	p.symbol, p.entry, p.menu = "", entry{}, false
}

// indent counts columns as Kconfig does: a tab goes to the next multiple of eight.
func indent(line string) int {
	n := 0
	for _, c := range line {
		switch c {
		case ' ':
			n++
		case '\t':
			n = n&^7 + 8
		default:
			return n
		}
	}
	return n
}

func (p *parser) line(text string) error {
	trimmed := strings.TrimSpace(text)
	if trimmed == "" {
		return nil
	}
	if p.help != 0 {
		at := indent(text)
		if p.help < 0 && at > 0 {
			p.help = at
		}
		if at > 0 && at >= p.help {
			return nil
		}
		p.help = 0
	}
	if trimmed[0] == '#' {
		return nil
	}
	word, rest, _ := strings.Cut(strings.ReplaceAll(trimmed, "\t", " "), " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "config", "menuconfig":
		p.flush()
		p.symbol, p.entry = rest, entry{file: p.name}
	case "menu", "choice":
		p.flush()
		p.blocks, p.menu = append(p.blocks, nil), true
	case "if":
		p.flush()
		p.blocks = append(p.blocks, []string{rest})
	case "endif", "endmenu", "endchoice":
		p.flush()
		if len(p.blocks) > 0 {
			p.blocks = p.blocks[:len(p.blocks)-1]
		}
	case "comment", "mainmenu":
		p.flush()
	case "source", "rsource", "osource", "orsource":
		p.flush()
		name := expand.Replace(rest)
		if strings.Contains(word, "rs") {
			name = filepath.Join(filepath.Dir(p.name), name)
		}
		return p.file(name, p.conditions(), p.depth+1)
	case "help", "---help---":
		p.help = -1
	case "depends":
		if on, ok := strings.CutPrefix(rest, "on "); ok {
			p.condition(strings.TrimSpace(on))
		}
	case "visible":
		if when, ok := strings.CutPrefix(rest, "if "); ok && p.menu {
			p.condition(strings.TrimSpace(when))
		}
	case "bool", "def_bool":
		p.entry.boolean = true
		p.prompt(rest)
	case "tristate", "string", "int", "hex", "prompt":
		p.prompt(rest)
	}
	return nil
}

func (p *parser) condition(expression string) {
	switch {
	case p.symbol != "":
		p.entry.depends = append(p.entry.depends, expression)
	case p.menu:
		last := len(p.blocks) - 1
		p.blocks[last] = append(p.blocks[last], expression)
	}
}

// prompt notes that users are asked for the symbol, and when: "text" if EXPERT.
func (p *parser) prompt(rest string) {
	if p.symbol == "" || rest == "" || rest[0] != '"' && rest[0] != '\'' {
		return
	}
	p.entry.prompt = true
	end := strings.LastIndexByte(rest, rest[0])
	if when, ok := strings.CutPrefix(strings.TrimSpace(rest[end+1:]), "if "); ok {
		p.entry.depends = append(p.entry.depends, strings.TrimSpace(when))
	}
}

// Why says what keeps the symbol (without CONFIG_) from the value want ("y", "m") in a configuration.
func (t *Tree) Why(symbol, want string, config map[string]string) string {
	entries := t.symbols[symbol]
	if len(entries) == 0 {
		return "this tree has no such option"
	}
	var missing []string
	asked := false
	for _, e := range entries {
		if !e.prompt {
			continue
		}
		asked = true
		unmet := e.unmet(want, config)
		if len(unmet) == 0 {
			return "nothing that it depends on is missing: a choice or a select decides (" + e.file + ")"
		}
		missing = append(missing, fmt.Sprintf("needs %s (%s)", strings.Join(unmet, " and "), e.file))
	}
	if !asked {
		return "it cannot be asked for, only other options select it (" + entries[0].file + ")"
	}
	return strings.Join(missing, ", or ")
}

// unmet are the conditions that do not allow the value want, with the values of what is in them.
func (e entry) unmet(want string, config map[string]string) []string {
	least := level(want)
	if e.boolean {
		least = min(least, level("m"))
	}
	var list []string
	for _, d := range e.depends {
		x, ok := parse(d)
		if !ok || x.value(config) >= least {
			continue
		}
		var values []string
		for _, s := range x.symbols() {
			values = append(values, s+"="+value(config, s))
		}
		list = append(list, fmt.Sprintf("%s [%s]", d, strings.Join(values, " ")))
	}
	return list
}
