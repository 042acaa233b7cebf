package main

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestHeadroomFollowsTheWork(t *testing.T) {
	const live = 16 << 20
	headroom := nextHeadroom(0, 0, live)
	if headroom != minHeadroom {
		t.Errorf("headroom without work is %d, want %d", headroom, minHeadroom)
	}
	const busy = 5 << 20 // in a tick
	if headroom = nextHeadroom(headroom, busy, live); headroom != uint64(heapTicks)*busy {
		t.Errorf("headroom after the first busy tick is %d, want %d", headroom, heapTicks*busy)
	}
	ticks := 0
	for ; headroom > minHeadroom && ticks < 1000; ticks++ {
		headroom = nextHeadroom(headroom, 0, live)
	}
	if rest := time.Duration(ticks) * paceTick; rest < 20*time.Second || rest > time.Minute {
		t.Errorf("headroom is back at its least after %s of rest, want 20 s to a minute", rest)
	}
}

func TestHeapGrowsByHeadroom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := rapid.Uint64Range(8<<20, 8<<30).Draw(t, "live")
		headroom := nextHeadroom(rapid.Uint64Range(0, maxHeadroom).Draw(t, "before"), rapid.Uint64Range(0, 1<<34).Draw(t, "allocated"), live)
		if headroom < max(minHeadroom, live/8) || headroom > max(maxHeadroom, live) {
			t.Fatalf("headroom %d is out of bounds", headroom)
		}
		// A percent is the runtime's unit.
		if grown := live * uint64(gcPercent(headroom, live)) / 100; grown > headroom || grown+live/100+1 < headroom {
			t.Fatalf("a heap of %d grows by %d, want %d", live, grown, headroom)
		}
	})
}
