package linearizability

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// call is one request and what came of it.
type call struct {
	client       int
	start, end   time.Duration // since the test began
	in           input
	out          output
	version      int64 // that a write was told; 0: none
	errorMessage string
}

// listing is a list of all objects, or the first state of a watch.
type listing struct {
	version int64
	states  map[string]state
}

// change is one version of an object, in etcd or as a watcher saw it.
type change struct {
	version int64
	key     string
	state   state // exists is false for a deletion
}

// sight is one thing that a watcher saw: a change, a bookmark (all up to
// version has been seen), or a list from which it had to begin anew.
type sight struct {
	change   *change
	bookmark int64
	anew     *listing
}

// history is what a run has recorded. It is safe for concurrent use while it
// records.
type history struct {
	mu       sync.Mutex
	calls    []call
	listings []listing
	refused  map[string]int // calls that never reached an object, by reason

	// from is the version before the first change; all that follow are truth,
	// in etcd's own order.
	from     int64
	truth    []change
	watchers [][]sight
}

func (h *history) record(c call) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, c)
}

// check returns everything that is wrong with a history.
func (h *history) check(patience time.Duration) error {
	errs := []error{h.checkOrder(patience), h.checkTruth(), h.checkListings()}
	for i, sights := range h.watchers {
		if err := h.checkWatcher(sights); err != nil {
			errs = append(errs, fmt.Errorf("watcher %d: %w", i, err))
		}
	}
	return errors.Join(errs...)
}

// checkOrder looks for an order of all calls in which each had to get its answer.
func (h *history) checkOrder(patience time.Duration) error {
	written := map[string]bool{} // values that came to be, or that somebody saw
	for _, c := range h.truth {
		written[c.state.main], written[c.state.side] = true, true
	}
	for _, c := range h.calls {
		written[c.out.state.main], written[c.out.state.side] = true, true
	}
	var operations []porcupine.Operation
	for _, c := range h.calls {
		o := porcupine.Operation{ClientId: c.client, Input: c.in, Output: c.out, Call: int64(c.start), Return: int64(c.end)}
		if c.out.outcome == unknown {
			if c.in.kind == read || c.in.value != "" && !written[c.in.value] {
				continue // a read tells nothing then, and the write never was
			}
			o.Return = math.MaxInt64
		}
		operations = append(operations, o)
	}
	result, info := porcupine.CheckOperationsVerbose(model, operations, patience)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("order of %d calls: not decided within %s", len(operations), patience)
	}
	return fmt.Errorf("no order explains the answers: %s", stuck(model.Partition(operations), info))
}

// stuck tells of the first call that the longest order found cannot explain.
func stuck(parts [][]porcupine.Operation, info porcupine.LinearizationInfo) string {
	for i, orders := range info.PartialLinearizationsOperations() {
		var longest []porcupine.Operation
		for _, order := range orders {
			if len(order) > len(longest) {
				longest = order
			}
		}
		// Partitions come in no order; that of info is found by its key.
		if len(longest) == 0 {
			continue
		}
		key := longest[0].Input.(input).key
		j := slices.IndexFunc(parts, func(p []porcupine.Operation) bool { return p[0].Input.(input).key == key })
		if j < 0 || len(longest) == len(parts[j]) {
			continue
		}
		text := fmt.Sprintf("partition %d, %s, after %d of %d calls; the last that fit:", i, key, len(longest), len(parts[j]))
		for _, o := range longest[max(0, len(longest)-5):] {
			text += fmt.Sprintf("\n  %v", describe(o))
		}
		left := slices.DeleteFunc(slices.Clone(parts[j]), func(o porcupine.Operation) bool {
			return slices.ContainsFunc(longest, func(l porcupine.Operation) bool { return l == o })
		})
		sort.Slice(left, func(a, b int) bool { return left[a].Return < left[b].Return })
		text += "\nthe first that do not:"
		for _, o := range left[:min(5, len(left))] {
			text += fmt.Sprintf("\n  %v", describe(o))
		}
		return text
	}
	return "an answer that no first state allows"
}

func describe(o porcupine.Operation) string {
	return fmt.Sprintf("%v to %v: client %d: %s", time.Duration(o.Call), time.Duration(o.Return), o.ClientId, model.DescribeOperation(o.Input, o.Output))
}

// checkTruth compares what clients were told of their writes with etcd.
func (h *history) checkTruth() error {
	at := map[int64]change{}
	value := map[string]int{} // how often a write happened
	var last int64
	var errs []error
	before := map[string]state{}
	for _, c := range h.truth {
		if c.version <= last || c.version <= h.from {
			errs = append(errs, fmt.Errorf("etcd tells of version %d after %d", c.version, max(last, h.from)))
		}
		last = c.version
		at[c.version] = c
		if c.state.exists {
			if old := before[c.key]; c.state.main == old.main {
				value[c.state.side]++
			} else {
				value[c.state.main]++
			}
		}
		before[c.key] = c.state
	}
	for _, c := range h.calls {
		if c.in.kind == read {
			continue
		}
		switch n := value[c.in.value]; {
		case c.in.value == "":
		case n > 1:
			errs = append(errs, fmt.Errorf("%+v happened %d times", c.in, n))
		case c.out.outcome == done && n == 0:
			errs = append(errs, fmt.Errorf("lost: %+v was acknowledged with %+v, version %d", c.in, c.out, c.version))
		case c.out.outcome != done && c.out.outcome != unknown && n != 0:
			errs = append(errs, fmt.Errorf("%+v happened and was refused: %v (%s)", c.in, c.out.outcome, c.errorMessage))
		}
		if c.version != 0 {
			if got := at[c.version]; got.key != c.in.key || got.state != c.out.state {
				errs = append(errs, fmt.Errorf("%+v was acknowledged with %+v, version %d, which is %+v", c.in, c.out, c.version, got))
			}
		}
	}
	return errors.Join(errs...)
}

// replay returns the state at a version.
func (h *history) replay(version int64) map[string]state {
	now := map[string]state{}
	for _, c := range h.truth {
		if c.version > version {
			break
		}
		if c.state.exists {
			now[c.key] = c.state
		} else {
			delete(now, c.key)
		}
	}
	return now
}

// checkListings compares lists with the states that they claim to be.
func (h *history) checkListings() error {
	// From the oldest on, so that the truth is replayed once.
	listings := slices.Clone(h.listings)
	slices.SortFunc(listings, func(a, b listing) int { return int(a.version - b.version) })
	now, next := map[string]state{}, 0
	for _, l := range listings {
		for ; next < len(h.truth) && h.truth[next].version <= l.version; next++ {
			if c := h.truth[next]; c.state.exists {
				now[c.key] = c.state
			} else {
				delete(now, c.key)
			}
		}
		if !maps.Equal(now, l.states) {
			return fmt.Errorf("a list at version %d is %+v, and should be %+v", l.version, l.states, now)
		}
	}
	return nil
}

// checkWatcher compares what a watcher saw with all that there was to see.
func (h *history) checkWatcher(sights []sight) error {
	at, next := h.from, 0 // all up to version at has been seen: truth[:next]
	skip := func(version int64) error {
		if next < len(h.truth) && h.truth[next].version <= version {
			return fmt.Errorf("at version %d it had not seen %+v", version, h.truth[next])
		}
		if version < at {
			return fmt.Errorf("version %d came after %d", version, at)
		}
		at = version
		return nil
	}
	for _, s := range sights {
		switch {
		case s.change != nil:
			if next == len(h.truth) || h.truth[next] != *s.change {
				want := "nothing"
				if next < len(h.truth) {
					want = fmt.Sprintf("%+v", h.truth[next])
				}
				return fmt.Errorf("after version %d it saw %+v, and should have seen %s", at, *s.change, want)
			}
			at = s.change.version
			next++
		case s.anew != nil:
			if s.anew.version < at {
				return fmt.Errorf("it began anew at version %d, after %d", s.anew.version, at)
			}
			if want := h.replay(s.anew.version); !maps.Equal(want, s.anew.states) {
				return fmt.Errorf("it began anew at version %d with %+v, and should have with %+v", s.anew.version, s.anew.states, want)
			}
			at = s.anew.version
			for next < len(h.truth) && h.truth[next].version <= at {
				next++
			}
		default:
			if err := skip(s.bookmark); err != nil {
				return fmt.Errorf("bookmark: %w", err)
			}
		}
	}
	if next < len(h.truth) {
		return fmt.Errorf("it never saw %+v and %d more", h.truth[next], len(h.truth)-next-1)
	}
	return nil
}
