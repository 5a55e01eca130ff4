package qmp

import (
	"context"
	"sync"
)

// subscriber is one queue of events. The reader never waits for a subscriber.
type subscriber struct {
	mu    sync.Mutex
	queue []Event
	ended bool
	wake  chan struct{} // one token: the queue or ended has changed
}

// Subscribe returns every event from now on, in order. The channel is closed when ctx is done, when the
// connection has ended and the queue is drained, or when more than 16384 events wait: a subscriber is never
// given a stream with a hole in it. Cancel ctx when the channel is not read to its end.
func (m *Monitor) Subscribe(ctx context.Context) <-chan Event {
	s := &subscriber{wake: make(chan struct{}, 1)}
	m.mu.Lock()
	if m.err != nil {
		s.ended = true
	} else {
		m.subs[s] = struct{}{}
	}
	m.mu.Unlock()

	out := make(chan Event)
	go func() {
		defer close(out)
		defer m.unsubscribe(s)
		for {
			batch, ended := s.take()
			for _, e := range batch {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			if ended {
				return
			}
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (m *Monitor) publish(e Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.subs {
		s.put(e)
	}
}

func (m *Monitor) unsubscribe(s *subscriber) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.subs, s)
}

func (s *subscriber) put(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	if len(s.queue) >= maxQueue {
		s.ended = true
	} else {
		s.queue = append(s.queue, e)
	}
	s.signal()
}

func (s *subscriber) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.signal()
}

func (s *subscriber) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take empties the queue; ended says that nothing more will come.
func (s *subscriber) take() (batch []Event, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, s.queue = s.queue, nil
	return batch, s.ended
}
