package pods

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// turns bounds how much is done at a time, so that of many pods the first run
// while the others wait, instead of all of them late. It is a courtesy, not a
// lock: while no turn at all ends for as long as patience, those who wait go on
// anyway, so that a runtime that hangs over some pods keeps no other from starting.
type turns struct {
	slots    chan struct{}
	patience time.Duration
	ended    atomic.Int64 // when a turn ended last, in nanoseconds
}

// newTurns is for what keeps a CPU or two busy.
func newTurns() *turns {
	return &turns{slots: make(chan struct{}, max(4, 2*runtime.NumCPU())), patience: 10 * time.Second}
}

// take waits for a turn, or for ctx to end. What it returns gives the turn back.
func (t *turns) take(ctx context.Context) (done func()) {
	began := time.Now()
	for {
		since := began
		if ended := time.Unix(0, t.ended.Load()); ended.After(since) {
			since = ended
		}
		left := t.patience - time.Since(since)
		if left <= 0 || ctx.Err() != nil {
			return func() {}
		}
		timer := time.NewTimer(left)
		select {
		case t.slots <- struct{}{}:
			timer.Stop()
			return func() {
				t.ended.Store(time.Now().UnixNano())
				<-t.slots
			}
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}
