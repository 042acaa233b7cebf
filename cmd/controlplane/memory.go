package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The heap may grow by what was allocated in the last heapSeconds before garbage
// is collected. So a server without work stays close to what is in use, and one
// with much of it does not spend its time collecting. The bounds are these for
// small heaps, and for large ones a quarter and the whole of what is in use.
const (
	heapSeconds = 4
	minHeadroom = 8 << 20
	maxHeadroom = 192 << 20
)

// startGCPercent holds until the first look at what is in use.
const startGCPercent = 50

// paceGC adapts the garbage collector to the work until ctx ends.
func paceGC(ctx context.Context) {
	debug.SetGCPercent(startGCPercent)
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}}
	read := func() (allocated, live uint64) {
		metrics.Read(samples)
		return samples[0].Value.Uint64(), samples[1].Value.Uint64() + samples[2].Value.Uint64()
	}
	last, _ := read()
	var headroom uint64
	percent := startGCPercent
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		allocated, live := read()
		headroom = nextHeadroom(headroom, allocated-last, live)
		last = allocated
		// Setting it stops all for a moment: small changes are not worth it.
		if next := gcPercent(headroom, live); next > percent+percent/4 || next < percent-percent/4 {
			percent = next
			debug.SetGCPercent(percent)
		}
	}
}

// nextHeadroom grows with the bytes allocated in the last second at once, and
// comes down by and by: work comes in bursts.
func nextHeadroom(headroom, allocated, live uint64) uint64 {
	return min(max(allocated*heapSeconds, headroom-headroom/4, minHeadroom, live/4), max(maxHeadroom, live))
}

// gcPercent is what lets a heap of live bytes grow by headroom.
func gcPercent(headroom, live uint64) int {
	return int(headroom * 100 / max(live, 1<<20))
}
