package tracefs

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// Entry is one entry of a ring buffer.
type Entry struct {
	Time uint64 // by the instance's clock, which counts
	Data []byte // as the event's Format lays it out
}

// Event is the ID of the event, as its Format has it.
func (e Entry) Event() int { return int(e.uint16(0)) }

// PID is the thread that caused it.
func (e Entry) PID() int { return int(e.Uint32(4)) }

func (e Entry) uint16(at int) uint16 {
	if at+2 > len(e.Data) {
		return 0
	}
	return binary.LittleEndian.Uint16(e.Data[at:])
}

// Uint32 reads a field of four bytes, Uint64 one of eight. One that the entry does not have is 0.
func (e Entry) Uint32(at int) uint32 {
	if at+4 > len(e.Data) {
		return 0
	}
	return binary.LittleEndian.Uint32(e.Data[at:])
}

// Uint64 reads a field of eight bytes.
func (e Entry) Uint64(at int) uint64 {
	if at+8 > len(e.Data) {
		return 0
	}
	return binary.LittleEndian.Uint64(e.Data[at:])
}

// String reads a string (__data_loc), whose field says where in the entry it is.
func (e Entry) String(at int) string {
	loc := e.Uint32(at)
	from, size := int(loc&0xffff), int(loc>>16)
	if size == 0 || from+size > len(e.Data) {
		return ""
	}
	return string(e.Data[from : from+size-1])
}

// The layout of a buffer page, include/linux/ring_buffer.h and struct buffer_data_page. It is ABI: the
// kernel describes it in events/header_page and events/header_event.
const (
	pageSize   = 4096
	pageHeader = 16 // time stamp of the first entry; bytes committed, with flags

	// The count of bytes is an int to which the kernel adds its flags, 1<<31 that entries before this page were
	// overwritten and 1<<30 that their number follows: negative numbers, and on 6.1 twice for one page.
	sizeBits = 27

	typePadding    = 29
	typeTimeExtend = 30
	typeTimeStamp  = 31
	timeShift      = 27
)

// parsePage appends a page's entries. last is the time of the one before, on this CPU: a CPU's own order
// is that of its pages, whatever its time stamps say.
func parsePage(page []byte, last *uint64, entries *[]Entry) (lost bool, err error) {
	le := binary.LittleEndian
	if len(page) < pageHeader {
		return false, fmt.Errorf("trace buffer: a page of %d bytes", len(page))
	}
	now := le.Uint64(page)
	commit := le.Uint64(page[8:])
	lost = commit>>sizeBits != 0
	size := commit & (1<<sizeBits - 1)
	if size > uint64(len(page)-pageHeader) {
		return lost, fmt.Errorf("trace buffer: %d bytes in a page of %d", size, len(page))
	}
	rest := page[pageHeader : pageHeader+size]
	for len(rest) >= 4 {
		header := le.Uint32(rest)
		kind, delta := header&31, uint64(header>>5)
		body := rest[4:]
		var word uint64 // the first one of the body, where the kind has a use for it
		if kind == 0 || kind >= typePadding {
			if kind == typePadding && delta == 0 {
				return lost, nil // nothing follows
			}
			if len(body) < 4 {
				return lost, fmt.Errorf("trace buffer: an entry of type %d is cut", kind)
			}
			word = uint64(le.Uint32(body))
		}
		from, to := uint64(0), uint64(4)
		switch kind {
		case typeTimeStamp:
			now = now&^(1<<59-1) | word<<timeShift + delta
		case typeTimeExtend:
			now += word<<timeShift + delta
		case typePadding: // an entry that was discarded
			now += delta
			to = word
		case 0:
			now += delta
			from, to = 4, word
		default:
			now += delta
			to = 4 * uint64(kind)
		}
		if from > to || to > uint64(len(body)) {
			return lost, fmt.Errorf("trace buffer: an entry of type %d runs over its page", kind)
		}
		if kind < typePadding {
			now = max(now, *last)
			*last = now
			*entries = append(*entries, Entry{Time: now, Data: body[from:to]})
		}
		rest = body[to:]
	}
	return lost, nil
}

func sortByTime(entries []Entry) {
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Time, b.Time) })
}
