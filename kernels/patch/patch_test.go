package patch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/assert/cmp"
)

const separatorLine = "From 0123456789abcdef0123456789abcdef01234567 Mon Sep 17 00:00:00 2001\n"

func letter(subject, body string) string {
	return "From: A B <a@b>\nDate: Mon, 1 Jan 2024 00:00:00 +0000\nSubject: " + subject + "\n\n" + body + "\n"
}

func diff(n int) string {
	return fmt.Sprintf("Text.\n---\ndiff --git a/f%d b/f%d\n--- a/f%d\n+++ b/f%d\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39\n", n, n, n, n)
}

func mbox(mails ...string) string { return separatorLine + strings.Join(mails, separatorLine) }

func subjects(s Series) []string {
	var out []string
	for _, p := range s.Patches {
		out = append(out, p.Subject)
	}
	return out
}

func TestCoverLetterAndBase(t *testing.T) {
	s, err := ReadMbox("x.mbox", strings.NewReader(mbox(
		letter("[PATCH v3 0/2] vfio: two things", "Words.\n\nbase-commit: 0123456789abcdef0123456789abcdef01234567\nprerequisite-patch-id: aa\n-- \n2.39"),
		letter("[PATCH v3 1/2] vfio: =?UTF-8?q?f=C3=BCrst?=", diff(1)),
		letter("[PATCH v3 2/2] vfio:\n second", diff(2)),
	)))
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"vfio: fürst", "vfio: second"})
	assert.Equal(t, s.Title, "vfio: two things")
	assert.Equal(t, s.Version, 3)
	assert.Equal(t, s.Base, "0123456789abcdef0123456789abcdef01234567")
	assert.Equal(t, s.Needs, 1)
	assert.Equal(t, len(s.Notes), 0)
	assert.Assert(t, cmp.Contains(string(s.Patches[0].Message), "+++ b/f1"))
	assert.Assert(t, !strings.Contains(string(s.Patches[0].Message), "f2"))
}

func TestOnePatchWithoutNumbers(t *testing.T) {
	for _, text := range []string{letter("[PATCH] vfio: one", diff(1)), mbox(letter("vfio: one", diff(1)))} {
		s, err := ReadMbox("-", strings.NewReader(text))
		assert.NilError(t, err)
		assert.DeepEqual(t, subjects(s), []string{"vfio: one"})
		assert.Equal(t, s.Title, "vfio: one")
	}
}

func TestOutOfOrderIsSortedAndSaid(t *testing.T) {
	s, err := ReadMbox("x", strings.NewReader(mbox(letter("[PATCH 2/2] b", diff(2)), letter("[PATCH 1/2] a", diff(1)))))
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"a", "b"})
	assert.DeepEqual(t, s.Notes, []string{"the patches in x are out of order: applied by their numbers"})
}

func TestRepliesArePassedOver(t *testing.T) {
	s, err := ReadMbox("x", strings.NewReader(mbox(
		letter("[PATCH 1/1] a", diff(1)),
		letter("Re: [PATCH 1/1] a", "> diff --git a/f b/f\nReviewed-by: X <x@y>\nbase-commit: ffffffffffffffffffffffffffffffffffffffff"),
	)))
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"a"})
	assert.Equal(t, s.Base, "")
	assert.DeepEqual(t, s.Notes, []string{"answers in x are passed over: 1"})
}

// Mail programs encode what is not ASCII; git am decodes it, and we must find the diff in it.
func TestEncodedBodies(t *testing.T) {
	quoted := "From: a@b\nSubject: [PATCH 1/1] q\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n" +
		strings.ReplaceAll(strings.ReplaceAll(diff(1), "=", "=3D"), "diff --git", "diff =\n--git")
	s, err := ReadMbox("x", strings.NewReader(quoted))
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"q"})
	base64 := "From: a@b\nSubject: [PATCH 1/1] b\nContent-Transfer-Encoding: base64\n\nLS0tIGEvZgorKysgYi9mCkBAIC0xICsxIEBACi1hCitiCg==\n"
	s, err = ReadMbox("x", strings.NewReader(base64))
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"b"})
	parts := "From: a@b\nSubject: [PATCH] m\nContent-Type: multipart/mixed; boundary=BB\n\n--BB\n\n" + diff(1) + "\n--BB\n\nlist footer\n--BB--\n"
	s, err = ReadMbox("x", strings.NewReader(parts))
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"m"})
}

// A line of a commit message that begins with From is no new message.
func TestFromInsideAMessage(t *testing.T) {
	text := mbox(letter("[PATCH 1/2] a", "Words.\n\n>From here on.\nFrom there too.\n"+diff(1)), letter("[PATCH 2/2] b", diff(2)))
	s, err := ReadMbox("x", strings.NewReader(text))
	assert.NilError(t, err)
	assert.Equal(t, len(s.Patches), 2)
	assert.Assert(t, cmp.Contains(string(s.Patches[0].Message), "\nFrom here on.\nFrom there too.\n"))
}

func TestWhatIsNoMbox(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "x: no mbox: it is empty",
		"\x7fELF\x00\x01":                    "a message without mail headers",
		"diff --git a/f b/f\n--- a/f\n":      "a message without",
		"X-A: b\n\nwords\n":                  "a message without the headers From and Subject",
		mbox(letter("hello", "only words")):  "no message in it holds a patch",
		mbox(letter("Re: [PATCH] a", "ok.")): "no message in it holds a patch",
	} {
		_, err := ReadMbox("x", strings.NewReader(text))
		var no *NotMailError
		assert.Assert(t, errors.As(err, &no), "%q: %v", text, err)
		assert.ErrorContains(t, err, want)
		assert.ErrorContains(t, err, "b4 am -o - MSGID")
	}
}

func TestSeriesThatIsNotWhole(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{mbox(letter("[PATCH 1/4] a", diff(1)), letter("[PATCH 3/4] c", diff(3))), "x: of 4 patches 2 are missing: 2, 4"},
		{mbox(letter("[PATCH 1/2] a", diff(1))), "x: of 2 patches one is missing: 2"},
		{mbox(letter("[PATCH 1/2] a", diff(1)), letter("[PATCH 1/2] b", diff(2))), `two patches call themselves 1/2: "a" and "b"`},
		{mbox(letter("[PATCH 1/2] a", diff(1)), letter("[PATCH v2 2/2] b", diff(2))), "patches of v1 and of v2"},
		{mbox(letter("[PATCH 1/2] a", diff(1)), letter("[PATCH 2/3] b", diff(2))), "patches of two series"},
		{mbox(letter("[PATCH 1/2] a", diff(1)), letter("b", diff(2))), `"b" has no number among patches of 2`},
		{mbox(letter("[PATCH 3/2] a", diff(1))), "patch 3 of 2"},
		{mbox(letter("[PATCH 1/2] a", "words"), letter("[PATCH 2/2] b", diff(2))), "patch 1/2 (a) holds no diff"},
	} {
		_, err := ReadMbox("x", strings.NewReader(c.text))
		var order *OrderError
		assert.Assert(t, errors.As(err, &order), "%v", err)
		assert.ErrorContains(t, err, c.want)
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	_, err := ReadDir(dir)
	assert.ErrorContains(t, err, "holds no *.patch file: git format-patch -o")
	_, err = ReadDir(filepath.Join(dir, "missing"))
	assert.ErrorContains(t, err, "no such folder of patches")
	write("0000-cover-letter.patch", mbox(letter("[PATCH 0/2] both", "words")))
	write("0001-a.patch", mbox(letter("[PATCH 1/2] a", diff(1))))
	write("0002-b.patch", mbox(letter("[PATCH 2/2] b", diff(2))))
	write("0001-a.patch~", "an editor's")
	s, err := ReadDir(dir)
	assert.NilError(t, err)
	assert.DeepEqual(t, subjects(s), []string{"a", "b"})
	assert.Equal(t, s.Patches[1].From, "0002-b.patch")
	assert.Equal(t, s.Title, "both")
	write("0003-c.patch", "no mail")
	_, err = ReadDir(dir)
	assert.ErrorContains(t, err, filepath.Join(dir, "0003-c.patch")+": no mbox")
}

// The patches that ship can be given to nestbed series one by one.
func TestMutants(t *testing.T) {
	names, err := filepath.Glob("../mutants/*.patch")
	assert.NilError(t, err)
	assert.Assert(t, len(names) > 0)
	for _, name := range names {
		text, err := os.ReadFile(name)
		assert.NilError(t, err)
		s, err := ReadMbox(name, strings.NewReader(string(text)))
		assert.NilError(t, err)
		assert.Equal(t, len(s.Patches), 1, "%s", name)
		assert.Assert(t, s.Title != "", "%s", name)
	}
}
