package pool

import (
	"testing"
	"testing/synctest"
	"time"

	"gotest.tools/v3/assert"
)

func TestPatienceDeductsTheHostsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var starved time.Duration
		start := time.Now()
		p := newPatience(10*time.Second, func() time.Duration { return starved })
		defer p.Stop()
		<-p.C
		starved = 4 * time.Second
		assert.Assert(t, !p.Over(), "4 of 10 seconds were the host's")
		<-p.C
		assert.Equal(t, time.Since(start), 14*time.Second)
		assert.Assert(t, p.Over())
	})
}

func TestPatienceGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPatience(10*time.Second, func() time.Duration { return 0 })
		defer p.Stop()
		p.Grow(5 * time.Second)
		p.Grow(15 * time.Second)
		p.Renew()
		start := time.Now()
		<-p.C
		assert.Assert(t, p.Over())
		assert.Equal(t, time.Since(start), 15*time.Second)
	})
}

// What the host took before a renewal was paid for already.
func TestPatienceRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		starved := 7 * time.Second
		p := newPatience(10*time.Second, func() time.Duration { return starved })
		defer p.Stop()
		<-time.After(6 * time.Second)
		starved = 9 * time.Second
		p.Renew()
		start := time.Now()
		<-p.C
		assert.Assert(t, p.Over())
		assert.Equal(t, time.Since(start), 10*time.Second)
	})
}
