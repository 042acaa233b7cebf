package linearizability

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sound is a history with nothing wrong, in which two calls had no answer: one
// that happened and one that did not.
func sound() *history {
	at := func(start, end int, in input, out output, version int64) call {
		return call{start: time.Duration(start), end: time.Duration(end), in: in, out: out, version: version}
	}
	a, b, c, d := state{true, "a", ""}, state{true, "b", ""}, state{true, "b", "c"}, state{true, "d", ""}
	return &history{
		from: 10,
		calls: []call{
			at(1, 4, input{"k", create, "a", state{}}, output{done, a}, 11),
			at(2, 5, input{"k", create, "x", state{}}, output{exists, state{}}, 0),
			at(6, 7, input{"k", read, "", state{}}, output{done, a}, 0),
			at(8, 9, input{"k", swap, "b", a}, output{done, b}, 12),
			at(8, 10, input{"k", swap, "y", a}, output{conflict, state{}}, 0),
			at(11, 14, input{"k", patch, "c", state{}}, output{unknown, state{}}, 0), // happened
			at(15, 16, input{"k", put, "z", state{}}, output{unknown, state{}}, 0),   // did not
			at(20, 21, input{"k", read, "", state{}}, output{done, c}, 0),
			at(22, 23, input{"k", remove, "", state{}}, output{done, state{}}, 0),
			at(24, 25, input{"k", put, "w", state{}}, output{missing, state{}}, 0),
			at(26, 27, input{"k", read, "", state{}}, output{done, state{}}, 0),
			at(28, 29, input{"l", create, "d", state{}}, output{done, d}, 16),
		},
		truth:    []change{{11, "k", a}, {12, "k", b}, {13, "k", c}, {15, "k", state{}}, {16, "l", d}},
		listings: []listing{{14, map[string]state{"k": c}}, {10, map[string]state{}}, {12, map[string]state{"k": b}}},
		watchers: [][]sight{
			{see(11, "k", a), {bookmark: 11}, see(12, "k", b), see(13, "k", c), {bookmark: 14}, see(15, "k", state{}), see(16, "l", d)},
			{see(11, "k", a), {anew: &listing{14, map[string]state{"k": c}}}, see(15, "k", state{}), see(16, "l", d)},
		},
	}
}

func see(version int64, key string, s state) sight {
	return sight{change: &change{version, key, s}}
}

func TestSoundHistory(t *testing.T) {
	if err := sound().check(time.Minute); err != nil {
		t.Fatal(err)
	}
}

// TestBrokenHistories breaks the sound one, each time in another way.
func TestBrokenHistories(t *testing.T) {
	stale := state{true, "a", ""}
	for name, c := range map[string]struct {
		damage func(*history)
		want   string
	}{
		"stale read":                       {func(h *history) { h.calls[7].out.state = stale }, "no order explains"},
		"read of what nobody wrote":        {func(h *history) { h.calls[2].out.state.main = "?" }, "no order explains"},
		"half a write":                     {func(h *history) { h.calls[7].out.state.main = "a" }, "no order explains"},
		"read after deletion":              {func(h *history) { h.calls[10].out.state = stale }, "no order explains"},
		"two winners of one version":       {func(h *history) { h.calls[4].out = output{done, state{true, "y", ""}} }, "no order explains"},
		"two creations":                    {func(h *history) { h.calls[1].out = output{done, state{true, "x", ""}} }, "no order explains"},
		"refused for nothing":              {func(h *history) { h.calls[3].out = output{conflict, state{}} }, "no order explains"},
		"missing while there":              {func(h *history) { h.calls[9].start, h.calls[9].end = 18, 19 }, "no order explains"},
		"unanswered write before its call": {func(h *history) { h.calls[5].start, h.calls[5].end = 30, 31 }, "no order explains"},
		"lost write":                       {func(h *history) { h.truth = slices.Delete(h.truth, 4, 5) }, "lost: "},
		"refused and done":                 {func(h *history) { h.calls[11].out = output{exists, state{}}; h.calls[11].version = 0 }, "happened and was refused"},
		"twice": {func(h *history) {
			h.truth = append(h.truth, change{17, "l", state{}}, change{18, "l", state{true, "d", ""}})
		}, "happened 2 times"},
		"wrong version":                   {func(h *history) { h.calls[3].version = 13 }, "was acknowledged with"},
		"version that never was":          {func(h *history) { h.calls[3].version = 14 }, "was acknowledged with"},
		"list of mixed versions":          {func(h *history) { h.listings[0].states["l"] = state{true, "d", ""} }, "a list at version 14"},
		"list that is behind":             {func(h *history) { h.listings[2].states["k"] = stale }, "a list at version 12"},
		"watcher misses one":              {func(h *history) { h.watchers[0] = slices.Delete(h.watchers[0], 2, 3) }, "watcher 0: after version 11"},
		"watcher misses the last":         {func(h *history) { h.watchers[0] = h.watchers[0][:6] }, "watcher 0: it never saw"},
		"watcher sees one twice":          {func(h *history) { h.watchers[0] = slices.Insert(h.watchers[0], 3, h.watchers[0][2]) }, "watcher 0: after version 12"},
		"watcher sees them out of order":  {func(h *history) { w := h.watchers[0]; w[2], w[3] = w[3], w[2] }, "watcher 0: after version 11"},
		"watcher sees another state":      {func(h *history) { h.watchers[0][2] = see(12, "k", stale) }, "watcher 0: after version 11"},
		"bookmark before its time":        {func(h *history) { h.watchers[0][1].bookmark = 12 }, "watcher 0: bookmark: at version 12 it had not seen"},
		"bookmark that goes back":         {func(h *history) { h.watchers[0][4].bookmark = 12 }, "watcher 0: bookmark: version 12 came after 13"},
		"watcher begins anew wrongly":     {func(h *history) { h.watchers[1][1].anew.states["k"] = stale }, "watcher 1: it began anew at version 14"},
		"watcher begins anew in the past": {func(h *history) { h.watchers[1][1].anew.version = 10 }, "watcher 1: it began anew at version 10, after 11"},
		"etcd goes back":                  {func(h *history) { h.truth[4].version = 12 }, "etcd tells of version 12 after 15"},
	} {
		t.Run(name, func(t *testing.T) {
			h := sound()
			c.damage(h)
			if err := h.check(time.Minute); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Calls that truly took effect one after another, each at some moment between
// its start and its end, are found to have; once one read of them is changed to
// something else, they are not.
func TestOrderIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		h, now := &history{}, state{}
		seen := []state{{}}
		for i := range rapid.IntRange(2, 60).Draw(t, "calls") {
			in := input{key: "k", kind: operation(random.IntN(int(read) + 1)), expect: seen[random.IntN(len(seen))]}
			if in.kind < remove {
				in.value = fmt.Sprint(i)
			}
			after, how := apply(now, in)
			c := call{
				client: i, in: in, out: output{outcome: how},
				start: time.Duration(100*i - random.IntN(400)), end: time.Duration(100*i + random.IntN(400)),
			}
			if how == done && in.kind != remove && in.kind != removeVersion {
				c.out.state = after
			}
			if after != now {
				if after.exists {
					h.truth = append(h.truth, change{int64(i), "k", after})
				}
				if random.IntN(8) == 0 {
					c.out = output{outcome: unknown}
				}
			}
			now, seen = after, append(seen, after)
			h.calls = append(h.calls, c)
		}
		if err := h.checkOrder(time.Minute); err != nil {
			t.Fatal(err)
		}
		h.calls = append(h.calls, call{
			start: time.Hour, end: 2 * time.Hour, in: input{key: "k", kind: read}, out: output{outcome: done, state: state{true, "nobody's", ""}},
		})
		if h.checkOrder(time.Minute) == nil {
			t.Fatal("a read of what nobody wrote was explained")
		}
	})
}
