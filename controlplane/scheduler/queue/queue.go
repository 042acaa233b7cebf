package queue

import (
	"container/heap"
	"context"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/metrics"
)

// Times of Kubernetes' scheduler.
const (
	firstBackoff = 1 * time.Second
	lastBackoff  = 10 * time.Second
	parkedLimit  = 5 * time.Minute
)

// Names of places and of what brings pods there, as metrics have them.
const (
	activeQueue        = "active"
	backoffQueue       = "backoff"
	unschedulableQueue = "unschedulable"
	gatedQueue         = "gated"

	podAdded      = "UnschedulablePodAdd"
	podChanged    = "UnschedulablePodUpdate"
	attemptFailed = "ScheduleAttemptFailure"
	backoffOver   = "BackoffComplete"
	parkedTooLong = "UnschedulableTimeout"
)

// Item is a waiting pod.
type Item struct {
	Pod      *v1.Pod // does not change between Pop and Park
	Attempts int
	Since    time.Time   // when it was first ready to be tried; zero: not yet
	Awaited  []types.UID // when it was popped: pods that were asked to leave for it, and had not

	refusedBy []framework.FilterPlugin // why it is parked
	readyAt   time.Time                // end of back-off
	due       time.Time                // when it is tried again without any event
	parked    framework.EventKind      // the kinds of events that it is parked for; 0: not parked
	awaits    map[types.UID]struct{}   // while it waits: pods that were asked to leave for it, and have not
	arrival   uint64                   // breaks ties
	pile      *pile                    // that holds it: active, early, later, or none (gated, in flight)
	index     int                      // in pile
	inFlight  bool                     // popped, not yet done
	gone      bool                     // deleted while in flight
	newer     *v1.Pod                  // what the pod became while in flight
	missed    framework.EventKind      // kinds of events while in flight
	left      map[types.UID]struct{}   // pods that left their nodes while in flight
}

// Queue is the pods that wait.
type Queue struct {
	clock clock.Clock

	mu       sync.Mutex
	items    map[types.UID]*Item
	active   *pile // ready, best first
	early    *pile // backing off, but something may have helped: tried when nobody else is to be; soonest first
	later    *pile // backing off or parked, soonest first
	parked   map[framework.EventKind]map[*Item]struct{}
	awaited  map[types.UID]*Item // backing off or parked, by each pod that it awaits
	flying   map[*Item]struct{}  // popped
	arrivals uint64
	wake     chan struct{} // one slot: something became active, or a back-off was set
}

// New returns an empty queue that hands out pods in the order of less, and
// among equals in the order of their arrival.
func New(less func(a, b *v1.Pod) bool, clock clock.Clock) *Queue {
	soonest := func(a, b *Item) bool { return a.due.Before(b.due) }
	return &Queue{
		clock: clock, items: map[types.UID]*Item{}, flying: map[*Item]struct{}{},
		parked: map[framework.EventKind]map[*Item]struct{}{}, awaited: map[types.UID]*Item{}, wake: make(chan struct{}, 1),
		active: &pile{less: func(a, b *Item) bool {
			if less(a.Pod, b.Pod) {
				return true
			}
			return !less(b.Pod, a.Pod) && a.arrival < b.arrival
		}},
		early: &pile{less: soonest}, later: &pile{less: soonest},
	}
}

// Add puts a new pod into the queue, or takes note that a waiting one changed:
// it may fit now, so it is tried again. Pods with scheduling gates wait.
func (q *Queue) Add(pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	item := q.items[pod.UID]
	if item == nil {
		q.arrivals++
		item = &Item{arrival: q.arrivals}
		q.items[pod.UID] = item
	}
	isNew := item.Pod == nil
	changed := item.Pod == nil || !sameForScheduling(item.Pod, pod)
	if item.inFlight {
		item.newer = pod
		if changed {
			item.missed = framework.Anything // whatever refused it may have changed
		}
		return
	}
	item.Pod = pod
	switch {
	case len(pod.Spec.SchedulingGates) > 0:
		q.take(item)
		if isNew {
			metrics.Incoming(unschedulableQueue, podAdded)
		}
	case isNew:
		q.activate(item, podAdded)
	case changed && item.pile != q.active:
		q.activate(item, podChanged)
	}
}

// Delete forgets a pod.
func (q *Queue) Delete(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	item := q.items[uid]
	if item == nil {
		return
	}
	if item.inFlight {
		item.gone = true
		return
	}
	q.take(item)
	q.forgo(item)
	delete(q.items, uid)
}

// Pop waits for a pod to try. Its caller ends the try with Done or Park.
func (q *Queue) Pop(ctx context.Context) (*Item, error) {
	for {
		q.mu.Lock()
		now := q.clock.Now()
		for _, waiting := range []*pile{q.early, q.later} {
			for waiting.Len() > 0 && !now.Before(waiting.items[0].due) {
				item, event := waiting.items[0], backoffOver
				if item.parked != 0 {
					event = parkedTooLong
				}
				q.activate(item, event)
			}
		}
		if q.active.Len() == 0 && q.early.Len() > 0 {
			// Nobody else is kept from a try by it. Upstream does so since 1.33.
			q.activate(q.early.items[0], backoffOver)
		}
		if q.active.Len() > 0 {
			item := heap.Pop(q.active).(*Item)
			item.inFlight, item.missed, item.left = true, 0, nil
			item.Awaited = q.forgo(item)
			q.flying[item] = struct{}{}
			item.Attempts++
			q.mu.Unlock()
			return item, nil
		}
		var timer <-chan time.Time
		if q.later.Len() > 0 { // early is empty
			timer = q.clock.After(q.later.items[0].due.Sub(now))
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-q.wake:
		case <-timer:
		}
	}
}

// Gone says that a popped pod was deleted since.
func (q *Queue) Gone(item *Item) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return item.gone
}

// Done says that a popped pod needs no node any more: bound, or gone.
func (q *Queue) Done(item *Item) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.flying, item)
	delete(q.items, item.Pod.UID)
}

// Park says that a popped pod did not fit; with nobody having refused it, that
// the try failed for another reason and is to be repeated after a back-off. While
// it awaits others that were asked to leave for it, what else leaves a node is no
// reason to try it before its back-off is over, or all who wait would be tried
// whenever one pod is gone.
func (q *Queue) Park(item *Item, refusedBy []framework.FilterPlugin, awaits []types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	item.inFlight = false
	delete(q.flying, item)
	if item.newer != nil {
		item.Pod, item.newer = item.newer, nil
	}
	if item.gone {
		delete(q.items, item.Pod.UID)
		return
	}
	if len(item.Pod.Spec.SchedulingGates) > 0 {
		return
	}
	now := q.clock.Now()
	item.readyAt = now.Add(min(firstBackoff<<min(item.Attempts-1, 8), lastBackoff))
	item.due = item.readyAt
	item.refusedBy = refusedBy
	var kinds framework.EventKind
	for _, plugin := range refusedBy {
		kinds |= plugin.Events()
	}
	q.await(item, awaits)
	missed := item.missed & kinds
	switch {
	case kinds == 0:
		metrics.Incoming(backoffQueue, attemptFailed)
		heap.Push(q.later, item)
	case missed == 0:
		metrics.Incoming(unschedulableQueue, attemptFailed)
		item.due = now.Add(parkedLimit)
		item.parked = kinds
		if q.parked[kinds] == nil {
			q.parked[kinds] = map[*Item]struct{}{}
		}
		q.parked[kinds][item] = struct{}{}
		heap.Push(q.later, item)
	case missed == framework.PodRemoved && len(item.awaits) > 0:
		metrics.Incoming(backoffQueue, attemptFailed)
		heap.Push(q.later, item)
	default:
		metrics.Incoming(backoffQueue, attemptFailed)
		heap.Push(q.early, item)
	}
	q.notify()
}

// await notes whom the item awaits of those that have not left meanwhile.
func (q *Queue) await(item *Item, pods []types.UID) {
	for _, uid := range pods {
		if _, left := item.left[uid]; left {
			continue
		}
		if item.awaits == nil {
			item.awaits = map[types.UID]struct{}{}
		}
		item.awaits[uid] = struct{}{}
		q.awaited[uid] = item
	}
}

// forgo ends an item's waiting for other pods, and tells for which.
func (q *Queue) forgo(item *Item) (pods []types.UID) {
	for uid := range item.awaits {
		pods = append(pods, uid)
		if q.awaited[uid] == item {
			delete(q.awaited, uid)
		}
	}
	item.awaits = nil
	return pods
}

// Left says that a pod is gone from its node. Who awaited it, and nobody else, is
// tried as soon as nobody else is to be.
func (q *Queue) Left(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for item := range q.flying {
		if item.left == nil {
			item.left = map[types.UID]struct{}{}
		}
		item.left[uid] = struct{}{}
	}
	item := q.awaited[uid]
	if item == nil {
		return
	}
	delete(q.awaited, uid)
	if delete(item.awaits, uid); len(item.awaits) > 0 || item.pile != q.later {
		return
	}
	if !q.clock.Now().Before(item.readyAt) {
		q.activate(item, framework.PodRemoved.String())
		return
	}
	q.take(item)
	item.due = item.readyAt
	heap.Push(q.early, item)
	q.notify()
}

// Notify tells of an event in the cluster: pods that it could help are tried
// again once their back-off is over.
func (q *Queue) Notify(event framework.Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for item := range q.flying {
		item.missed |= event.Kind
	}
	now := q.clock.Now()
	for kinds, items := range q.parked {
		if kinds&event.Kind == 0 {
			continue
		}
		for item := range items {
			if !helps(item, event) {
				continue
			}
			if !now.Before(item.readyAt) {
				q.activate(item, event.Kind.String())
				continue
			}
			metrics.Incoming(backoffQueue, event.Kind.String())
			q.take(item)
			item.due = item.readyAt
			if event.Kind == framework.PodRemoved && len(item.awaits) > 0 {
				heap.Push(q.later, item)
			} else {
				heap.Push(q.early, item)
			}
			q.notify()
		}
	}
}

// Len is how many pods wait, in all places.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// Counts is how many pods wait in each place, by the names of metrics.
func (q *Queue) Counts() map[string]int {
	q.mu.Lock()
	defer q.mu.Unlock()
	parked := 0
	for _, items := range q.parked {
		parked += len(items)
	}
	return map[string]int{
		activeQueue: q.active.Len(), backoffQueue: q.early.Len() + q.later.Len() - parked, unschedulableQueue: parked,
		gatedQueue: len(q.items) - q.active.Len() - q.early.Len() - q.later.Len() - len(q.flying),
	}
}

func helps(item *Item, event framework.Event) bool {
	for _, plugin := range item.refusedBy {
		if plugin.Events()&event.Kind != 0 && plugin.Helps(event, item.Pod) {
			return true
		}
	}
	return false
}

func (q *Queue) activate(item *Item, event string) {
	q.take(item)
	if item.Since.IsZero() {
		item.Since = q.clock.Now()
	}
	metrics.Incoming(activeQueue, event)
	heap.Push(q.active, item)
	q.notify()
}

// take takes the item from wherever it waits.
func (q *Queue) take(item *Item) {
	if item.pile != nil {
		heap.Remove(item.pile, item.index)
	}
	q.unpark(item)
}

func (q *Queue) unpark(item *Item) {
	if item.parked == 0 {
		return
	}
	if delete(q.parked[item.parked], item); len(q.parked[item.parked]) == 0 {
		delete(q.parked, item.parked)
	}
	item.parked = 0
}

func (q *Queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// sameForScheduling says that nothing changed that could make a pod fit.
func sameForScheduling(a, b *v1.Pod) bool {
	return a.Generation == b.Generation && maps.Equal(a.Labels, b.Labels) &&
		len(a.Spec.SchedulingGates) == len(b.Spec.SchedulingGates) && len(a.Spec.Tolerations) == len(b.Spec.Tolerations)
}

// pile is items as container/heap wants them.
type pile struct {
	items []*Item
	less  func(a, b *Item) bool
}

func (p *pile) Len() int           { return len(p.items) }
func (p *pile) Less(i, j int) bool { return p.less(p.items[i], p.items[j]) }
func (p *pile) Swap(i, j int) {
	p.items[i], p.items[j] = p.items[j], p.items[i]
	p.items[i].index, p.items[j].index = i, j
}
func (p *pile) Push(x any) {
	item := x.(*Item)
	item.pile, item.index = p, len(p.items)
	p.items = append(p.items, item)
}
func (p *pile) Pop() any {
	last := len(p.items) - 1
	item := p.items[last]
	p.items[last] = nil
	p.items = p.items[:last]
	item.pile = nil
	return item
}
