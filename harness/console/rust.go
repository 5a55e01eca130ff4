package console

import (
	"strconv"
	"strings"
)

// demangle reads a symbol of Rust's v0 scheme, "_RNvMs3_NtCs9jE_3vfio5groupNtB5_5Group4open", as
// "<vfio::group::Group>::open", without the crates' hashes, which change with every build. A symbol of another
// kind, or with parts that the kernel's Rust has no use for, is left as it is.
func demangle(symbol string) string {
	rest, ok := strings.CutPrefix(symbol, "_R")
	if !ok {
		return symbol
	}
	d := demangler{s: rest}
	name := d.path(0)
	if d.bad || d.at < len(d.s) && d.s[d.at] != '.' && d.s[d.at] != 'C' { // what follows is where it was instantiated
		return symbol
	}
	return name
}

// The grammar is in Rust's RFC 2603. Everything is bounded, because a guest prints the symbols.
type demangler struct {
	s     string
	at    int
	bad   bool
	steps int
}

const (
	maxRustDepth = 24
	maxRustSteps = 400
)

func (d *demangler) next() byte {
	if d.steps++; d.at >= len(d.s) || d.steps > maxRustSteps {
		d.bad = true
		return 0
	}
	d.at++
	return d.s[d.at-1]
}

func (d *demangler) skip(c byte) bool {
	if d.at < len(d.s) && d.s[d.at] == c {
		d.at++
		return true
	}
	return false
}

// number62 reads a number in base 62, which "_" ends.
func (d *demangler) number62() int {
	if d.skip('_') {
		return 0
	}
	n := 0
	for {
		c := d.next()
		switch {
		case c == '_':
			return n + 1
		case c >= '0' && c <= '9':
			n = n*62 + int(c-'0')
		case c >= 'a' && c <= 'z':
			n = n*62 + int(c-'a') + 10
		case c >= 'A' && c <= 'Z':
			n = n*62 + int(c-'A') + 36
		default:
			d.bad = true
		}
		if d.bad || n > 1<<30 { // a crate's hash is longer, and of no use
			for !d.bad && d.next() != '_' {
			}
			return 0
		}
	}
}

// identifier reads "[s<number>] <length> [_] <name>".
func (d *demangler) identifier() (name string, nth int) {
	if d.skip('s') {
		nth = d.number62() + 1
	}
	if d.at < len(d.s) && d.s[d.at] == 'u' { // punycode
		d.bad = true
		return "", 0
	}
	n := 0
	for d.at < len(d.s) && d.s[d.at] >= '0' && d.s[d.at] <= '9' && n < maxName {
		n = n*10 + int(d.next()-'0')
	}
	d.skip('_')
	if d.at+n > len(d.s) || n > maxName {
		d.bad = true
		return "", 0
	}
	name = d.s[d.at : d.at+n]
	d.at += n
	return name, nth
}

// back reads what a back reference points to.
func (d *demangler) back(read func(int) string, depth int) string {
	to := d.number62()
	if to >= d.at {
		d.bad = true
		return ""
	}
	from := d.at
	d.at = to
	text := read(depth + 1)
	d.at = from
	return text
}

func (d *demangler) path(depth int) string {
	if depth > maxRustDepth || d.bad {
		d.bad = true
		return ""
	}
	switch d.next() {
	case 'C':
		name, _ := d.identifier()
		return name
	case 'N':
		space := d.next()
		in := d.path(depth + 1)
		name, nth := d.identifier()
		switch space {
		case 'C':
			return bound(in+"::{closure#"+strconv.Itoa(nth)+"}", 2*maxName)
		case 'S':
			return bound(in+"::{shim:"+name+"}", 2*maxName)
		}
		if name == "" {
			return in
		}
		return bound(in+"::"+name, 2*maxName)
	case 'M':
		d.implementation(depth)
		return "<" + d.kind(depth+1) + ">"
	case 'X':
		d.implementation(depth)
		fallthrough
	case 'Y':
		self := d.kind(depth + 1)
		return bound("<"+self+" as "+d.path(depth+1)+">", 2*maxName)
	case 'I':
		of := d.path(depth + 1)
		var args []string
		for !d.bad && !d.skip('E') {
			args = append(args, d.kind(depth+1))
		}
		return bound(of+"<"+strings.Join(args, ", ")+">", 2*maxName)
	case 'B':
		return d.back(d.path, depth)
	}
	d.bad = true
	return ""
}

// implementation passes over where an impl is, which does not show.
func (d *demangler) implementation(depth int) {
	if d.skip('s') {
		d.number62()
	}
	d.path(depth + 1)
}

var rustTypes = map[byte]string{
	'a': "i8", 'b': "bool", 'c': "char", 'd': "f64", 'e': "str", 'f': "f32", 'h': "u8", 'i': "isize", 'j': "usize", 'l': "i32", 'm': "u32",
	'n': "i128", 'o': "u128", 's': "i16", 't': "u16", 'u': "()", 'v': "...", 'x': "i64", 'y': "u64", 'z': "!", 'p': "_",
}

// kind reads a type.
func (d *demangler) kind(depth int) string {
	if depth > maxRustDepth || d.bad || d.at >= len(d.s) {
		d.bad = true
		return ""
	}
	c := d.s[d.at]
	if name := rustTypes[c]; name != "" {
		d.next()
		return name
	}
	switch c {
	case 'R', 'Q', 'P', 'O':
		d.next()
		if (c == 'R' || c == 'Q') && d.skip('L') { // a lifetime
			d.number62()
		}
		return map[byte]string{'R': "&", 'Q': "&mut ", 'P': "*const ", 'O': "*mut "}[c] + d.kind(depth+1)
	case 'S':
		d.next()
		return "[" + d.kind(depth+1) + "]"
	case 'T':
		d.next()
		var of []string
		for !d.bad && !d.skip('E') {
			of = append(of, d.kind(depth+1))
		}
		return bound("("+strings.Join(of, ", ")+")", 2*maxName)
	case 'B':
		d.next()
		return d.back(d.kind, depth)
	case 'L': // a lifetime among generic arguments
		d.next()
		d.number62()
		return "'_"
	case 'C', 'N', 'M', 'X', 'Y', 'I':
		return d.path(depth)
	}
	d.bad = true // arrays, functions, dyn and constants
	return ""
}
