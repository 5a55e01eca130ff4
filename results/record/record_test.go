package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

const hello = `{"seq":1,"t":0,"kind":"hello","hello":{"schema":"nestbed/record/1","scenario":"s","catalogue":"c","kernel":"6.12","machine":"x86_64","pid":7}}`

func TestReaderTakesAWholeStream(t *testing.T) {
	var r Reader
	for i, line := range []string{
		hello,
		`{"seq":2,"t":0.1,"kind":"step","step":{"text":"attach"}}`,
		`{"seq":3,"t":0.1,"kind":"beat"}`,
		`{"seq":4,"t":0.2,"kind":"call","call":{"id":1,"verb":"plug","device":"edu","slot":1}}`,
		`{"seq":5,"t":0.3,"kind":"check","check":{"ok":true,"claim":"x"},"a field of tomorrow":1}`,
		`{"seq":6,"t":0.4,"kind":"call","call":{"id":2,"verb":"faults"}}`,
		`{"seq":7,"t":0.5,"kind":"done","done":{"checks":1,"failed":0}}`,
	} {
		rec, err := r.Parse([]byte(line))
		assert.NilError(t, err)
		assert.Equal(t, rec.Seq, i+1)
	}
}

func TestReaderRefuses(t *testing.T) {
	for name, lines := range map[string][]string{
		"no hello":              {`{"seq":1,"t":0,"kind":"beat"}`},
		"hello twice":           {hello, strings.Replace(hello, `"seq":1`, `"seq":2`, 1)},
		"a newer schema":        {strings.Replace(hello, "record/1", "record/2", 1)},
		"a gap":                 {hello, `{"seq":3,"t":0,"kind":"beat"}`},
		"out of order":          {hello, `{"seq":1,"t":0,"kind":"beat"}`},
		"garbage":               {hello, "\x00\xff{"},
		"not an object":         {hello, `[1]`},
		"unknown kind":          {hello, `{"seq":2,"t":0,"kind":"gossip"}`},
		"body of another kind":  {hello, `{"seq":2,"t":0,"kind":"step","log":{"text":"x"}}`},
		"two bodies":            {hello, `{"seq":2,"t":0,"kind":"step","step":{"text":"x"},"log":{"text":"x"}}`},
		"no body":               {hello, `{"seq":2,"t":0,"kind":"step"}`},
		"a body on a heartbeat": {hello, `{"seq":2,"t":0,"kind":"beat","done":{"checks":0,"failed":0}}`},
		"call ids that skip":    {hello, `{"seq":2,"t":0,"kind":"call","call":{"id":2,"verb":"nmi"}}`},
		"a text too long":       {hello, `{"seq":2,"t":0,"kind":"log","log":{"text":"` + strings.Repeat("x", maxText+1) + `"}}`},
		"a line too long":       {hello, `{"seq":2,"t":0,"kind":"beat","pad":"` + strings.Repeat("x", MaxLine) + `"}`},
		"a record after done":   {hello, `{"seq":2,"t":0,"kind":"done","done":{"checks":0,"failed":0}}`, `{"seq":3,"t":0,"kind":"beat"}`},
	} {
		t.Run(name, func(t *testing.T) {
			var r Reader
			for i, line := range lines {
				_, err := r.Parse([]byte(line))
				if i < len(lines)-1 {
					assert.NilError(t, err)
				} else {
					assert.ErrorIs(t, err, ErrProtocol)
				}
			}
		})
	}
}

func TestReaderBoundsTheStream(t *testing.T) {
	var r Reader
	_, err := r.Parse([]byte(hello))
	assert.NilError(t, err)
	for i := 2; err == nil; i++ {
		_, err = r.Parse(fmt.Appendf(nil, `{"seq":%d,"t":0,"kind":"beat"}`, i))
		assert.Assert(t, i <= MaxRecords+1)
	}
	assert.ErrorIs(t, err, ErrProtocol)
	assert.Equal(t, r.n, MaxRecords)
}

func TestCutKeepsValidText(t *testing.T) {
	s := Cut(strings.Repeat("é", maxText))
	assert.Assert(t, len(s) <= maxText)
	assert.Assert(t, strings.HasSuffix(s, "é..."))
	assert.Equal(t, Cut("short"), "short")
}

func TestGoldenStreamOfVersion1(t *testing.T) {
	data, err := os.ReadFile("testdata/records-1.jsonl")
	assert.NilError(t, err)
	var r Reader
	kinds := map[Kind]bool{}
	for line := range strings.Lines(string(data)) {
		rec, err := r.Parse([]byte(strings.TrimSpace(line)))
		assert.NilError(t, err)
		kinds[rec.Kind] = true
	}
	assert.Equal(t, len(kinds), 10, "every kind has an example in the golden stream")
}

func TestVerdictNames(t *testing.T) {
	var zero Verdict
	assert.Equal(t, zero, Invalid)
	for v := Invalid; v <= Error; v++ {
		text, err := json.Marshal(v)
		assert.NilError(t, err)
		var back Verdict
		assert.NilError(t, json.Unmarshal(text, &back))
		assert.Equal(t, back, v)
	}
	var v Verdict
	assert.ErrorContains(t, v.UnmarshalText([]byte("splendid")), "splendid")
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		want     int
		verdicts []Verdict
	}{
		{0, nil},
		{0, []Verdict{Pass, Known, Skip}},
		{1, []Verdict{Pass, Fail}},
		{1, []Verdict{Crash, Pass}},
		{1, []Verdict{Hang}},
		{2, []Verdict{Crash, Error, Pass}},
		{2, []Verdict{Pass, Invalid, Fail}},
	} {
		assert.Equal(t, ExitStatus(c.verdicts...), c.want, "%v", c.verdicts)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(hello + "\n" + `{"seq":2,"t":0,"kind":"beat"}`))
	f.Add([]byte(`{"kind":"hello","hello":null}`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var r Reader
		for line := range strings.Lines(string(stream)) {
			rec, err := r.Parse([]byte(line))
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatalf("error %v is no protocol error", err)
				}
				continue
			}
			if err := rec.body(); err != nil {
				t.Fatalf("accepted %q: %v", line, err)
			}
		}
	})
}
