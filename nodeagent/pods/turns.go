package pods

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// How long turns are waited for while none ends.
const (
	hangs   = 10 * time.Second // what takes CPU time alone
	lingers = time.Second      // containers may take as long as their grace to stop
)

// turns bounds how much is done at a time, so that of many pods the first come
// through while the others wait, instead of all of them late. It is a courtesy,
// not a lock: while no turn at all ends for as long as patience, as many again
// may go on beside those that take so long, so that neither a runtime that hangs
// over some pods nor containers that take their time to stop keep the others
// waiting for ever. Safe for concurrent use.
type turns struct {
	slots    int
	patience time.Duration

	mu    sync.Mutex
	limit int // of turns that are taken; 0 means slots
	taken int
	queue []chan struct{} // of those who wait, the first in front; closed when it is their turn
	bell  *time.Timer     // rings when nothing has moved for as long as patience; nil: nobody waits
}

// newTurns is for what keeps a CPU or two busy.
func newTurns(patience time.Duration) *turns {
	return &turns{slots: max(4, 2*runtime.NumCPU()), patience: patience}
}

// take waits for a turn, or for ctx to end. What it returns gives the turn back.
func (t *turns) take(ctx context.Context) (done func()) {
	turn := make(chan struct{})
	t.mu.Lock()
	t.queue = append(t.queue, turn)
	t.next()
	t.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		t.mu.Lock()
		defer t.mu.Unlock()
		if i := slices.Index(t.queue, turn); i >= 0 {
			t.queue = slices.Delete(t.queue, i, i+1)
			return func() {}
		}
	}
	began := time.Now()
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.taken--
		if t.limit > t.slots && time.Since(began) >= t.patience {
			t.limit-- // it was one of those beside whom others went on
		}
		t.move()
	}
}

// next gives turns to those in front, as far as there are any, and has the bell
// ring should the others wait for too long. t.mu is held.
func (t *turns) next() {
	t.limit = max(t.limit, t.slots)
	for len(t.queue) > 0 && t.taken < t.limit {
		close(t.queue[0])
		t.queue = t.queue[1:]
		t.taken++
	}
	if len(t.queue) > 0 && t.bell == nil {
		t.bell = time.AfterFunc(t.patience, t.ring)
	}
}

// move has the bell wait anew, for something has moved. t.mu is held.
func (t *turns) move() {
	if t.bell != nil {
		t.bell.Stop()
		t.bell = nil
	}
	t.next()
}

// ring lets as many again go on as there are slots.
func (t *turns) ring() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) > 0 {
		t.limit = t.taken + t.slots
	}
	t.move()
}
