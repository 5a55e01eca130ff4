package bench

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// spinner is a busy thread beside a measurement: how much it is slowed down tells how noisy the machine is.
type spinner struct {
	rounds atomic.Int64
	stop   atomic.Bool
	ended  chan struct{}
	since  time.Time
	alone  float64 // rounds per second without anything beside
}

// spin starts a spinner, after it has found out how fast it is alone.
func spin(b *testing.B) *spinner {
	b.Helper()
	s := startSpinner()
	<-time.After(500 * time.Millisecond)
	alone := s.end()
	s = startSpinner()
	s.alone = alone
	return s
}

func startSpinner() *spinner {
	s := &spinner{ended: make(chan struct{}), since: time.Now()}
	go func() {
		defer close(s.ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for x := uint64(1); !s.stop.Load(); {
			for range 10_000 {
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
			}
			s.rounds.Add(int64(x&1) | 1)
		}
	}()
	return s
}

// end stops the spinner and gives its rounds per second.
func (s *spinner) end() float64 {
	s.stop.Store(true)
	<-s.ended
	return float64(s.rounds.Load()) / time.Since(s.since).Seconds()
}

// report ends the spinner and reports the share of its speed that it kept.
func (s *spinner) report(b *testing.B) {
	b.Helper()
	b.ReportMetric(s.end()/s.alone, "spinner-share")
}
