package footprint

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// gcPercent trades a little CPU for a heap that stays close to what is in use: a
// program that settles is idle most of the time, and shares its host with pods.
const gcPercent = 40

// How it is known that there is nothing to do: by what is allocated in a while.
const (
	settlePeriod = 15 * time.Second
	busyBytes    = 16 << 20
	quietBytes   = 8 << 20
)

// Settle keeps the heap small and gives memory back each time that work, such as
// that of starting, has come to an end, until ctx ends. The first settlePeriod is
// the start's: a heap that is filled would be gone through again and again.
func Settle(ctx context.Context) {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	last, busy := uint64(0), true
	tick := time.NewTicker(settlePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		debug.SetGCPercent(gcPercent)
		metrics.Read(sample)
		allocated := sample[0].Value.Uint64() - last
		last = sample[0].Value.Uint64()
		switch {
		case allocated >= busyBytes:
			busy = true
		case busy && allocated < quietBytes:
			debug.FreeOSMemory()
			ForgetCode()
			busy = false
		}
	}
}
