package tracefs

import (
	"encoding/binary"
	"os"
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/fs"
)

func format(t *testing.T, file string) Format {
	t.Helper()
	text, err := os.ReadFile("testdata/" + file)
	assert.NilError(t, err)
	f, err := parseFormat(string(text))
	assert.NilError(t, err)
	return f
}

// A page of a stock 6.12, read while it was filled: frees by everybody.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("testdata/page-6.12.bin")
	assert.NilError(t, err)
	kmalloc := format(t, "format-kmalloc-6.12.txt")
	site, err := kmalloc.Offset("call_site")
	assert.NilError(t, err)
	ptr, err := kmalloc.Offset("ptr")
	assert.NilError(t, err)
	_, err = kmalloc.Offset("nothing")
	assert.ErrorContains(t, err, "no field nothing")
	assert.Equal(t, site, 8)
	assert.Equal(t, ptr, 16)

	var last uint64
	var entries []Entry
	lost, err := parsePage(page, &last, &entries)
	assert.NilError(t, err)
	assert.Assert(t, !lost)
	assert.Assert(t, len(entries) >= 8, "%d", len(entries))
	for i, e := range entries {
		assert.Assert(t, i == 0 || e.Time > entries[i-1].Time, "the clock counts")
		assert.Assert(t, e.PID() > 0 && e.PID() < 32768, "%d", e.PID())
		assert.Assert(t, e.Uint64(ptr)>>47 == 1<<17-1, "no kernel address: %#x", e.Uint64(ptr))
		if e.Event() == kmalloc.ID {
			assert.Assert(t, e.Uint64(site) >= 0xffffffffc0000000, "%#x", e.Uint64(site))
		}
	}
	assert.Equal(t, last, entries[len(entries)-1].Time)
}

// pageOf makes a page of words.
func pageOf(flags uint64, words ...uint32) []byte {
	le := binary.LittleEndian
	page := le.AppendUint64(nil, 1000)
	page = le.AppendUint64(page, uint64(4*len(words))|flags)
	for _, w := range words {
		page = le.AppendUint32(page, w)
	}
	return page
}

func TestEntries(t *testing.T) {
	header := func(kind, delta uint32) uint32 { return kind | delta<<5 }
	page := pageOf(1<<31,
		header(2, 5), 7, 42, // 8 bytes at 1005
		header(typeTimeExtend, 3), 1, // 1<<27 and 3 later
		header(0, 1), 12, 8, 43, // 8 bytes, its length in a word of its own
		header(typePadding, 2), 8, 0, // discarded
		header(typeTimeStamp, 9), 4,
		header(1, 1), 9,
		header(typePadding, 0), 1, 2, 3, // nothing follows
	)
	var last uint64
	var entries []Entry
	lost, err := parsePage(page, &last, &entries)
	assert.NilError(t, err)
	assert.Assert(t, lost)
	assert.Equal(t, len(entries), 3)
	assert.Equal(t, entries[0].Time, uint64(1005))
	assert.Equal(t, entries[0].Event(), 7)
	assert.Equal(t, entries[0].PID(), 42)
	assert.Equal(t, entries[1].Time, uint64(1005+3+1<<27+1))
	assert.Equal(t, entries[1].Event(), 8)
	assert.Equal(t, entries[1].Uint64(0), uint64(43)<<32|8)
	assert.Equal(t, entries[2].Time, uint64(4<<27+9+1))
	assert.Equal(t, entries[2].PID(), 0) // it is too short
	assert.Equal(t, entries[2].Uint64(0), uint64(0))
	assert.Equal(t, entries[2].String(0), "")

	// As 6.1 was seen to hand out a page after it had lost some.
	odd := pageOf(0, header(2, 5), 7, 42)
	binary.LittleEndian.PutUint64(odd[8:], 0xffffffff_00000000|binary.LittleEndian.Uint64(odd[8:]))
	lost, err = parsePage(odd, &last, &entries)
	assert.NilError(t, err)
	assert.Assert(t, lost)
	assert.Equal(t, len(entries), 4)

	for _, bad := range [][]byte{
		nil,
		page[:20],                         // says that it is longer
		pageOf(0, header(28, 0), 1),       // an entry over the end
		pageOf(0, header(0, 0)),           // no length
		pageOf(0, header(0, 0), 3, 0),     // a length without itself
		pageOf(0, header(0, 0), 1<<31, 0), // an absurd one
		pageOf(0, header(typeTimeExtend, 1)),
	} {
		_, err := parsePage(bad, &last, &entries)
		assert.Check(t, err != nil, "%x", bad)
	}
}

func FuzzPage(f *testing.F) {
	page, err := os.ReadFile("testdata/page-6.12.bin")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(page)
	f.Fuzz(func(t *testing.T, page []byte) {
		var last uint64
		var entries []Entry
		_, _ = parsePage(page, &last, &entries)
		for _, e := range entries {
			_, _, _, _ = e.Event(), e.PID(), e.String(8), e.Uint64(16)
		}
	})
}

func TestFormat(t *testing.T) {
	load := format(t, "format-module_load-6.12.txt")
	at, err := load.Offset("name")
	assert.NilError(t, err)
	assert.Equal(t, at, 12)
	for _, bad := range []string{"", "ID: x\n", "ID: 5\n\tfield:int a;\toffset:b;\n"} {
		_, err := parseFormat(bad)
		assert.Check(t, err != nil, "%q", bad)
	}

	loc := Entry{Data: append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 4, 0}, "kvm\x00"...)}
	assert.Equal(t, loc.String(8), "kvm")
	loc.Data[10] = 200
	assert.Equal(t, loc.String(8), "")
}

// Without a tracefs there is no instance, and what a plain folder is not is said.
func TestInstance(t *testing.T) {
	root := fs.NewDir(t, "root")
	_, err := New(root.Path(), "ours", 64)
	assert.ErrorContains(t, err, "trace instance: mkdir")
	fs.Apply(t, root, fs.WithDir("sys", fs.WithDir("kernel", fs.WithDir("tracing", fs.WithDir("instances")))))
	i, err := New(root.Path(), "ours", 64)
	assert.NilError(t, err)
	size, err := os.ReadFile(root.Join("sys/kernel/tracing/instances/ours/buffer_size_kb"))
	assert.NilError(t, err)
	assert.Equal(t, string(size), "64")
	assert.ErrorContains(t, i.Enable("kmem/kmalloc", "x"), "kmem/kmalloc/filter")
	_, err = i.Format("kmem/kmalloc")
	assert.ErrorIs(t, err, os.ErrNotExist)
	_, err = i.Text()
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, i.Open(), "has no buffers")
	assert.NilError(t, i.Close())
	assert.ErrorContains(t, i.Remove(), "remove trace instance")
}

func TestTop(t *testing.T) {
	root := fs.NewDir(t, "root", fs.WithDir("sys", fs.WithDir("kernel", fs.WithDir("tracing",
		fs.WithFile("trace", "somebody's\n"), fs.WithFile("trace_clock", "[local] counter\n"),
		fs.WithDir("instances")))))
	i, err := Top(root.Path(), 64)
	assert.NilError(t, err)
	text, err := i.Text()
	assert.NilError(t, err)
	assert.Equal(t, text, "", "what was there before is not ours to show")
	clock, err := os.ReadFile(root.Join("sys/kernel/tracing/trace_clock"))
	assert.NilError(t, err)
	assert.Equal(t, string(clock), "counter")
	_, err = Top(t.TempDir(), 64)
	assert.ErrorContains(t, err, "trace instance")
}
