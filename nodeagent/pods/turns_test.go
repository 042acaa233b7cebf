package pods

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// takeAll has n take a turn each, for as long as long says, and tells how many had
// one at the same time at most.
func takeAll(t *testing.T, turns *turns, n int, long time.Duration) (most int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	now := 0
	for range n {
		wg.Go(func() {
			defer turns.take(t.Context())()
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(long)
			mu.Lock()
			now--
			mu.Unlock()
		})
	}
	wg.Wait()
	return most
}

func TestTurnsBoundWhatIsDoneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Together they wait for much longer than anybody's patience.
		turns := &turns{slots: 3, patience: 10 * time.Second}
		most := takeAll(t, turns, 50, 6*time.Second)
		if most != 3 {
			t.Errorf("%d at a time, want 3", most)
		}
		if turns.taken != 0 || len(turns.queue) != 0 {
			t.Errorf("%d turns were not given back, %d still wait", turns.taken, len(turns.queue))
		}
	})
}

func TestTurnsThatNobodyGivesBackHoldNobodyForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{slots: 2, patience: 10 * time.Second}
		hung := []func(){turns.take(t.Context()), turns.take(t.Context())}
		began := time.Now()
		most := takeAll(t, turns, 20, time.Second)
		if took := time.Since(began); took != turns.patience+10*time.Second || most != 2 {
			t.Errorf("took %v, %d at a time; want 20s, 2", took, most)
		}
		for _, done := range hung {
			done()
		}
		if turns.limit != turns.slots {
			t.Errorf("%d turns once nothing hangs any more", turns.limit)
		}
	})
}

func TestWhoEndsBeforeItsTurnTakesNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{slots: 1, patience: 10 * time.Second}
		first := turns.take(t.Context())
		ended, cancel := context.WithCancel(t.Context())
		gone := make(chan struct{})
		go func() {
			turns.take(ended)()
			close(gone)
		}()
		synctest.Wait()
		cancel()
		<-gone
		first()
		began := time.Now()
		turns.take(t.Context())()
		if took := time.Since(began); took != 0 || turns.taken != 0 {
			t.Errorf("waited for %v, %d turns are taken", took, turns.taken)
		}
	})
}
