// Package fragments owns the configurations that kernels are built with: fragments, one for each concern, and
// the flavours that they make up.
//
// A fragment is what the kernel's own merge_config.sh reads: CONFIG_X=value and "# CONFIG_X is not set". Two
// comments mean something here, because trees from 5.10 to 7.x differ:
//
//	# optional: CONFIG_X since 6.6     older trees have no such option
//	# optional: CONFIG_X until 5.15    newer ones have not
//	# optional: CONFIG_X               may be missing anywhere
//
// Merging, and saying why an option was not had, is package build's.
package fragments

import (
	"bufio"
	"bytes"
	"embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/nestbed/nestbed/kernels"
)

//go:embed *.config
var files embed.FS

// Fragment is a part of a configuration.
type Fragment struct {
	Name    string // of its file
	Text    []byte // as merge_config.sh reads it
	Options []Option
}

// Option is one that a fragment asks for.
type Option struct {
	Name  string // without CONFIG_
	Value string // "y", "m", "n", a number; a string without its quotes
	Line  int

	optional     bool
	since, until kernels.Version // the zero Version: no bound
}

// Required says whether a tree of version v must have the option as it was asked for.
func (o Option) Required(v kernels.Version) bool {
	switch {
	case !o.optional:
		return true
	case o.since == kernels.Version{} && o.until == kernels.Version{}:
		return false
	}
	return !v.Less(o.since) && (o.until == kernels.Version{} || !o.until.Less(v))
}

var (
	setLine      = regexp.MustCompile(`^CONFIG_([A-Za-z0-9_]+)=(.+)$`)
	unsetLine    = regexp.MustCompile(`^# CONFIG_([A-Za-z0-9_]+) is not set$`)
	optionalLine = regexp.MustCompile(`^# optional: CONFIG_([A-Za-z0-9_]+)(?: (since|until) ([0-9]+\.[0-9]+))?$`)
)

// Parse reads a fragment; name is for errors.
func Parse(name string, text []byte) (Fragment, error) {
	f := Fragment{Name: name, Text: text}
	markers := make(map[string]Option)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if m := optionalLine.FindStringSubmatch(line); m != nil {
			mark := Option{Name: m[1], Line: n, optional: true}
			if m[2] != "" {
				v, err := kernels.ParseVersion(m[3])
				if err != nil {
					return Fragment{}, fmt.Errorf("fragment %s, line %d: %w", name, n, err)
				}
				if m[2] == "since" {
					mark.since = v
				} else {
					mark.until = v
				}
			}
			markers[m[1]] = mark
			continue
		}
		if m := setLine.FindStringSubmatch(line); m != nil {
			f.Options = append(f.Options, Option{Name: m[1], Value: unquote(m[2]), Line: n})
			continue
		}
		if m := unsetLine.FindStringSubmatch(line); m != nil {
			f.Options = append(f.Options, Option{Name: m[1], Value: "n", Line: n})
			continue
		}
		if strings.HasPrefix(line, "# optional:") || line != "" && line[0] != '#' {
			return Fragment{}, fmt.Errorf("fragment %s, line %d: %q: want CONFIG_X=y, \"# CONFIG_X is not set\" or \"# optional: CONFIG_X since 6.6\"", name, n, line)
		}
	}
	if err := lines.Err(); err != nil {
		return Fragment{}, fmt.Errorf("fragment %s: %w", name, err)
	}
	for i, o := range f.Options {
		if mark, ok := markers[o.Name]; ok {
			f.Options[i].optional, f.Options[i].since, f.Options[i].until = true, mark.since, mark.until
			delete(markers, o.Name)
		}
	}
	for _, mark := range markers {
		return Fragment{}, fmt.Errorf("fragment %s, line %d: CONFIG_%s is marked optional and not asked for", name, mark.Line, mark.Name)
	}
	return f, nil
}

// unquote takes the quotes of a string off.
func unquote(v string) string {
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		return v[1 : len(v)-1]
	}
	return v
}

// load gives fragments that come with nestbed.
func load(names []string) ([]Fragment, error) {
	var list []Fragment
	for _, name := range names {
		text, err := files.ReadFile(name + ".config")
		if err != nil {
			return nil, err
		}
		f, err := Parse(name+".config", text)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}
