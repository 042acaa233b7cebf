package stack

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
)

// TestRoom has goroutines hold the room while the memory of all stacks is read.
func TestRoom(t *testing.T) {
	const goroutines = 1000
	for _, test := range []struct {
		name string
		make func()
		size uint64
	}{{"shallow", Shallow, shallow}, {"deep", Deep, deep}} {
		t.Run(test.name, func(t *testing.T) {
			runtime.GC() // which gives back stacks that were used before, and none after
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			before := stacks()
			made, release := make(chan struct{}), make(chan struct{})
			for range goroutines {
				go func() {
					test.make()
					made <- struct{}{}
					<-release
				}()
			}
			for range goroutines {
				<-made
			}
			got := (stacks() - before) / goroutines
			close(release)
			if got < test.size {
				t.Errorf("a stack takes %d bytes, want at least %d", got, test.size)
			}
		})
	}
}

// stacks is how many bytes the stacks of all goroutines take.
func stacks() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
