package leader

import "time"

const (
	// paceKept is for how long the slowest renewal counts.
	paceKept = 30 * time.Second
	// patience is how many times as long as the slowest renewal a lease is.
	patience = 4
)

// pace is how long a candidate's renewals took of late. A control plane that has
// too much to do answers late, and a leader that gave up over it, to begin anew
// with empty caches, would make that worse; so a slow one has a longer lease. The
// price is that more time goes by when it dies.
type pace struct {
	slowest time.Duration
	at      time.Time // when that one began
}

// note adds a renewal, whether it succeeded or not.
func (p *pace) note(began time.Time, took time.Duration) {
	if took >= p.slowest || began.Sub(p.at) > paceKept {
		p.slowest, p.at = took, began
	}
}

// lease is how long the next lease is to be, in whole seconds.
func (p *pace) lease() time.Duration {
	want := (patience*p.slowest + time.Second - 1).Truncate(time.Second)
	return min(max(want, shortestLease), longestLease)
}
