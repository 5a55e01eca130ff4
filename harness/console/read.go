package console

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/nestbed/nestbed/results/record"
)

// Read finds the kernel reports in a log as it comes, grouped. It holds one line and the open reports,
// however long the log is; lines beyond 4 KiB are read up to there.
func Read(r io.Reader) ([]record.Report, error) {
	var g groups
	s := scanner{report: g.add}
	in := bufio.NewReaderSize(r, 64<<10)
	for no := 1; ; no++ {
		raw, err := in.ReadSlice('\n')
		if len(raw) > 0 {
			s.line(parseLine(no, raw))
		}
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n') // the rest of it
		}
		if err != nil {
			s.end()
			if !errors.Is(err, io.EOF) {
				return g.reports, fmt.Errorf("read log: %w", err)
			}
			return g.reports, nil
		}
	}
}
