package main

import (
	"testing"

	"pgregory.net/rapid"
)

func TestHeadroomFollowsTheWork(t *testing.T) {
	const live = 16 << 20
	headroom := nextHeadroom(0, 0, live)
	if headroom != minHeadroom {
		t.Errorf("headroom without work is %d, want %d", headroom, minHeadroom)
	}
	const busy = 20 << 20
	if headroom = nextHeadroom(headroom, busy, live); headroom != heapSeconds*busy {
		t.Errorf("headroom after the first busy second is %d, want %d", headroom, heapSeconds*busy)
	}
	seconds := 0
	for ; headroom > minHeadroom && seconds < 60; seconds++ {
		headroom = nextHeadroom(headroom, 0, live)
	}
	if seconds < 5 || seconds > 15 {
		t.Errorf("headroom is back at its least after %d seconds of rest, want 5 to 15", seconds)
	}
}

func TestHeapGrowsByHeadroom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		live := rapid.Uint64Range(8<<20, 8<<30).Draw(t, "live")
		headroom := nextHeadroom(rapid.Uint64Range(0, maxHeadroom).Draw(t, "before"), rapid.Uint64Range(0, 1<<34).Draw(t, "allocated"), live)
		if headroom < max(minHeadroom, live/4) || headroom > max(maxHeadroom, live) {
			t.Fatalf("headroom %d is out of bounds", headroom)
		}
		// A percent is the runtime's unit.
		if grown := live * uint64(gcPercent(headroom, live)) / 100; grown > headroom || grown+live/100+1 < headroom {
			t.Fatalf("a heap of %d grows by %d, want %d", live, grown, headroom)
		}
	})
}
