package reconcile

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

func TestSlowStart(t *testing.T) {
	for _, test := range []struct{ n, failFrom, wantCalls, wantDone int }{
		{10, 100, 10, 10},
		{10, 0, 1, 0},
		{10, 3, 7, 3}, // 1 + 2 + 4
		{0, 0, 0, 0},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			var mu sync.Mutex
			calls := 0
			done, err := SlowStart(test.n, func(int) error {
				mu.Lock()
				defer mu.Unlock()
				calls++
				if calls > test.failFrom {
					return errors.New("quota")
				}
				return nil
			})
			if done != test.wantDone || calls != test.wantCalls || (err != nil) != (test.wantDone < test.n) {
				t.Errorf("done %d of %d calls, err %v", done, calls, err)
			}
		})
	}
}
