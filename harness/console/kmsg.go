package console

import (
	"bytes"
	"fmt"
	"strconv"

	"github.com/nestbed/nestbed/results/record"
)

// A /dev/kmsg record: "6,339,5140900,-,caller=T1;NET: Registered protocol family 10", and below it lines
// that start with a space and carry its dictionary. Bytes that are not printable come as \x0a.

// ParseKmsg turns /dev/kmsg records into the text that a serial console shows of them, with nothing lost
// to a console level. What programs wrote to /dev/kmsg is left out: it is not the kernel's word.
func ParseKmsg(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		rec := raw
		if end := bytes.IndexByte(raw, '\n'); end >= 0 {
			rec, raw = raw[:end], raw[end+1:]
		} else {
			raw = nil
		}
		out = appendKmsg(out, bytes.TrimSuffix(rec, []byte("\r")))
	}
	return out
}

// appendKmsg adds the lines of one record. What is no record is left out: a line that was cut, or one of
// a dictionary.
func appendKmsg(out, rec []byte) []byte {
	prefix, text, ok := bytes.Cut(rec, []byte(";"))
	if !ok || len(rec) == 0 || rec[0] == ' ' {
		return out
	}
	fields := bytes.Split(prefix, []byte(","))
	if len(fields) < 4 {
		return out
	}
	priority, err1 := strconv.ParseUint(string(fields[0]), 10, 32)
	micros, err2 := strconv.ParseUint(string(fields[2]), 10, 63)
	if err1 != nil || err2 != nil || priority>>3 != 0 {
		return out // a facility other than the kernel's
	}
	stamp := fmt.Appendf(nil, "[%5d.%06d]", micros/1_000_000, micros%1_000_000)
	for _, f := range fields[4:] {
		if caller, ok := bytes.CutPrefix(f, []byte("caller=")); ok && len(caller) < 16 {
			stamp = fmt.Appendf(stamp, "[%6s]", caller)
		}
	}
	for line := range bytes.SplitSeq(unescape(text), []byte("\n")) {
		out = append(out, stamp...)
		out = append(out, ' ')
		out = append(out, line...)
		out = append(out, '\n')
	}
	return out
}

// unescape turns \x0a into its byte.
func unescape(text []byte) []byte {
	if !bytes.Contains(text, []byte(`\x`)) {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if i+3 < len(text) && text[i] == '\\' && text[i+1] == 'x' {
			if v, err := strconv.ParseUint(string(text[i+2:i+4]), 16, 8); err == nil {
				out = append(out, byte(v))
				i += 3
				continue
			}
		}
		out = append(out, text[i])
	}
	return out
}

// Merge finds the reports in a serial log and the /dev/kmsg records of the same guest, taken as one log:
// the records hold what the console's level kept off the serial line, the serial line holds what a dying
// kernel could no longer hand to a program. Line and EndLine are lines of the serial log.
func Merge(serial, kmsg []byte) []record.Report {
	text := ParseKmsg(kmsg)
	if len(text) == 0 {
		return Parse(serial)
	}
	var g groups
	s := scanner{report: g.add}
	a, b := cursor{log: serial}, cursor{log: text}
	sl, sok := a.next()
	kl, kok := b.next()
	at := 1 // the line of the serial log that has been reached
	fromSerial := func() {
		at = sl.no
		s.line(sl)
		sl, sok = a.next()
	}
	fromKmsg := func() {
		kl.no = at
		s.line(kl)
		kl, kok = b.next()
	}
	for sok || kok {
		switch {
		case !kok, sok && !sl.stamped:
			fromSerial()
		case !sok:
			fromKmsg()
		case sl.stamp == kl.stamp && bytes.Equal(sl.text, kl.text):
			if sl.caller == "" {
				sl.caller = kl.caller
			}
			fromSerial()
			kl, kok = b.next()
		case sl.stamp < kl.stamp:
			fromSerial()
		case sl.stamp > kl.stamp, ahead(b, sl):
			fromKmsg()
		default:
			fromSerial()
		}
	}
	s.end()
	return g.reports
}

// ahead reports whether the line stands further on among the records of its stamp.
func ahead(c cursor, want line) bool {
	for range 64 {
		l, ok := c.next()
		if !ok || l.stamp != want.stamp {
			return false
		}
		if bytes.Equal(l.text, want.text) {
			return true
		}
	}
	return false
}

// cursor walks over the lines of a log.
type cursor struct {
	log []byte
	no  int
}

func (c *cursor) next() (line, bool) {
	if len(c.log) == 0 {
		return line{}, false
	}
	raw := c.log
	if end := bytes.IndexByte(c.log, '\n'); end >= 0 {
		raw, c.log = raw[:end], c.log[end+1:]
	} else {
		c.log = nil
	}
	c.no++
	return parseLine(c.no, raw), true
}
