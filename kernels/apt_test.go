package kernels

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/openpgp"           //lint:ignore SA1019 to sign a test's archive, as Debian signs its own
	"golang.org/x/crypto/openpgp/clearsign" //lint:ignore SA1019 as above
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

func TestParseSourceLines(t *testing.T) {
	got := parseSourceLines(`# deb http://commented.example/debian sid main
deb http://mirror.example/debian/ bookworm main contrib # why
deb [arch=amd64,arm64 signed-by=/k/a.gpg,/k/b.gpg check-valid-until=no trusted=yes] http://mirror.example/debian trixie main
deb [ arch=arm64 ] http://ports.example/debian sid main
deb-src http://mirror.example/debian bookworm main
debug http://x.example y z
deb [broken http://mirror.example/debian sid main
deb http://flat.example/
	deb	http://tabs.example/debian	bullseye	main
`)
	assert.DeepEqual(t, got, []aptSource{
		{uri: "http://mirror.example/debian", suite: "bookworm", components: []string{"main", "contrib"}, options: map[string]string{}},
		{uri: "http://mirror.example/debian", suite: "trixie", components: []string{"main"}, signedBy: "/k/a.gpg /k/b.gpg", options: map[string]string{"Check-Valid-Until": "no"}},
		{uri: "http://tabs.example/debian", suite: "bullseye", components: []string{"main"}, options: map[string]string{}},
	}, cmpSources)
}

func TestParseSourceStanzas(t *testing.T) {
	got := parseSourceStanzas(`# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
# in between
Suites: bookworm bookworm-updates
Components: main
Trusted: yes
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS
 -----END PGP PUBLIC KEY BLOCK-----

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: sid
Components: main

types: deb
uris: http://a.example/debian http://b.example/debian
suites: trixie-security
components:
 main
 contrib
signed-by: /k/a.gpg

Types: deb-src
URIs: http://src.example/debian
Suites: sid
Components: main
`)
	key := "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS\n -----END PGP PUBLIC KEY BLOCK-----"
	assert.DeepEqual(t, got, []aptSource{
		{uri: "http://mirror.example/debian", suite: "bookworm", components: []string{"main"}, signedBy: key, options: map[string]string{}},
		{uri: "http://mirror.example/debian", suite: "bookworm-updates", components: []string{"main"}, signedBy: key, options: map[string]string{}},
		{uri: "http://a.example/debian", suite: "trixie-security", components: []string{"main", "contrib"}, signedBy: "/k/a.gpg", options: map[string]string{}},
		{uri: "http://b.example/debian", suite: "trixie-security", components: []string{"main", "contrib"}, signedBy: "/k/a.gpg", options: map[string]string{}},
	}, cmpSources)

	// What is written for apt reads back the same: an embedded key keeps its lines.
	again := parseSourceStanzas(got[0].stanza())
	assert.Equal(t, len(again), 1)
	assert.Equal(t, again[0].signedBy, key)
	assert.Assert(t, !strings.Contains(got[0].stanza(), "Trusted"))
}

func FuzzParseSources(f *testing.F) {
	f.Add("deb [signed-by=/k] http://m.example/debian sid main\n")
	f.Add("Types: deb\nURIs: http://m.example/debian\nSuites: sid\nComponents: main\nSigned-By:\n .\n x\n")
	f.Add(" x\n\n:\nTypes: deb\n\t\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range append(parseSourceLines(text), parseSourceStanzas(text)...) {
			assert.Assert(t, !strings.Contains(s.uri+s.suite, "\n"))
			again := parseSourceStanzas(s.stanza())
			assert.Assert(t, len(again) == 1, "%q", s.stanza())
		}
	})
}

func TestPrivateConfiguration(t *testing.T) {
	c := parseAptConfig([]byte(`APT "";
APT::Update::Post-Invoke:: "rm -rf /var/cache/apt";
APT::Get::AllowUnauthenticated "1";
APT::Sandbox::User "_apt";
Acquire::AllowInsecureRepositories "1";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Verify-Peer "true";
Acquire::httpz "no";
Acquire::Check-Valid-Until "false";
Dir "/";
Dir::Etc "etc/apt";
Dir::Etc::trustedparts "trusted.gpg.d";
Dir::Etc::netrc "auth.conf";
Dir::Etc::sourcelist "/elsewhere/sources.list";
DPkg::Post-Invoke:: "touch /";
`))
	assert.Equal(t, c.path("Dir::Etc::trustedparts"), "/etc/apt/trusted.gpg.d")
	assert.Equal(t, c.path("Dir::Etc::sourcelist"), "/elsewhere/sources.list")
	text := c.private("/cache/sid")
	for _, line := range []string{
		`Acquire::http::Proxy "http://proxy.example:3128";`,
		`Acquire::https::Verify-Peer "true";`,
		`Acquire::Check-Valid-Until "false";`,
		`APT::Sandbox::User "_apt";`,
		`Dir::Etc "/cache/sid/etc";`,
		`Dir::State "/cache/sid";`,
		`Dir::Cache "/cache/sid/cache";`,
		`Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";`,
		`Dir::Etc::netrc "/etc/apt/auth.conf";`,
		`Acquire::AllowInsecureRepositories "false";`,
		`APT::Get::AllowUnauthenticated "false";`,
	} {
		assert.Assert(t, is.Contains(text, line+"\n"))
	}
	for _, gone := range []string{"Post-Invoke", `"1"`, "httpz"} {
		assert.Assert(t, !strings.Contains(text, gone), gone)
	}
}

// aptShow is how `apt-cache show` describes the given "package version [dependency ...]".
func aptShow(packages ...string) string {
	var b strings.Builder
	for _, p := range packages {
		words := strings.Fields(p)
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nSize: 1048576\n", words[0], words[1])
		var depends []string
		for _, d := range words[2:] {
			depends = append(depends, fmt.Sprintf("%s (= %s)", d, words[1]))
		}
		fmt.Fprintf(&b, "Depends: kmod, linux-base (>= 4.3~), %s\n\n", strings.Join(depends, ", "))
	}
	return b.String()
}

func TestWholeKernels(t *testing.T) {
	got := wholeKernels(nil, parseStanzas(aptShow(
		"linux-image-6.1.0-56-amd64 6.1.192-2",
		"linux-image-6.1.0-56-rt-amd64 6.1.192-2",
		"linux-image-6.1.0-56-cloud-amd64 6.1.192-2",
		"linux-image-6.1.0-56-amd64-unsigned 6.1.192-2",
		"linux-image-6.1.0-56-amd64-dbg 6.1.192-2",
		"linux-image-6.12-amd64 6.12.117-1 linux-image-6.12.117+deb12-amd64",
		"linux-image-6.12.117+deb12-amd64 6.12.117-1~deb12u1",
		"linux-image-6.1.0-0.deb11.21-amd64 6.1.90-1~bpo11+1",
		"linux-image-7.3.4+deb13-amd64 7.3.4-1 linux-binary-7.3.4+deb13-amd64 linux-modules-7.3.4+deb13-amd64",
		"linux-binary-7.3.4+deb13-amd64 7.3.4-1 linux-base-7.3.4+deb13-amd64",
		"linux-modules-7.3.4+deb13-amd64 7.3.4-1 linux-base-7.3.4+deb13-amd64",
		"linux-base-7.3.4+deb13-amd64 7.3.4-1",
		// Its modules' source package has moved on already.
		"linux-image-7.1.13+deb13-amd64 7.1.13-1 linux-binary-7.1.13+deb13-amd64 linux-modules-7.1.13+deb13-amd64",
		"linux-binary-7.1.13+deb13-amd64 7.1.13-1",
		"linux-modules-7.1.13+deb13-amd64 7.1.13-2",
	)))
	var lines []string
	for _, k := range got {
		lines = append(lines, fmt.Sprintf("%s %s %d MB: %s", k.release, k.version, k.size>>20, strings.Join(k.packages, " ")))
	}
	assert.DeepEqual(t, lines, []string{
		"6.1.0-0.deb11.21-amd64 6.1.90-1~bpo11+1 1 MB: linux-image-6.1.0-0.deb11.21-amd64=6.1.90-1~bpo11+1",
		"6.1.0-56-amd64 6.1.192-2 1 MB: linux-image-6.1.0-56-amd64=6.1.192-2",
		"6.12.117+deb12-amd64 6.12.117-1~deb12u1 1 MB: linux-image-6.12.117+deb12-amd64=6.12.117-1~deb12u1",
		"7.3.4+deb13-amd64 7.3.4-1 4 MB: linux-base-7.3.4+deb13-amd64=7.3.4-1 linux-binary-7.3.4+deb13-amd64=7.3.4-1 " +
			"linux-image-7.3.4+deb13-amd64=7.3.4-1 linux-modules-7.3.4+deb13-amd64=7.3.4-1",
	})
}

func TestNewest(t *testing.T) {
	kernels := []aptKernel{
		{release: "6.1.0-50-amd64", version: "6.1.176-1"},
		{release: "6.1.0-0.deb11.60-amd64", version: "6.1.190-1~bpo11+1"},
		{release: "6.1.0-9-amd64", version: "6.1.190-1~bpo11+1"},
		{release: "6.12.1-amd64", version: "6.12.1-1"},
	}
	k, ok := newest(kernels, "6.1")
	assert.Assert(t, ok)
	assert.Equal(t, k.release, "6.1.0-9-amd64")
	slices.Reverse(kernels)
	k, _ = newest(kernels, "6.1")
	assert.Equal(t, k.release, "6.1.0-9-amd64")
	_, ok = newest(kernels, "6.2")
	assert.Assert(t, !ok)
}

func TestSearchOrder(t *testing.T) {
	sources := parseSourceLines(`deb [signed-by=/k/tor.gpg] http://tor.example/torproject bookworm main
deb [signed-by=/k/debian.gpg] http://mirror.example/debian bookworm main
deb http://mirror.example/debian sid main
`)
	show := func(groups [][]aptSource) []string {
		var lines []string
		for _, g := range groups {
			var words []string
			for _, s := range g {
				words = append(words, s.suite+"@"+s.uri)
			}
			lines = append(lines, strings.Join(words, " "))
		}
		return lines
	}
	got := show(searchOrder(spec{kind: specDebian, version: "6.12"}, sources))
	assert.Equal(t, got[0], "bookworm@http://tor.example/torproject bookworm@http://mirror.example/debian sid@http://mirror.example/debian "+
		"bookworm-updates@http://mirror.example/debian bookworm-security@http://mirror.example/debian-security "+
		"bookworm-updates@http://mirror.example/debian bookworm-security@http://mirror.example/debian-security")
	assert.Equal(t, got[4], "trixie-backports@http://mirror.example/debian")

	exact := searchOrder(spec{kind: specDebian, suite: "trixie-backports", version: "7.3"}, sources)
	assert.DeepEqual(t, show(exact), []string{"trixie-backports@http://mirror.example/debian"})
	assert.Equal(t, exact[0][0].signedBy, "/k/debian.gpg")
	security := parseSourceLines("deb http://mirror.example/debian bookworm main\ndeb http://sec.example/all bookworm-security main\n")
	assert.DeepEqual(t, show(searchOrder(spec{suite: "bullseye-security"}, security)), []string{"bullseye-security@http://sec.example/all"})
	assert.DeepEqual(t, show(searchOrder(spec{suite: "bookworm"}, security)), []string{"bookworm@http://mirror.example/debian"})
}

// fakeApt answers for apt: the packages by suite, and which suites do not answer.
type fakeApt struct {
	packages map[string]string
	broken   map[string]bool
	gone     map[string]bool // cannot be reached
	foreign  map[string]bool
	asked    []string
}

func (f *fakeApt) cache(t *testing.T, sourcesList string) *Cache {
	c := testCache(t)
	etc := tree(t, map[string][]byte{"sources.list": []byte(sourcesList)})
	c.apt.run = func(_ context.Context, dir, conf string, args ...string) ([]byte, error) {
		if args[0] == "apt-config" {
			return fmt.Appendf(nil, "Dir \"/\";\nDir::Etc \"%s\";\nDir::Etc::sourcelist \"sources.list\";\nDir::Etc::sourceparts \"none.d\";\n", etc), nil
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(conf), sourceFile))
		assert.NilError(t, err)
		s := parseSourceStanzas(string(text))[0]
		switch args[1] {
		case "update":
			f.asked = append(f.asked, s.suite)
			if f.broken[s.suite] {
				return nil, errors.New("apt-get update: 404 Not Found")
			}
			if f.gone[s.suite] {
				return nil, aptFailed(args, errors.New("exit status 100"), "E: Failed to fetch x  Could not resolve 'mirror.example'\n")
			}
			origin := "Origin: Debian\n"
			if f.foreign[s.uri] {
				origin = "Origin: Somebody\n"
			}
			return nil, os.WriteFile(filepath.Join(dir, "lists", "x_InRelease"), []byte(origin), 0o644)
		case "pkgnames":
			var names strings.Builder
			for _, fields := range parseStanzas(f.packages[s.suite]) {
				fmt.Fprintln(&names, fields["package"])
			}
			return []byte(names.String()), nil
		case "show":
			return []byte(f.packages[s.suite]), nil
		case "download":
			for _, p := range args[3:] {
				name, version, _ := strings.Cut(p, "=")
				files := map[string][]byte{}
				if release, ok := strings.CutPrefix(name, "linux-image-"); ok {
					files = fakeKernel(t, release)
				}
				assert.NilError(t, os.WriteFile(filepath.Join(dir, name+"_"+version+".deb"), fakeDeb(t, "", "", files), 0o644))
			}
			return nil, nil
		}
		t.Fatalf("unexpected %v", args)
		return nil, nil
	}
	return c
}

const oneMirror = "deb http://mirror.example/debian bookworm main\n"

func debianArchive() *fakeApt {
	return &fakeApt{packages: map[string]string{
		"bookworm":          aptShow("linux-image-6.1.0-50-amd64 6.1.176-1"),
		"bookworm-security": aptShow("linux-image-6.1.0-56-amd64 6.1.192-2", "linux-image-6.12.117+deb12-amd64 6.12.117-1~deb12u1", "linux-image-6.12.9+deb12-amd64 6.12.9-1"),
		"trixie-backports":  aptShow("linux-image-7.3.4+deb13-amd64 7.3.4-1~bpo13+1"),
		"sid":               aptShow("linux-image-7.3.5-amd64 7.3.5-1"),
	}}
}

func TestSearchFindsTheNewest(t *testing.T) {
	for spec, want := range map[string]string{
		"debian:6.1":                  "linux-image-6.1.0-56-amd64 6.1.192-2 (bookworm-security)",
		"debian:6.12":                 "linux-image-6.12.117+deb12-amd64 6.12.117-1~deb12u1 (bookworm-security)",
		"debian:6.12.9":               "linux-image-6.12.9+deb12-amd64 6.12.9-1 (bookworm-security)",
		"debian:bookworm/6.1":         "linux-image-6.1.0-50-amd64 6.1.176-1 (bookworm)",
		"debian:7.3":                  "linux-image-7.3.4+deb13-amd64 7.3.4-1~bpo13+1 (trixie-backports)",
		"debian:sid/7.3":              "linux-image-7.3.5-amd64 7.3.5-1 (sid)",
		"debian:trixie-backports/7.3": "linux-image-7.3.4+deb13-amd64 7.3.4-1~bpo13+1 (trixie-backports)",
	} {
		t.Run(spec, func(t *testing.T) {
			archive := debianArchive()
			c := archive.cache(t, oneMirror)
			var said []string
			k, err := c.Resolve(t.Context(), spec, func(s string) { said = append(said, s) })
			assert.NilError(t, err)
			assert.Equal(t, k.Origin, want)
			assert.Equal(t, k.Spec, spec)
			assertIdle(t, c)
			elsewhere := slices.ContainsFunc(said, func(s string) bool {
				return strings.Contains(s, "not in the configured suites, found in trixie-backports")
			})
			assert.Equal(t, elsewhere, spec == "debian:7.3", "%v", said)

			// Remembered until it is added again.
			archive.asked = nil
			again, err := c.Resolve(t.Context(), spec, nil)
			assert.NilError(t, err)
			assert.Equal(t, again.Hash, k.Hash)
			assert.Equal(t, len(archive.asked), 0)
			_, err = c.Add(t.Context(), spec, nil)
			assert.NilError(t, err)
			assert.Assert(t, len(archive.asked) > 0)
		})
	}
}

func TestSearchAddTakesTheNewer(t *testing.T) {
	archive := debianArchive()
	c := archive.cache(t, oneMirror)
	old := resolve(t, c, "debian:6.12")
	archive.packages["bookworm-security"] = aptShow("linux-image-6.12.118+deb12-amd64 6.12.118-1")
	assert.Equal(t, resolve(t, c, "debian:6.12").Hash, old.Hash)
	k, err := c.Add(t.Context(), "debian:6.12", nil)
	assert.NilError(t, err)
	assert.Equal(t, k.Release, "6.12.118+deb12-amd64")
	assert.Equal(t, resolve(t, c, "debian:6.12").Hash, k.Hash)
}

func TestSearchErrors(t *testing.T) {
	for spec, want := range map[string]string{
		"debian:9.9":              `kernel "debian:9.9": no such kernel on the mirror; nearest: debian:bookworm-security/6.1, debian:bookworm-security/6.12, debian:sid/7.3`,
		"debian:6.12.3":           `kernel "debian:6.12.3": no such kernel on the mirror; the newest of 6.12 there is 6.12.117, in bookworm-security: type debian:6.12`,
		"debian:bookworm/6.12":    `kernel "debian:bookworm/6.12": no such kernel in bookworm; nearest: debian:bookworm/6.1; debian:6.12 looks in the other suites too`,
		"debian:experimental/7.3": `kernel "debian:experimental/7.3": the suite has no kernels for amd64; want for example debian:7.3`,
	} {
		_, err := debianArchive().cache(t, oneMirror).Resolve(t.Context(), spec, nil)
		assert.Error(t, err, want)
		_, ok := errors.AsType[*SpecError](err)
		assert.Assert(t, ok)
	}

	down := debianArchive()
	down.broken = map[string]bool{"nosuch": true}
	c := down.cache(t, oneMirror)
	_, err := c.Resolve(t.Context(), "debian:nosuch/6.1", nil)
	assert.ErrorContains(t, err, "suite nosuch: apt-get update: 404 Not Found")
	assert.ErrorContains(t, err, "is the name of the suite right?")
	folders, err := filepath.Glob(c.path("apt", "nosuch-*[0-9a-f]"))
	assert.NilError(t, err)
	assert.Equal(t, len(folders), 0)

	for _, sources := range []string{"", "deb http://other.example/ubuntu noble main\n", "deb http://m.example/debian bookworm contrib\n"} {
		_, err := debianArchive().cache(t, sources).Resolve(t.Context(), "debian:6.1", nil)
		assert.ErrorContains(t, err, "no Debian mirror in ")
		assert.ErrorContains(t, err, "or give .deb files or a folder")
	}
}

func TestSearchSaysWhatItMayHaveMissed(t *testing.T) {
	archive := debianArchive()
	archive.broken = map[string]bool{"bookworm-security": true}
	var said []string
	k, err := archive.cache(t, oneMirror).Resolve(t.Context(), "debian:6.1", func(s string) { said = append(said, s) })
	assert.NilError(t, err)
	assert.Equal(t, k.Release, "6.1.0-50-amd64")
	assert.Assert(t, is.Contains(said, "debian:6.1: a newer one may have been missed: suite bookworm-security: apt-get update: 404 Not Found"))
}

func TestSearchGivesUpOnAnUnreachableMirror(t *testing.T) {
	archive := debianArchive()
	archive.broken = map[string]bool{"bookworm": true, "bookworm-updates": true, "bookworm-security": true}
	_, err := archive.cache(t, oneMirror).Resolve(t.Context(), "debian:7.3", nil)
	assert.ErrorContains(t, err, "is the network there")
	assert.DeepEqual(t, archive.asked, []string{"bookworm", "bookworm-updates", "bookworm-security"})
}

// That a mirror cannot be reached is told from all else, so that what depends on it can be left out for no other reason.
func TestSearchTellsAnUnreachableMirror(t *testing.T) {
	archive := debianArchive()
	archive.gone = map[string]bool{"bookworm": true, "bookworm-updates": true, "bookworm-security": true}
	_, err := archive.cache(t, oneMirror).Resolve(t.Context(), "debian:6.12", nil)
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "suite bookworm: apt-get update: the mirror cannot be reached (exit status 100): Failed to fetch x  Could not resolve 'mirror.example'")

	// One that was reached and is wrong is to be mended first.
	archive = debianArchive()
	archive.gone, archive.broken = map[string]bool{"bookworm": true, "bookworm-updates": true}, map[string]bool{"bookworm-security": true}
	_, err = archive.cache(t, oneMirror).Resolve(t.Context(), "debian:6.12", nil)
	assert.ErrorContains(t, err, "suite bookworm-security: apt-get update: 404 Not Found")
	assert.Assert(t, !errors.Is(err, ErrUnreachable), "%v", err)

	// Nor is a kernel missing that the silent suite may have.
	archive = debianArchive()
	archive.gone = map[string]bool{"bookworm-security": true}
	_, err = archive.cache(t, oneMirror).Resolve(t.Context(), "debian:6.12", nil)
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "no suite that answered has it, and suite bookworm-security: ")
}

func TestSearchOnAFullDisk(t *testing.T) {
	archive := debianArchive()
	c := archive.cache(t, oneMirror)
	full := aptFailed([]string{"apt-get", "update"}, errors.New("exit status 100"), "E: Failed to fetch x  Error writing to file - write (28: No space left on device)\n")
	c.apt.run = inTurn(c.apt.run, "update", full)
	_, err := c.Resolve(t.Context(), "debian:7.3", nil)
	assert.ErrorIs(t, err, syscall.ENOSPC)
	assert.Assert(t, !strings.Contains(err.Error(), "network"), "%v", err)
	assert.Assert(t, !errors.Is(err, ErrUnreachable), "%v", err)
}

type aptRun = func(ctx context.Context, dir, conf string, args ...string) ([]byte, error)

// inTurn is run, but with a failure of one of apt-get's commands.
func inTurn(run aptRun, command string, failure error) aptRun {
	return func(ctx context.Context, dir, conf string, args ...string) ([]byte, error) {
		if len(args) > 1 && args[1] == command {
			return nil, failure
		}
		return run(ctx, dir, conf, args...)
	}
}

func TestSearchLeavesOtherArchivesAlone(t *testing.T) {
	archive := debianArchive()
	archive.foreign = map[string]bool{"http://other.example/debian": true}
	c := archive.cache(t, "deb http://other.example/debian bookworm main\n")
	_, err := c.Resolve(t.Context(), "debian:bookworm/6.1", nil)
	assert.ErrorContains(t, err, "the suite has no kernels")
}

func TestAptMissing(t *testing.T) {
	inPath(t)
	_, err := testCache(t).Resolve(t.Context(), "debian:6.1", nil)
	assert.ErrorContains(t, err, "apt-config not found: kernels by name need a Debian machine; elsewhere give .deb files or a folder")
}

func TestAptComplaint(t *testing.T) {
	assert.Equal(t, aptComplaint("W: x\nE: first\nE: second\nE: first\n"), "first; second")
	assert.Equal(t, aptComplaint(" odd \n"), "odd")
	assert.Assert(t, len(aptComplaint("E: "+strings.Repeat("x", 5000))) < 700)
}

// archive is a signed Debian archive on disk.
type archive struct {
	dir     string
	key     *openpgp.Entity
	keyring string
}

func newArchive(t *testing.T, release string) archive {
	t.Helper()
	key, err := openpgp.NewEntity("test", "", "test@example.org", nil)
	assert.NilError(t, err)
	for _, id := range key.Identities {
		assert.NilError(t, id.SelfSignature.SignUserId(id.UserId.Id, key.PrimaryKey, key.PrivateKey, nil))
	}
	var public bytes.Buffer
	assert.NilError(t, key.Serialize(&public))

	name := "linux-image-" + release
	deb := fakeDeb(t, "Package: "+name+"\nVersion: 6.9.1-1\nArchitecture: amd64\n", ".xz", fakeKernel(t, release))
	file := "pool/" + name + "_6.9.1-1_amd64.deb"
	packages := fmt.Appendf(nil, "Package: %s\nVersion: 6.9.1-1\nArchitecture: amd64\nMaintainer: x\nFilename: %s\nSize: %d\nSHA256: %x\nDescription: test\n",
		name, file, len(deb), sha256.Sum256(deb))
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err = z.Write(packages)
	assert.NilError(t, err)
	assert.NilError(t, z.Close())
	const index = "main/binary-amd64/Packages"
	text := fmt.Sprintf("Origin: Debian\nLabel: Debian\nSuite: trixie\nCodename: trixie\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nArchitectures: amd64\nComponents: main\nSHA256:\n %x %d %s\n %x %d %s.gz\n",
		sha256.Sum256(packages), len(packages), index, sha256.Sum256(packed.Bytes()), packed.Len(), index)
	var signed bytes.Buffer
	w, err := clearsign.Encode(&signed, key.PrivateKey, nil)
	assert.NilError(t, err)
	_, err = w.Write([]byte(text))
	assert.NilError(t, err)
	assert.NilError(t, w.Close())
	dir := tree(t, map[string][]byte{
		file:                            deb,
		"dists/trixie/" + index:         packages,
		"dists/trixie/" + index + ".gz": packed.Bytes(),
		"dists/trixie/InRelease":        signed.Bytes(),
		"key.gpg":                       public.Bytes(),
	})
	return archive{dir: dir, key: key, keyring: filepath.Join(dir, "key.gpg")}
}

// configure makes the machine's apt, as the test sees it, know only this archive.
func (a archive) configure(t *testing.T, options string) {
	t.Helper()
	configureApt(t, fmt.Sprintf("deb [%s] file:%s trixie main\n", options, a.dir))
}

func configureApt(t *testing.T, sourcesList string) {
	t.Helper()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("needs apt-get: this machine is not a Debian")
	}
	etc := tree(t, map[string][]byte{
		"sources.list": []byte(sourcesList),
	})
	hook := filepath.Join(etc, "hook-ran")
	conf := filepath.Join(etc, "apt.conf")
	assert.NilError(t, os.WriteFile(conf, fmt.Appendf(nil, "Dir::Etc::sourcelist \"%s/sources.list\";\nDir::Etc::sourceparts \"%s/none.d\";\nAcquire::Retries \"0\";\nAcquire::http::Proxy::127.0.0.1 \"DIRECT\";\nAPT::Update::Post-Invoke { \"touch %s\"; };\n", etc, etc, hook), 0o644))
	t.Setenv("APT_CONFIG", conf)
	t.Cleanup(func() {
		_, err := os.Stat(hook)
		assert.Check(t, errors.Is(err, os.ErrNotExist), "the system's hooks must not run")
	})
}

// The real apt-get, from the machine's configuration to the cache's entry.
func TestAptImportsSignedArchive(t *testing.T) {
	a := newArchive(t, "6.9.1-1-amd64")
	a.configure(t, "signed-by="+a.keyring)
	k := resolve(t, testCache(t), "debian:trixie/6.9")
	assert.Equal(t, k.Release, "6.9.1-1-amd64")
	assert.Equal(t, k.Origin, "linux-image-6.9.1-1-amd64 6.9.1-1 (trixie)")
	modules, err := k.Modules()
	assert.NilError(t, err)
	assert.Equal(t, len(modules), 5)
}

// apt-get itself takes an unreachable mirror for a warning.
func TestAptMirrorUnreachable(t *testing.T) {
	configureApt(t, "deb http://127.0.0.1:1/debian trixie main\n")
	c := testCache(t)
	_, err := c.Resolve(t.Context(), "debian:trixie/6.9", nil)
	assert.ErrorIs(t, err, ErrUnreachable)
	assert.ErrorContains(t, err, "ask the mirror: suite trixie: apt-get update: the mirror cannot be reached (exit status 100): ")
	assert.ErrorContains(t, err, "127.0.0.1")
	assert.ErrorContains(t, err, "is the network there")
	assertIdle(t, c)
}

// What the real apt-get says of mirrors that answer with a status, or with nothing.
func TestAptOutcomeOfAMirror(t *testing.T) {
	for status, unreachable := range map[int]bool{0: true, http.StatusServiceUnavailable: true, http.StatusBadGateway: true, http.StatusNotFound: false, http.StatusForbidden: false} {
		mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(status)
		}))
		configureApt(t, "deb "+mirror.URL+"/debian trixie main\n")
		_, err := testCache(t).Resolve(t.Context(), "debian:trixie/6.9", nil)
		mirror.Close()
		assert.ErrorContains(t, err, "ask the mirror: ")
		assert.Equal(t, errors.Is(err, ErrUnreachable), unreachable, "%d: %v", status, err)
	}
}

func TestAptRefusesWhatIsNotSigned(t *testing.T) {
	refused := func(t *testing.T, want string) {
		c := testCache(t)
		_, err := c.Resolve(t.Context(), "debian:trixie/6.9", nil)
		assert.ErrorContains(t, err, want)
		assert.Assert(t, !errors.Is(err, ErrUnreachable), "%v", err)
		assertIdle(t, c)
		kernels, err := c.List()
		assert.NilError(t, err)
		assert.Equal(t, len(kernels), 0)
	}
	t.Run("unknown key", func(t *testing.T) {
		a, other := newArchive(t, "6.9.1-1-amd64"), newArchive(t, "6.9.1-1-amd64")
		// The machine may trust an archive blindly; nestbed does not boot what that gives.
		a.configure(t, "trusted=yes signed-by="+other.keyring)
		refused(t, "is not signed")
	})
	t.Run("changed list", func(t *testing.T) {
		a := newArchive(t, "6.9.1-1-amd64")
		a.configure(t, "signed-by="+a.keyring)
		for _, name := range []string{"Packages", "Packages.gz"} {
			assert.NilError(t, os.WriteFile(filepath.Join(a.dir, "dists/trixie/main/binary-amd64", name), []byte("Package: x\n"), 0o644))
		}
		refused(t, "apt-get update: ")
	})
	t.Run("changed package", func(t *testing.T) {
		a := newArchive(t, "6.9.1-1-amd64")
		a.configure(t, "signed-by="+a.keyring)
		name := filepath.Join(a.dir, "pool/linux-image-6.9.1-1-amd64_6.9.1-1_amd64.deb")
		data, err := os.ReadFile(name)
		assert.NilError(t, err)
		data[len(data)-1] ^= 1
		assert.NilError(t, os.WriteFile(name, data, 0o644))
		refused(t, "apt-get download: ")
	})
}
