package pool

import "time"

// Patience is a deadline in the guest's own time: what QEMU spends waiting for a CPU of a busy host does not
// count. Its channel fires when the time may be over; Over says whether it is.
type Patience struct {
	C <-chan time.Time

	timer   *time.Timer
	limit   time.Duration
	since   time.Time
	starved time.Duration
	host    func() time.Duration
}

// Patience starts a deadline. The caller stops it.
func (g *Guest) Patience(limit time.Duration) *Patience {
	return newPatience(limit, g.QEMU.Starved)
}

func newPatience(limit time.Duration, starved func() time.Duration) *Patience {
	timer := time.NewTimer(limit)
	return &Patience{C: timer.C, timer: timer, limit: limit, since: time.Now(), starved: starved(), host: starved}
}

// Renew starts the deadline anew, from now.
func (p *Patience) Renew() {
	p.since, p.starved = time.Now(), p.host()
	p.timer.Reset(p.limit)
}

// Grow makes the limit at least d, from the next Renew on.
func (p *Patience) Grow(d time.Duration) { p.limit = max(p.limit, d) }

// Over says whether the limit has passed. If it has not, C fires again when it may have.
func (p *Patience) Over() bool {
	left := p.limit - time.Since(p.since) + max(0, p.host()-p.starved)
	if left <= 0 {
		return true
	}
	p.timer.Reset(left)
	return false
}

// Forgive takes time out of the count in which nobody looked.
func (p *Patience) Forgive(d time.Duration) {
	p.since = p.since.Add(d)
	p.timer.Reset(max(0, p.limit-time.Since(p.since)))
}

// Stop releases the timer.
func (p *Patience) Stop() { p.timer.Stop() }
