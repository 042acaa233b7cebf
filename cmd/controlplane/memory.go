package main

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"clusterctl/footprint"
)

// The heap may grow by what was allocated in the last heapSeconds before garbage
// is collected. So a server without work stays close to what is in use, and one
// with much of it does not spend its time collecting. The bounds are these for
// small heaps, and for large ones an eighth and the whole of what is in use.
const (
	heapSeconds = 4
	heapTicks   = heapSeconds * int(time.Second/paceTick)
	paceTick    = 250 * time.Millisecond
	minHeadroom = 8 << 20
	maxHeadroom = 192 << 20
)

// startGCPercent holds during start-up. What lives on is allocated then, amid
// much that does not: the further the heap grew, the more thinly it would be
// spread over memory that cannot be given back.
const startGCPercent = 50

// startUp is how long the work of starting counts, which says nothing of the
// work to come, unless startBytes are allocated before: that is twice what the
// start of a control plane of a small cluster takes, so it is at work already.
const (
	startUp    = 30 * time.Second
	startBytes = 1 << 30
)

// settleEvery is how often memory is given back at most.
const settleEvery = time.Minute

// paceGC adapts the garbage collector to the work until ctx ends, and gives
// memory back each time that work has come to an end.
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
	busy, settled := true, time.Now().Add(-settleEvery)
	starting, started := true, time.After(startUp)
	tick := time.NewTicker(paceTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-started:
			starting, headroom = false, 0
		case <-tick.C:
		}
		allocated, live := read()
		starting = starting && allocated < startBytes
		headroom = nextHeadroom(headroom, allocated-last, live)
		last = allocated
		// Setting it stops all for a moment: small changes are not worth it.
		if next := gcPercent(headroom, live); !starting && (next > percent+percent/4 || next < percent-percent/4) {
			percent = next
			debug.SetGCPercent(percent)
		}
		switch rest := nextHeadroom(0, 0, live); {
		case headroom > 4*rest:
			busy = true
		case headroom == rest && busy && time.Since(settled) > settleEvery:
			debug.FreeOSMemory()
			footprint.ForgetCode()
			busy, settled = false, time.Now()
		}
	}
}

// nextHeadroom grows with the bytes allocated in the last tick at once, and takes
// most of a minute to come down: work comes in bursts.
func nextHeadroom(headroom, allocated, live uint64) uint64 {
	return min(max(allocated*uint64(heapTicks), headroom-headroom/64, minHeadroom, live/8), max(maxHeadroom, live))
}

// gcPercent is what lets a heap of live bytes grow by headroom.
func gcPercent(headroom, live uint64) int {
	return int(headroom * 100 / max(live, 1<<20))
}
