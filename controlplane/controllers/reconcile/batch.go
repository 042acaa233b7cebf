package reconcile

import "sync"

// SlowStart calls f with 0 to n-1, in batches of 1, 2, 4 … at once, and stops
// after a batch with an error, of which it returns the first: a quota or a
// broken webhook is asked once, not n times. done counts the calls that
// succeeded.
func SlowStart(n int, f func(i int) error) (done int, err error) {
	for begin, batch := 0, 1; begin < n; begin, batch = begin+batch, batch*2 {
		batch = min(batch, n-begin)
		results := make([]error, batch)
		var calls sync.WaitGroup
		for i := range batch {
			calls.Go(func() { results[i] = f(begin + i) })
		}
		calls.Wait()
		for _, result := range results {
			if result == nil {
				done++
			} else if err == nil {
				err = result
			}
		}
		if err != nil {
			return done, err
		}
	}
	return done, nil
}
