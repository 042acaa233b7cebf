package pods

import (
	"context"
	"runtime"
	"time"
)

// turns bounds how much is done at a time, so that of many pods the first run
// while the others wait, instead of all of them late. It is a courtesy, not a
// lock: who has waited for patience goes on anyway, so that a runtime that hangs
// over some pods keeps no other from starting.
type turns struct {
	slots    chan struct{}
	patience time.Duration
}

// newTurns is for what keeps a CPU or two busy.
func newTurns() *turns {
	return &turns{slots: make(chan struct{}, max(4, 2*runtime.NumCPU())), patience: 10 * time.Second}
}

// take waits for a turn, or for ctx to end. What it returns gives the turn back.
func (t *turns) take(ctx context.Context) (done func()) {
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }
	case <-timer.C:
	case <-ctx.Done():
	}
	return func() {}
}
