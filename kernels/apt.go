package kernels

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nestbed/nestbed/kernels/flock"
	"github.com/nestbed/nestbed/kernels/program"
)

// apt asks Debian mirrors through apt-get, with a state of its own for each suite: the system's lists, cache
// and locks are never touched and no root is needed.
type apt struct {
	dir      string // state, one folder below per suite
	progress func(string)
	// run runs an apt program in dir; conf is its whole configuration, "" the system's.
	run func(ctx context.Context, dir, conf string, args ...string) ([]byte, error)
}

// runApt is apt.run for the real programs.
func runApt(ctx context.Context, dir, conf string, args ...string) ([]byte, error) {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return nil, fmt.Errorf("%s not found: kernels by name need a Debian machine; elsewhere give .deb files or a folder", args[0])
	}
	cmd := program.Command(ctx, path, args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	if conf != "" {
		cmd.Env = append(cmd.Env, "APT_CONFIG="+conf)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := program.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s: %w", strings.Join(args[:2], " "), ctx.Err())
		}
		return nil, aptFailed(args, err, stderr.String())
	}
	return stdout.Bytes(), nil
}

// ErrUnreachable is why nothing is known of what a mirror has: no fault of the one who asks, of nestbed or of the
// mirror's content.
var ErrUnreachable = errors.New("the mirror cannot be reached")

// aptUnreachable finds what apt's methods say when there is no network, no such host, nobody who answers, or only a
// proxy that cannot reach the mirror either. apt's status tells this from a wrong signature in words only.
var aptUnreachable = regexp.MustCompile(`(?m)^E: (?:Failed to fetch|Unable to fetch) .*(?:Could not connect to |Unable to connect to |Cannot initiate the connection to |` +
	`Could not resolve |Temporary failure resolving |Something wicked happened resolving |Connection failed|Connection timed out|Could not handshake|` +
	`Error reading from server|  50[0234]  )`)

// aptFailed is how an apt program ended, with its own words.
func aptFailed(args []string, err error, stderr string) error {
	err = program.Outcome(err, stderr)
	if aptUnreachable.MatchString(stderr) && !errors.Is(err, syscall.ENOSPC) {
		err = fmt.Errorf("%w (%w)", ErrUnreachable, err)
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(args[:2], " "), err, aptComplaint(stderr))
}

// aptComplaint is what matters in apt's standard error, as one bounded line.
func aptComplaint(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		line = strings.TrimSpace(line)
		if text, ok := strings.CutPrefix(line, "E: "); ok && !slices.Contains(said, text) {
			said = append(said, text)
		}
	}
	if len(said) == 0 {
		said = []string{strings.TrimSpace(stderr)}
	}
	text := strings.Join(said, "; ")
	if len(text) > 600 {
		text = text[:600] + " ..."
	}
	return text
}

// aptSettings are the parts of the system's configuration that say how to reach and trust mirrors. All else
// stays out: hooks (Post-Invoke) would act on the system, AllowUnauthenticated would switch the check off.
var aptSettings = regexp.MustCompile(`(?i)^(Acquire::(https?|ftp|tor|mirror|socks|retries|forceipv[46]|proxy[a-z-]*|check-date|check-valid-until|(max|min)-validtime|source-symlinks|queue-mode)(::|\b)|APT::Sandbox::)`)

// aptConfig is what `apt-config dump` says.
type aptConfig struct {
	lines  []string // to be kept, in the syntax of apt.conf
	values map[string]string
}

func parseAptConfig(dump []byte) aptConfig {
	c := aptConfig{values: make(map[string]string)}
	for line := range strings.Lines(string(dump)) {
		line = strings.TrimSpace(line)
		key, value, ok := strings.Cut(line, " ")
		if !ok {
			continue
		}
		if aptSettings.MatchString(key) {
			c.lines = append(c.lines, line)
		}
		c.values[strings.ToLower(key)] = strings.Trim(strings.TrimSuffix(value, ";"), `"`)
	}
	return c
}

// path resolves a Dir:: setting as apt does: relative to its parents.
func (c aptConfig) path(key string) string {
	key = strings.ToLower(key)
	name := c.values[key]
	for !filepath.IsAbs(name) {
		i := strings.LastIndex(key, "::")
		if i < 0 {
			return filepath.Join("/", name)
		}
		key = key[:i]
		name = filepath.Join(c.values[key], name)
	}
	return name
}

// aptSource is one suite of one archive.
type aptSource struct {
	uri        string
	suite      string
	components []string
	signedBy   string            // verbatim: paths, fingerprints or a whole key block with its line breaks
	options    map[string]string // deb822 names: Check-Valid-Until ...
}

// keptOptions are the options of a source that matter for reaching it; by name in sources.list, in deb822.
var keptOptions = map[string]string{
	"signed-by":         "Signed-By",
	"check-valid-until": "Check-Valid-Until",
	"check-date":        "Check-Date",
	"valid-until-max":   "Valid-Until-Max",
	"valid-until-min":   "Valid-Until-Min",
	"date-max-future":   "Date-Max-Future",
	"by-hash":           "By-Hash",
	"snapshot":          "Snapshot",
}

// sourceURI matches http://mirror/debian, mirror+file:/etc/mirrors.txt and the like.
var sourceURI = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:/*[^/]`)

// parseSourceLines reads the one-line format of sources.list(5).
func parseSourceLines(text string) []aptSource {
	var sources []aptSource
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '\t' && rest[0] != '[' {
			continue
		}
		options := make(map[string]string)
		rest = strings.TrimSpace(rest)
		if inner, ok := strings.CutPrefix(rest, "["); ok {
			inner, rest, ok = strings.Cut(inner, "]")
			if !ok {
				continue
			}
			for _, option := range strings.Fields(inner) {
				key, value, _ := strings.Cut(option, "=")
				options[strings.ToLower(strings.TrimRight(key, "+-"))] = strings.ReplaceAll(value, ",", " ")
			}
		}
		words := strings.Fields(rest)
		if len(words) < 2 || !sourceURI.MatchString(words[0]) || !servesAMD64(cmp.Or(options["arch"], options["architectures"])) {
			continue
		}
		sources = append(sources, newAptSource(words[0], words[1], words[2:], options))
	}
	return sources
}

// parseSourceStanzas reads the deb822 format of sources.list(5).
func parseSourceStanzas(text string) []aptSource {
	var sources []aptSource
	for _, fields := range parseStanzas(text) {
		if enabled := strings.ToLower(fields["enabled"]); enabled == "no" || enabled == "false" || enabled == "0" || enabled == "off" {
			continue
		}
		if !slices.Contains(strings.Fields(fields["types"]), "deb") || !servesAMD64(fields["architectures"]) {
			continue
		}
		for _, uri := range strings.Fields(fields["uris"]) {
			if !sourceURI.MatchString(uri) {
				continue
			}
			for _, suite := range strings.Fields(fields["suites"]) {
				sources = append(sources, newAptSource(uri, suite, strings.Fields(fields["components"]), fields))
			}
		}
	}
	return sources
}

func newAptSource(uri, suite string, components []string, options map[string]string) aptSource {
	s := aptSource{uri: strings.TrimSuffix(uri, "/"), suite: suite, components: components, options: make(map[string]string)}
	for key, name := range keptOptions {
		switch value := options[key]; {
		case value == "":
		case key == "signed-by":
			s.signedBy = value
		default:
			s.options[name] = value
		}
	}
	return s
}

// servesAMD64: the guests are amd64 whatever the host is; no list means all that the host has configured.
func servesAMD64(architectures string) bool {
	return architectures == "" || slices.Contains(strings.Fields(architectures), "amd64")
}

// parseStanzas reads deb822 text: paragraphs of fields with lower-cased names. Continuation lines keep
// their line breaks and indentation, which embedded keys need.
func parseStanzas(text string) []map[string]string {
	var all []map[string]string
	var fields map[string]string
	var last string
	lines := bufio.NewScanner(strings.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			fields, last = nil, ""
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				fields[last] += "\n" + strings.TrimRight(line, " \t\r")
			}
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				last = ""
				continue
			}
			if fields == nil {
				fields = make(map[string]string)
				all = append(all, fields)
			}
			last = strings.ToLower(strings.TrimSpace(key))
			fields[last] = strings.TrimSpace(value)
		}
	}
	return all
}

// debianSuites are the release names that Debian's archive serves, newest first.
var debianSuites = []string{"duke", "forky", "trixie", "bookworm", "bullseye", "buster",
	"stable", "oldstable", "oldoldstable", "testing", "unstable", "sid", "experimental", "rc-buggy"}

// suiteVariants are the suffixes of a release's other suites.
var suiteVariants = []string{"-updates", "-security", "/updates", "-backports", "-backports-sloppy", "-proposed-updates"}

// suiteRelease is the release that a suite belongs to, or "" when Debian has no such suite. Other archives
// use Debian's names too, so a match is only a reason to ask.
func suiteRelease(suite string) string {
	for _, variant := range suiteVariants {
		if base, ok := strings.CutSuffix(suite, variant); ok {
			suite = base
			break
		}
	}
	if slices.Contains(debianSuites, suite) {
		return suite
	}
	return ""
}

func isSecurity(suite string) bool {
	return strings.HasSuffix(suite, "-security") || strings.HasSuffix(suite, "/updates")
}

// configured reads the machine's Debian sources.
func (a *apt) configured(ctx context.Context) (aptConfig, []aptSource, error) {
	dump, err := a.run(ctx, "", "", "apt-config", "dump")
	if err != nil {
		return aptConfig{}, nil, err
	}
	c := parseAptConfig(dump)
	names := []string{c.path("Dir::Etc::sourcelist")}
	for _, pattern := range []string{"*.list", "*.sources"} {
		more, err := filepath.Glob(filepath.Join(c.path("Dir::Etc::sourceparts"), pattern))
		if err != nil {
			return aptConfig{}, nil, err
		}
		names = append(names, more...)
	}
	var sources []aptSource
	for _, name := range names {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue // a private archive's list may be closed to users; the mirror's is not
		} else if err != nil {
			return aptConfig{}, nil, err
		}
		parse := parseSourceLines
		if strings.HasSuffix(name, ".sources") {
			parse = parseSourceStanzas
		}
		for _, s := range parse(string(text)) {
			if suiteRelease(s.suite) != "" && slices.Contains(s.components, "main") {
				sources = append(sources, s)
			}
		}
	}
	if len(sources) == 0 {
		return aptConfig{}, nil, fmt.Errorf("no Debian mirror in %s: add one, or give .deb files or a folder", strings.Join(names, ", "))
	}
	return c, sources, nil
}

// at is s for another suite: the same archive and trust. Security suites live in an archive beside.
func (s aptSource) at(suite string) aptSource {
	if isSecurity(suite) && !isSecurity(s.suite) {
		s.uri = replaceElement(s.uri, "debian", "debian-security")
	}
	s.suite = suite
	return s
}

// replaceElement replaces the last path element of uri that is old.
func replaceElement(uri, old, with string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return uri
	}
	elements := strings.Split(u.Path, "/")
	for i := range slices.Backward(elements) {
		if elements[i] == old {
			elements[i] = with
			break
		}
	}
	u.Path = strings.Join(elements, "/")
	return u.String()
}

// mirrors puts the sources that a suite beside the configured ones may be derived from first.
func mirrors(sources []aptSource, security bool) []aptSource {
	var list []aptSource
	seen := make(map[string]bool)
	add := func(match func(aptSource) bool) {
		for _, s := range sources {
			if !seen[s.uri] && match(s) {
				seen[s.uri] = true
				list = append(list, s)
			}
		}
	}
	debian := func(s aptSource) bool { return strings.Contains(s.uri+"/", "/debian/") }
	if security {
		add(func(s aptSource) bool { return isSecurity(s.suite) })
	}
	add(func(s aptSource) bool { return !isSecurity(s.suite) && debian(s) })
	add(func(s aptSource) bool { return !isSecurity(s.suite) })
	return list
}

// aptKernel is a kernel that a suite offers, or a kernel's sources, with all the packages that it consists of.
type aptKernel struct {
	suite    *aptSuite
	release  string // "" for sources
	version  string // of its packages
	packages []string
	size     int64
}

func (k aptKernel) String() string {
	name := "linux-image-" + k.release
	if k.release == "" {
		name, _, _ = strings.Cut(k.packages[0], "=")
	}
	return fmt.Sprintf("%s %s (%s)", name, k.version, k.suite.source.suite)
}

// newest picks the newest kernel of a version.
func newest(kernels []aptKernel, version string) (best aptKernel, ok bool) {
	for _, k := range kernels {
		if !hasVersion(k.version, version) {
			continue
		}
		if !ok || cmp.Or(compareDebian(k.version, best.version), compareDebian(k.release, best.release)) > 0 {
			best, ok = k, true
		}
	}
	return best, ok
}

// search asks the mirrors for the newest kernel that s names. Without a suite, the configured suites and
// their security and updates suites are asked together; only if none has it, other releases' suites are.
func (a *apt) search(ctx context.Context, s spec) (aptKernel, error) {
	conf, sources, err := a.configured(ctx)
	if err != nil {
		return aptKernel{}, err
	}
	var seen []aptKernel
	var failed []error
	asked := make(map[string]bool)
	ask := func(source aptSource) error {
		if key := source.uri + " " + source.suite; asked[key] {
			return nil
		} else {
			asked[key] = true
		}
		kernels, err := a.kernels(ctx, conf, source, s.kind)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("suite %s: %w", source.suite, err))
		}
		seen = append(seen, kernels...)
		return nil
	}
	for i, group := range searchOrder(s, sources) {
		before := len(failed)
		for _, source := range group {
			if err := ask(source); err != nil {
				return aptKernel{}, err
			}
		}
		if k, ok := newest(seen, s.version); ok {
			if i > 0 {
				a.progress(fmt.Sprintf("%s: not in the configured suites, found in %s", s, k.suite.source.suite))
			}
			for _, err := range failed[before:] {
				a.progress(fmt.Sprintf("%s: a newer one may have been missed: %v", s, err))
			}
			return k, nil
		}
		if len(failed) == len(asked) {
			break // the mirror is out of reach: ten more suites would only take ten times as long to say so
		}
	}
	return aptKernel{}, notFound(s, seen, failed)
}

// otherSuites are asked in this order when no configured suite has a version: nearest to stable first.
var otherSuites = [][]string{
	{"bookworm", "bookworm-updates", "bookworm-security"},
	{"bookworm-backports"},
	{"trixie", "trixie-updates", "trixie-security"},
	{"trixie-backports"},
	{"bullseye", "bullseye-updates", "bullseye-security"},
	{"sid"},
}

// searchOrder groups the sources to ask: the newest of the first group that has the version is taken.
func searchOrder(s spec, sources []aptSource) [][]aptSource {
	derive := func(suites ...string) []aptSource {
		var group []aptSource
		for _, suite := range suites {
			var exact []aptSource
			for _, source := range sources {
				if source.suite == suite {
					exact = append(exact, source)
				}
			}
			if len(exact) > 0 {
				group = append(group, exact...)
			} else if m := mirrors(sources, isSecurity(suite)); len(m) > 0 {
				group = append(group, m[0].at(suite))
			}
		}
		return group
	}
	if s.suite != "" {
		return [][]aptSource{derive(s.suite)}
	}
	configured := slices.Clone(sources)
	for _, source := range sources {
		if release := suiteRelease(source.suite); source.suite == release && hasSecurity(release) {
			configured = append(configured, derive(release+"-updates", release+"-security")...)
		}
	}
	groups := [][]aptSource{configured}
	for _, suites := range otherSuites {
		groups = append(groups, derive(suites...))
	}
	return groups
}

func hasSecurity(release string) bool {
	return !slices.Contains([]string{"testing", "unstable", "sid", "experimental", "rc-buggy"}, release)
}

// notFound names what there is instead, or why nothing could be asked.
func notFound(s spec, seen []aptKernel, failed []error) error {
	unreachable := func(err error) bool { return errors.Is(err, ErrUnreachable) }
	switch i := slices.IndexFunc(failed, unreachable); {
	case len(seen) == 0 && len(failed) == 0:
		return &SpecError{Spec: s.String(), Reason: "the suite has no kernels for amd64", Hint: "want for example " + s.prefix() + s.version}
	case len(seen) == 0:
		// What is wrong elsewhere than with the network is the first thing to mend.
		first := failed[max(slices.IndexFunc(failed, func(err error) bool { return !unreachable(err) }), 0)]
		if errors.Is(first, syscall.ENOSPC) {
			return fmt.Errorf("ask the mirror: %w", first)
		}
		return fmt.Errorf("ask the mirror: %w; is the network there, and is the name of the suite right?", first)
	case i >= 0: // it may well exist
		return fmt.Errorf("ask the mirror: no suite that answered has it, and %w; is the network there?", failed[i])
	}
	// One line per MAJOR.MINOR: its newest kernel.
	best := make(map[Version]aptKernel)
	for _, k := range seen {
		v, err := ParseVersion(k.version)
		if err != nil {
			continue
		}
		if old, ok := best[v]; !ok || compareDebian(k.version, old.version) > 0 {
			best[v] = k
		}
	}
	want, _ := ParseVersion(s.version)
	where, example := "on the mirror", s.prefix()
	if s.suite != "" {
		where, example = "in "+s.suite, s.prefix()+s.suite+"/"
	}
	if k, ok := best[want]; ok { // the patch level is wrong
		return &SpecError{Spec: s.String(), Reason: "no such kernel " + where, Hint: fmt.Sprintf("the newest of %s there is %s, in %s: type %s%s", want, upstream(k.version), k.suite.source.suite, example, want)}
	}
	versions := slices.SortedFunc(maps.Keys(best), Version.Compare)
	at, _ := slices.BinarySearchFunc(versions, want, Version.Compare)
	const near = 3
	var hints []string
	for _, v := range versions[max(0, at-near):min(len(versions), at+near)] {
		hints = append(hints, fmt.Sprintf("%s%s/%s", s.prefix(), best[v].suite.source.suite, v))
	}
	hint := "nearest: " + strings.Join(hints, ", ")
	if s.suite != "" {
		hint += fmt.Sprintf("; %s%s looks in the other suites too", s.prefix(), s.version)
	}
	return &SpecError{Spec: s.String(), Reason: "no such kernel " + where, Hint: hint}
}

// upstream is the part of a package version that its kernel's version is.
func upstream(version string) string {
	_, up, _ := splitDebian(version)
	return up
}

// aptSuite is the private state for one source.
type aptSuite struct {
	source aptSource
	dir    string
	conf   string
}

// open writes the suite's configuration. The caller holds its lock.
func (a *apt) open(conf aptConfig, source aptSource) (*aptSuite, error) {
	s := &aptSuite{source: source, dir: filepath.Join(a.dir, source.key())}
	s.conf = filepath.Join(s.dir, "apt.conf")
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "etc/sources.list.d", "etc/preferences.d", "etc/apt.conf.d", "log"} {
		if err := os.MkdirAll(filepath.Join(s.dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string]string{
		s.conf:                           conf.private(s.dir),
		filepath.Join(s.dir, "status"):   "", // nothing is installed here
		filepath.Join(s.dir, sourceFile): source.stanza(),
	} {
		if old, err := os.ReadFile(name); err == nil && string(old) == text {
			continue // apt rebuilds its cache when these are newer
		}
		if err := WriteFile(name, []byte(text)); err != nil {
			return nil, err
		}
	}
	return s, nil
}

const sourceFile = "etc/sources.list.d/suite.sources"

// key names the suite's folder: its suite, and all else that must not be mixed up.
func (s aptSource) key() string {
	sum := sha256.Sum256([]byte(s.stanza()))
	return fmt.Sprintf("%s-%x", strings.ReplaceAll(s.suite, "/", "-"), sum[:6])
}

// stanza is the source in deb822, reduced to what a kernel needs.
func (s aptSource) stanza() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\nTargets: Packages\n", s.uri, s.suite)
	for _, name := range slices.Sorted(maps.Keys(s.options)) {
		fmt.Fprintf(&b, "%s: %s\n", name, s.options[name])
	}
	if s.signedBy != "" {
		// A key block starts on the line after the field's name; its own value keeps that line break.
		fmt.Fprintf(&b, "Signed-By: %s\n", s.signedBy)
	}
	return b.String()
}

// private is an apt.conf that keeps how the machine reaches its mirrors and whom it trusts, and has
// everything that apt writes below dir.
func (c aptConfig) private(dir string) string {
	var b strings.Builder
	for _, line := range c.lines {
		fmt.Fprintln(&b, line)
	}
	set := func(key, value string) { fmt.Fprintf(&b, "%s %s;\n", key, strconv.Quote(value)) }
	set("Dir::Etc", filepath.Join(dir, "etc"))
	set("Dir::Etc::trusted", c.path("Dir::Etc::trusted"))
	set("Dir::Etc::trustedparts", c.path("Dir::Etc::trustedparts"))
	set("Dir::Etc::netrc", c.path("Dir::Etc::netrc"))
	set("Dir::Etc::netrcparts", c.path("Dir::Etc::netrcparts"))
	set("Dir::State", dir)
	set("Dir::State::lists", "lists")
	set("Dir::State::status", filepath.Join(dir, "status"))
	set("Dir::Cache", filepath.Join(dir, "cache"))
	set("Dir::Cache::pkgcache", "pkgcache.bin")
	set("Dir::Cache::srcpkgcache", "") // a second copy of the first, useful for several sources only
	set("Acquire::GzipIndexes", "true")
	set("Dir::Log", filepath.Join(dir, "log"))
	set("APT::Architecture", "amd64")
	b.WriteString("APT::Architectures { \"amd64\"; };\n")
	b.WriteString("Acquire::Languages { \"none\"; };\n")
	set("Acquire::AllowInsecureRepositories", "false")
	set("Acquire::AllowWeakRepositories", "false")
	set("Acquire::AllowDowngradeToInsecureRepositories", "false")
	set("APT::Get::AllowUnauthenticated", "false")
	set("APT::Update::Error-Mode", "any") // else an unreachable mirror is a warning
	if _, ok := c.values["acquire::retries"]; !ok {
		set("Acquire::Retries", "2")
	}
	return b.String()
}

// kernels refreshes the suite's lists and says which kernels it has whole, or which kernels' sources.
func (a *apt) kernels(ctx context.Context, conf aptConfig, source aptSource, kind specKind) ([]aptKernel, error) {
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return nil, err
	}
	held, err := a.lock(ctx, source)
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	s, err := a.open(conf, source)
	if err != nil {
		return nil, err
	}
	a.progress("asking for the kernels of " + source.suite)
	if _, err := a.run(ctx, s.dir, s.conf, "apt-get", "update", "-q"); err != nil {
		if _, none := s.origin(); none != nil {
			// A suite that does not exist leaves no state behind.
			return nil, errors.Join(err, os.RemoveAll(s.dir))
		}
		return nil, err
	}
	if origin, err := s.origin(); err != nil {
		return nil, err
	} else if !strings.HasPrefix(origin, "Debian") {
		return nil, nil // somebody else's archive under Debian's name for a suite
	}
	names, err := a.run(ctx, s.dir, s.conf, "apt-cache", "pkgnames", "linux-")
	if err != nil {
		return nil, err
	}
	packages, whole := kernelPackage, wholeKernels
	if kind == specSource {
		packages, whole = sourcePackage, sources
	}
	args := []string{"apt-cache", "show", "--all-versions"}
	for name := range strings.Lines(string(names)) {
		if name = strings.TrimSpace(name); packages.MatchString(name) {
			args = append(args, name)
		}
	}
	if len(args) == 3 {
		return nil, nil
	}
	text, err := a.run(ctx, s.dir, s.conf, args...)
	if err != nil {
		return nil, err
	}
	return whole(s, parseStanzas(string(text))), nil
}

func (a *apt) lock(ctx context.Context, source aptSource) (*flock.Lock, error) {
	return flock.Take(ctx, filepath.Join(a.dir, source.key()+".lock"), func() {
		a.progress("waiting for another nestbed that asks for " + source.suite)
	})
}

// origin is the archive's own name, from the signed Release file.
func (s *aptSuite) origin() (string, error) {
	for _, pattern := range []string{"*_InRelease", "*_Release"} {
		names, err := filepath.Glob(filepath.Join(s.dir, "lists", pattern))
		if err != nil {
			return "", err
		}
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil {
				return "", err
			}
			for line := range strings.Lines(string(text)) {
				if origin, ok := strings.CutPrefix(line, "Origin:"); ok {
					return strings.TrimSpace(origin), nil
				}
			}
		}
	}
	return "", errors.New("no signed release file")
}

// kernelPackage matches the packages of the generic flavour for amd64, of both layouts: a release has three
// numbers, which leaves out metapackages (linux-image-6.12-amd64), and its parts start with digits, which
// leaves out the flavours cloud and rt.
var kernelPackage = regexp.MustCompile(`^linux-(image|binary|modules|base)-([0-9]+\.[0-9]+\.[0-9]+[0-9a-z.+~]*(?:-[0-9][0-9a-z.+~]*)*-amd64)$`)

// wholeKernels finds the releases whose packages are all there. In one suite the parts of a kernel may come
// from different sources, and the older ones may be gone already.
func wholeKernels(s *aptSuite, stanzas []map[string]string) []aptKernel {
	type pkg struct{ name, version string }
	have := make(map[pkg]map[string]string)
	for _, fields := range stanzas {
		have[pkg{fields["package"], fields["version"]}] = fields
	}
	var kernels []aptKernel
	for p := range have {
		m := kernelPackage.FindStringSubmatch(p.name)
		if m == nil || m[1] != "image" {
			continue
		}
		k := aptKernel{suite: s, release: m[2], version: p.version}
		todo, whole := []pkg{p}, true
		for i := 0; i < len(todo); i++ {
			fields, ok := have[todo[i]]
			if !ok {
				whole = false
				break
			}
			size, _ := strconv.ParseInt(fields["size"], 10, 64)
			k.size += size
			k.packages = append(k.packages, todo[i].name+"="+todo[i].version)
			for _, d := range exactDepends.FindAllStringSubmatch(fields["depends"], -1) {
				next := pkg{d[1], d[2]}
				if m := kernelPackage.FindStringSubmatch(next.name); m != nil && m[2] == k.release && !slices.Contains(todo, next) {
					todo = append(todo, next)
				}
			}
		}
		if whole {
			slices.Sort(k.packages)
			kernels = append(kernels, k)
		}
	}
	slices.SortFunc(kernels, func(x, y aptKernel) int {
		return cmp.Or(compareDebian(x.version, y.version), strings.Compare(x.release, y.release))
	})
	return kernels
}

// sourcePackage matches the packages of patched sources; those of 6.12 are linux-source-6.12.
var sourcePackage = regexp.MustCompile(`^linux-source-[0-9]+\.[0-9]+$`)

// sources finds the packages of kernels' sources.
func sources(s *aptSuite, stanzas []map[string]string) []aptKernel {
	var found []aptKernel
	for _, fields := range stanzas {
		if name, version := fields["package"], fields["version"]; sourcePackage.MatchString(name) {
			size, _ := strconv.ParseInt(fields["size"], 10, 64)
			found = append(found, aptKernel{suite: s, version: version, packages: []string{name + "=" + version}, size: size})
		}
	}
	slices.SortFunc(found, func(x, y aptKernel) int { return compareDebian(x.version, y.version) })
	return found
}

// exactDepends matches a dependency on one version of one package.
var exactDepends = regexp.MustCompile(`([a-z0-9][a-z0-9.+-]+) \(= ([^)\s]+)\)`)

// fetch downloads the kernel's packages into dir; apt checks them against the signed lists.
func (a *apt) fetch(ctx context.Context, k aptKernel, dir string) ([]string, error) {
	held, err := a.lock(ctx, k.suite.source)
	if err != nil {
		return nil, err
	}
	defer held.Unlock()
	a.progress(fmt.Sprintf("downloading %s, %d MB", k, (k.size+1<<19)>>20))
	args := append([]string{"apt-get", "download", "-q"}, k.packages...)
	if _, err := a.run(ctx, dir, k.suite.conf, args...); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return nil, err
	}
	if len(files) != len(k.packages) {
		return nil, fmt.Errorf("apt-get download of %s brought %d packages of %d", k, len(files), len(k.packages))
	}
	return files, nil
}
