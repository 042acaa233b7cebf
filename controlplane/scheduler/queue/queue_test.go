package queue

import (
	"context"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/plugins"
)

func pod(name string, priority int32) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"},
		Spec:       v1.PodSpec{Priority: &priority},
	}
}

func newQueue() (*Queue, *clocktesting.FakeClock) {
	clock := clocktesting.NewFakeClock(time.Unix(1000, 0))
	return New(plugins.PrioritySort{}.Less, clock), clock
}

// pop returns the next pod's item, nil when none is ready.
func pop(t *testing.T, q *Queue) *Item {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	item, err := q.Pop(ctx)
	if err != nil {
		return nil
	}
	return item
}

func wantPop(t *testing.T, q *Queue, want string) *Item {
	t.Helper()
	item := pop(t, q)
	got := ""
	if item != nil {
		got = item.Pod.Name
	}
	if got != want {
		t.Fatalf("popped %q, want %q", got, want)
	}
	return item
}

func TestOrder(t *testing.T) {
	q, _ := newQueue()
	q.Add(pod("low", 1))
	q.Add(pod("first", 5))
	q.Add(pod("second", 5))
	for _, want := range []string{"first", "second", "low", ""} {
		wantPop(t, q, want)
	}
}

func TestParkedWaitsForHelp(t *testing.T) {
	q, clock := newQueue()
	q.Add(pod("a", 0))
	item := wantPop(t, q, "a")
	q.Park(item, []framework.FilterPlugin{plugins.NodeResourcesFit{}}, nil)

	clock.Step(time.Minute)
	wantPop(t, q, "") // its back-off is over, but nothing helped
	q.Notify(framework.Event{Kind: framework.NodeLabelsChanged})
	wantPop(t, q, "") // labels give no room
	q.Notify(framework.Event{Kind: framework.PodRemoved})
	item = wantPop(t, q, "a")
	if item.Attempts != 2 {
		t.Errorf("attempts %d, want 2", item.Attempts)
	}
}

func TestHelpDuringTheTryIsNotMissed(t *testing.T) {
	q, _ := newQueue()
	q.Add(pod("a", 0))
	item := wantPop(t, q, "a")
	q.Notify(framework.Event{Kind: framework.PodRemoved})
	q.Park(item, []framework.FilterPlugin{plugins.NodeResourcesFit{}}, nil)
	wantPop(t, q, "a") // though its back-off is not over: nobody else waits
}

func TestBackoffGivesWayAndIsCutShort(t *testing.T) {
	q, clock := newQueue()
	fit := []framework.FilterPlugin{plugins.NodeResourcesFit{}}
	for _, name := range []string{"helped", "not helped", "failed"} {
		q.Add(pod(name, 0))
	}
	helped, notHelped, failed := wantPop(t, q, "helped"), wantPop(t, q, "not helped"), wantPop(t, q, "failed")
	q.Park(helped, fit, nil)
	q.Notify(framework.Event{Kind: framework.PodRemoved, Pod: pod("victim", 0)})
	q.Park(failed, nil, nil)
	q.Done(notHelped)
	q.Add(pod("new", 0))
	wantPop(t, q, "new")
	wantPop(t, q, "helped")
	wantPop(t, q, "") // whose try failed waits in any case
	clock.Step(firstBackoff)
	wantPop(t, q, "failed")
}

func TestWhoAwaitsOthersIsHurriedByThemOnly(t *testing.T) {
	fit := []framework.FilterPlugin{plugins.NodeResourcesFit{}}
	// What a scheduler tells of a pod that is gone.
	left := func(names ...types.UID) func(*Queue) {
		return func(q *Queue) {
			for _, name := range names {
				q.Left(name)
				q.Notify(framework.Event{Kind: framework.PodRemoved, Pod: pod(string(name), 0)})
			}
		}
	}
	nothing := left()
	for _, c := range []struct {
		name            string
		during, after   func(*Queue)
		hurried, parked bool
	}{
		{name: "nothing happens", during: nothing, after: nothing, parked: true},
		{name: "all leave during the try", during: left("one", "two"), after: nothing, hurried: true},
		{name: "one leaves during the try", during: left("one"), after: nothing},
		{name: "one leaves during the try, the other then", during: left("one"), after: left("two"), hurried: true},
		{name: "another leaves during the try", during: left("other"), after: nothing},
		{name: "another leaves during the try, all then", during: left("other"), after: left("one", "two"), hurried: true},
		{name: "all leave then", during: nothing, after: left("one", "two"), hurried: true},
		{name: "one leaves then", during: nothing, after: left("one")},
		{name: "another leaves then", during: nothing, after: left("other")},
		{name: "another leaves then, and all", during: nothing, after: left("other", "one", "two"), hurried: true},
		{name: "a node has more room", during: nothing, hurried: true, after: func(q *Queue) {
			q.Notify(framework.Event{Kind: framework.NodeAllocatableChanged})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, clock := newQueue()
			q.Add(pod("a", 0))
			item := wantPop(t, q, "a")
			c.during(q)
			q.Park(item, fit, []types.UID{"one", "two"})
			c.after(q)
			if !c.hurried {
				wantPop(t, q, "")
				clock.Step(firstBackoff)
			}
			if c.parked {
				wantPop(t, q, "")
				q.Delete("a")
			} else {
				wantPop(t, q, "a")
			}
			if len(q.awaited) > 0 {
				t.Errorf("still awaited: %v", q.awaited)
			}
		})
	}
}

func TestWhomAPodAwaitsIsToldWhenItIsPopped(t *testing.T) {
	q, clock := newQueue()
	q.Add(pod("a", 0))
	q.Park(wantPop(t, q, "a"), nil, []types.UID{"one", "two"})
	q.Left("one")
	clock.Step(firstBackoff)
	if item := wantPop(t, q, "a"); !slices.Equal(item.Awaited, []types.UID{"two"}) {
		t.Errorf("awaits %v", item.Awaited)
	}
}

func TestParkedPodIsTriedAfterALongWhile(t *testing.T) {
	q, clock := newQueue()
	q.Add(pod("a", 0))
	q.Park(wantPop(t, q, "a"), []framework.FilterPlugin{plugins.NodeResourcesFit{}}, nil)
	clock.Step(parkedLimit)
	wantPop(t, q, "a")
}

func TestBackoffGrowsAndEnds(t *testing.T) {
	q, clock := newQueue()
	q.Add(pod("a", 0))
	for _, wait := range []time.Duration{1, 2, 4, 8, 10, 10} {
		q.Park(wantPop(t, q, "a"), nil, nil)
		clock.Step(wait*time.Second - time.Millisecond)
		wantPop(t, q, "")
		clock.Step(time.Millisecond)
	}
}

func TestDeletedInFlightDoesNotComeBack(t *testing.T) {
	q, clock := newQueue()
	q.Add(pod("a", 0))
	item := wantPop(t, q, "a")
	q.Delete("a")
	q.Park(item, nil, nil)
	clock.Step(time.Hour)
	wantPop(t, q, "")
	if n := q.Len(); n != 0 {
		t.Errorf("%d pods left in the queue", n)
	}
}

func TestGatedPodWaits(t *testing.T) {
	q, clock := newQueue()
	gated := pod("a", 0)
	gated.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "wait"}}
	q.Add(gated)
	clock.Step(time.Hour)
	wantPop(t, q, "")
	q.Add(pod("a", 0))
	wantPop(t, q, "a")
}

func TestOnlyPodsThatAnEventHelpsAreTriedAgain(t *testing.T) {
	q, clock := newQueue()
	for _, name := range []string{"room", "label", "ports"} {
		q.Add(pod(name, 0))
	}
	for _, refusedBy := range []framework.FilterPlugin{plugins.NodeResourcesFit{}, plugins.NodeAffinity{}, plugins.NodePorts{}} {
		q.Park(pop(t, q), []framework.FilterPlugin{refusedBy}, nil)
	}
	clock.Step(time.Minute)
	q.Notify(framework.Event{Kind: framework.PodRemoved, Pod: pod("without ports", 0)})
	wantPop(t, q, "room")
	wantPop(t, q, "")
	ported := pod("ported", 0)
	ported.Spec.Containers = []v1.Container{{Ports: []v1.ContainerPort{{HostPort: 80}}}}
	q.Notify(framework.Event{Kind: framework.PodRemoved, Pod: ported})
	wantPop(t, q, "ports")
	q.Notify(framework.Event{Kind: framework.NodeLabelsChanged, Node: &v1.Node{}})
	wantPop(t, q, "label")
}

func TestDeletedWhileBackingOffDoesNotComeBack(t *testing.T) {
	q, clock := newQueue()
	q.Add(pod("a", 0))
	q.Park(wantPop(t, q, "a"), nil, nil)
	q.Delete("a")
	clock.Step(time.Hour)
	wantPop(t, q, "")
	if n := q.Len(); n != 0 {
		t.Errorf("%d pods left in the queue", n)
	}
}
