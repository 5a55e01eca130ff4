package kernels

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

// specForms is what an error about a SPEC ends with: every form, each as it would be typed.
const specForms = "want debian:6.12, debian:SUITE/6.12, a .deb (several: a.deb,b.deb), a folder, a kernel build tree, build:NAME/FLAVOUR, hash:HASH, or running"

// SpecError says that a SPEC cannot be understood. It is the user's to correct, unlike a failed import.
type SpecError struct {
	Spec   string // as given
	Reason string // what is wrong with it
	Hint   string // what to type instead
}

func (e *SpecError) Error() string {
	return fmt.Sprintf("kernel %q: %s; %s", e.Spec, e.Reason, e.Hint)
}

type specKind int

const (
	specDebian  specKind = iota + 1 // version, and a suite or ""
	specPackage                     // paths of .deb files
	specFolder                      // paths[0]: a folder or a build tree
	specRunning
	specBuild  // version: NAME/FLAVOUR; paths[0], where it is known, the build's folder
	specSource // as specDebian, the package of sources
	specHash   // version: the beginning of the content's hash
)

// spec is a parsed SPEC.
type spec struct {
	kind    specKind
	suite   string
	version string // of Debian's kernel or sources; of a build its name; of a kernel in the cache its hash
	paths   []string
	origin  string // of a build: what it was built from
}

var (
	specVersion = regexp.MustCompile(`^[0-9]{1,4}\.[0-9]{1,5}(\.[0-9]{1,5})?$`)
	specSuite   = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,63}$`)
	specHashed  = regexp.MustCompile(`^[0-9a-f]{8,64}$`)
	specBuilt   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+~@-]{0,127}/[a-z0-9][A-Za-z0-9_.+-]{0,127}$`)
)

const (
	debianPrefix = "debian:"
	sourcePrefix = "debian-source:"
	buildPrefix  = "build:"
	hashPrefix   = "hash:"
)

// parseSpec understands text without looking at the machine.
func parseSpec(text string) (spec, error) {
	bad := func(reason, hint string) (spec, error) {
		return spec{}, &SpecError{Spec: text, Reason: reason, Hint: hint}
	}
	switch {
	case text == "":
		return bad("is empty", specForms)
	case strings.ContainsAny(text, "\n\r\x00"):
		return bad("holds a control character", specForms)
	case text == "running":
		return spec{kind: specRunning}, nil
	case strings.HasPrefix(text, debianPrefix):
		return parseDebian(text, debianPrefix, specDebian)
	case strings.HasPrefix(text, sourcePrefix):
		return parseDebian(text, sourcePrefix, specSource)
	case strings.HasPrefix(text, buildPrefix):
		name := strings.TrimPrefix(text, buildPrefix)
		if !specBuilt.MatchString(name) {
			return bad(fmt.Sprintf("%q is not the name of a build", name), "want build:NAME/FLAVOUR, as nestbed kernel list shows it")
		}
		return spec{kind: specBuild, version: name}, nil
	case strings.HasPrefix(text, hashPrefix):
		hash := strings.TrimPrefix(text, hashPrefix)
		if !specHashed.MatchString(hash) {
			return bad(fmt.Sprintf("%q is not the beginning of a hash", hash), "want 8 or more of its digits, as nestbed kernel list shows them")
		}
		return spec{kind: specHash, version: hash}, nil
	case strings.HasSuffix(text, ".deb"):
		paths := strings.Split(text, ",")
		for _, p := range paths {
			if !strings.HasSuffix(p, ".deb") {
				return bad(fmt.Sprintf("%q is not a .deb", p), "give several packages as a.deb,b.deb")
			}
			if strings.HasSuffix(p, "/.deb") || p == ".deb" {
				return bad("a .deb has no name", specForms)
			}
		}
		return spec{kind: specPackage, paths: paths}, nil
	case strings.Contains(text, "/"), text == ".", text == "..":
		return spec{kind: specFolder, paths: []string{text}}, nil
	case specVersion.MatchString(text):
		return bad("does not say whose kernel", fmt.Sprintf("did you mean debian:%s?", text))
	case strings.Contains(text, ":"):
		return bad("only Debian's kernels are known by name", specForms)
	}
	return bad("is not a kernel", fmt.Sprintf("for a folder type ./%s; %s", text, specForms))
}

// parseDebian understands what follows debian: or debian-source:, [SUITE/]VERSION.
func parseDebian(text, prefix string, kind specKind) (spec, error) {
	bad := func(reason, hint string) (spec, error) {
		return spec{}, &SpecError{Spec: text, Reason: reason, Hint: hint}
	}
	rest := strings.TrimPrefix(text, prefix)
	suite, version, found := strings.Cut(rest, "/")
	if !found {
		suite, version = "", rest
	} else if !specSuite.MatchString(suite) {
		return bad(fmt.Sprintf("%q is not the name of a suite", suite), "want for example "+prefix+"trixie-backports/"+exampleVersion(version))
	}
	if !specVersion.MatchString(version) {
		if !found && specSuite.MatchString(version) {
			return bad("names no version", fmt.Sprintf("want for example %s%s/6.12", prefix, version))
		}
		return bad(fmt.Sprintf("%q is not a kernel version", version), fmt.Sprintf("want for example %s6.12 or %s6.12.48", prefix, prefix))
	}
	return spec{kind: kind, suite: suite, version: version}, nil
}

// exampleVersion is v where it can stand in an example.
func exampleVersion(v string) string {
	if specVersion.MatchString(v) {
		return v
	}
	return "6.12"
}

// absolute gives s with absolute paths, so that its key means the same from every folder.
func (s spec) absolute() (spec, error) {
	for i, p := range s.paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return spec{}, fmt.Errorf("find %s: %w", p, err)
		}
		if i == 0 {
			s.paths = append([]string(nil), s.paths...)
		}
		s.paths[i] = abs
	}
	return s, nil
}

// String is the canonical SPEC: parsing it gives s again.
func (s spec) String() string {
	switch s.kind {
	case specDebian, specSource:
		if s.suite == "" {
			return s.prefix() + s.version
		}
		return s.prefix() + s.suite + "/" + s.version
	case specBuild:
		return buildPrefix + s.version
	case specHash:
		return hashPrefix + s.version
	case specPackage, specFolder:
		return strings.Join(s.paths, ",")
	case specRunning:
		return "running"
	}
	return ""
}

// prefix is what a SPEC of Debian's begins with.
func (s spec) prefix() string {
	if s.kind == specSource {
		return sourcePrefix
	}
	return debianPrefix
}

// IsSource says whether text means a package of sources.
func IsSource(text string) bool { return strings.HasPrefix(text, sourcePrefix) }
