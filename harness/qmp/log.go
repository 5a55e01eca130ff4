package qmp

import (
	"encoding/json"
	"io"
	"sync"
	"time"
)

// LogSchema stands in the first line of a log.
const LogSchema = "nestbed/qmp/1"

// maxLog bounds a log in bytes: a guest can make QEMU report events for ever.
const maxLog = 4 << 20

// log writes both directions of a connection as JSON lines.
type log struct {
	mu   sync.Mutex
	w    io.Writer // nil: no log, or no more
	left int
}

// logLine is one line of the log. A peer's line that is not JSON is kept as text.
type logLine struct {
	Schema string          `json:"schema,omitempty"`
	Time   time.Time       `json:"time"`
	To     string          `json:"to,omitempty"` // "qemu" or "nestbed"
	QMP    json.RawMessage `json:"qmp,omitempty"`
	Text   string          `json:"text,omitempty"`
	Cut    bool            `json:"cut,omitempty"` // the log ends here, the connection went on
}

func newLog(w io.Writer) *log {
	l := &log{w: w, left: maxLog}
	l.write(logLine{Schema: LogSchema})
	return l
}

func (l *log) line(to string, line []byte) {
	e := logLine{To: to}
	if json.Valid(line) {
		e.QMP = line
	} else {
		e.Text = string(line)
	}
	l.write(e)
}

func (l *log) write(e logLine) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w == nil {
		return
	}
	if size := len(e.QMP) + len(e.Text); size > l.left {
		e = logLine{Cut: true}
	}
	e.Time = time.Now().UTC()
	line, err := json.Marshal(e)
	if err == nil {
		_, err = l.w.Write(append(line, '\n'))
	}
	l.left -= len(line)
	if err != nil || e.Cut {
		l.w = nil
	}
}
