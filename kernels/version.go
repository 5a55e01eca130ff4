package kernels

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Version is the part of a kernel's release that names its features: 6.12 of 6.12.117+deb12-amd64.
type Version struct{ Major, Minor int }

// ParseVersion reads the leading MAJOR.MINOR of a version or a release.
func ParseVersion(s string) (Version, error) {
	n, _ := leadingNumbers(s)
	if len(n) < 2 {
		return Version{}, fmt.Errorf("parse kernel version %q: want MAJOR.MINOR", s)
	}
	return Version{n[0], n[1]}, nil
}

// Compare orders versions: -1, 0, +1.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor))
}

// Less says whether v is older than w.
func (v Version) Less(w Version) bool { return v.Compare(w) < 0 }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// leadingNumbers splits the dotted numbers off the front of s: [6 12 117] and "+deb12-amd64".
func leadingNumbers(s string) (numbers []int, rest string) {
	rest = s
	for {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		if digits == 0 || digits > 9 {
			return numbers, rest
		}
		n, err := strconv.Atoi(rest[:digits])
		if err != nil {
			return numbers, rest
		}
		numbers = append(numbers, n)
		rest = rest[digits:]
		next := strings.TrimPrefix(rest, ".")
		if next == rest || next == "" || next[0] < '0' || next[0] > '9' {
			return numbers, rest
		}
		rest = next
	}
}

// hasVersion says whether the package version v is one of want, component by component: 6.1.192-2 is one
// of 6.1 and 6.12.117-1 is not.
func hasVersion(v, want string) bool {
	have, _ := leadingNumbers(v)
	wanted, rest := leadingNumbers(want)
	if rest != "" || len(have) < len(wanted) {
		return false
	}
	for i, n := range wanted {
		if have[i] != n {
			return false
		}
	}
	return true
}

// compareDebian orders package versions as dpkg does (deb-version(7)).
func compareDebian(a, b string) int {
	ea, ua, ra := splitDebian(a)
	eb, ub, rb := splitDebian(b)
	return cmp.Or(cmp.Compare(ea, eb), comparePart(ua, ub), comparePart(ra, rb))
}

func splitDebian(v string) (epoch int, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		if n, err := strconv.Atoi(e); err == nil {
			epoch, v = n, rest
		}
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares alternating runs of non-digits and digits; a tilde sorts before the end of the
// string, letters before everything else.
func comparePart(a, b string) int {
	order := func(s string) int {
		switch {
		case s == "" || s[0] >= '0' && s[0] <= '9':
			return 0
		case s[0] == '~':
			return -1
		case s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z':
			return int(s[0])
		}
		return int(s[0]) + 256
	}
	digit := func(s string) bool { return s != "" && s[0] >= '0' && s[0] <= '9' }
	for a != "" || b != "" {
		for a != "" && !digit(a) || b != "" && !digit(b) {
			if c := cmp.Compare(order(a), order(b)); c != 0 {
				return c
			}
			// Equal orders outside digits are equal characters, so both have one left.
			a, b = a[1:], b[1:]
		}
		na := len(a) - len(strings.TrimLeft(a, "0123456789"))
		nb := len(b) - len(strings.TrimLeft(b, "0123456789"))
		da, db := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
		if c := cmp.Or(cmp.Compare(len(da), len(db)), strings.Compare(da, db)); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return 0
}
