package pods

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurnsBoundWhatIsDoneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Together they wait for much longer than anybody's patience.
		turns := &turns{slots: make(chan struct{}, 3), patience: 10 * time.Second}
		var now, most atomic.Int32
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				defer turns.take(t.Context())()
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(6 * time.Second)
				now.Add(-1)
			})
		}
		wg.Wait()
		if m := most.Load(); m != 3 {
			t.Errorf("%d at a time, want 3", m)
		}
		if len(turns.slots) != 0 {
			t.Errorf("%d turns were not given back", len(turns.slots))
		}
	})
}

func TestTurnsThatNobodyGivesBackHoldNobodyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{slots: make(chan struct{}, 1), patience: 10 * time.Second}
		turns.take(t.Context()) // and hangs
		began := time.Now()
		turns.take(t.Context())()
		if took := time.Since(began); took != turns.patience {
			t.Errorf("waited for %v", took)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		turns.take(ended)()
		if len(turns.slots) != 1 {
			t.Errorf("who had no turn gave one back: %d are taken", len(turns.slots))
		}
	})
}
