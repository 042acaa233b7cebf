package pods

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/eviction"
)

// ledger keeps how much of the host each pod has been granted, and which pods
// wait for more. Only one pod is judged at a time, so that two never take the
// same room. Safe for concurrent use.
type ledger struct {
	node func() *v1.Node // nil before it is known: then everything fits
	wake func(types.UID) // the fate of the pod's wish has changed

	refuse  func(*v1.Pod) (reason, message string)   // for more reasons than room; nil: never
	preempt func(pod *v1.Pod, short v1.ResourceName) // ends a pod; nil: none ends for another
	changed chan struct{}                            // told when anybody's room has changed

	mu      sync.Mutex
	entries map[types.UID]*entry
	order   int // of wishes
}

type entry struct {
	room            *v1.Pod // as granted
	wish            *v1.Pod // as the pod wants to be; nil if it wants nothing more
	since           int     // order of the wish
	reason, message string  // why the wish does not come true
	leaving         bool    // the API has the pod no more: others may have its room
	preempted       bool    // it ends in order to make room
	held            bool    // it has to wait until those that make room for it are gone
}

func newLedger(node func() *v1.Node, wake func(types.UID)) *ledger {
	return &ledger{node: node, wake: wake, changed: make(chan struct{}, 1), entries: map[types.UID]*entry{}}
}

func (l *ledger) tell() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// rooms are what all pods have been granted, those too that are leaving.
func (l *ledger) rooms() []*v1.Pod {
	l.mu.Lock()
	defer l.mu.Unlock()
	rooms := make([]*v1.Pod, 0, len(l.entries))
	for _, e := range l.entries {
		rooms = append(rooms, e.room)
	}
	return rooms
}

// leave lets others have the room of a pod that the API has no more, though it
// may take a while to stop: the scheduler counts it no longer either.
func (l *ledger) leave(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[uid]; e != nil {
		e.leaving, e.wish = true, nil
		l.settle("")
	}
}

// grant notes what the pod has without asking: it has been admitted before.
func (l *ledger) grant(pod *v1.Pod) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries[pod.UID] == nil {
		l.entries[pod.UID] = &entry{room: pod}
		l.tell()
	}
}

// admit grants the pod its room, or says why it cannot run here. A critical pod may
// have to wait until others have made room for it.
func (l *ledger) admit(pod *v1.Pod) (reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil {
		reason, message = l.refuse(pod)
	}
	held := false
	if node := l.node(); node != nil && reason == "" {
		if reason, message = Admit(node, l.others(pod.UID), pod); reason != "" && l.preempt != nil && eviction.Critical(pod) {
			held, reason, message = l.makeRoom(node, pod)
		}
	}
	if reason != "" {
		delete(l.entries, pod.UID)
		return reason, message
	}
	l.entries[pod.UID] = &entry{room: pod, held: held}
	l.tell()
	return "", ""
}

// makeRoom has others end for a critical pod where only room is lacking. l.mu is
// held.
func (l *ledger) makeRoom(node *v1.Node, pod *v1.Pod) (held bool, reason, message string) {
	if reason, message = suits(node, l.others(pod.UID), pod); reason != "" {
		return false, reason, message
	}
	var staying []*v1.Pod
	for uid, e := range l.entries {
		if uid != pod.UID && !e.leaving && !e.preempted {
			staying = append(staying, e.room)
		}
	}
	short := shortages(node, staying, pod)
	chosen, err := victims(pod, staying, short)
	if err != nil {
		return false, "UnexpectedAdmissionError",
			fmt.Sprintf("Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: %v", err)
	}
	for _, victim := range chosen {
		l.entries[victim.UID].preempted = true
		go l.preempt(victim, short[0].name)
	}
	return true, "", ""
}

// waits says that the pod was let in, but has to wait for others to be gone.
func (l *ledger) waits(uid types.UID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[uid]
	if e == nil || !e.held {
		return false
	}
	if node := l.node(); node == nil || len(shortages(node, l.others(uid), e.room)) == 0 {
		e.held = false
	}
	return e.held
}

// release gives the pod's room back.
func (l *ledger) release(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries[uid] == nil {
		return
	}
	delete(l.entries, uid)
	l.tell()
	l.settle("")
}

// resize asks for what the pod wants now. It says whether the pod has it, and
// why not; when that changes, the pod is woken.
func (l *ledger) resize(pod *v1.Pod) (granted bool, reason, message string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[pod.UID]
	if e == nil || e.leaving {
		return false, "", ""
	}
	wants := resourcesOf(pod)
	if wants.equal(resourcesOf(e.room)) {
		e.wish = nil
		return true, "", ""
	}
	if e.wish == nil {
		l.order++
		e.since = l.order
	}
	if e.wish == nil || !wants.equal(resourcesOf(e.wish)) {
		e.wish = pod
		l.settle(pod.UID)
	}
	return e.wish == nil, e.reason, e.message
}

// keep drops the pod's wish: it has all that it wants.
func (l *ledger) keep(uid types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[uid]; e != nil {
		e.wish = nil
	}
}

// settle judges every wish, the foremost first. Everybody whose fate changes
// is woken, save asking. l.mu is held.
func (l *ledger) settle(asking types.UID) {
	var waiting []*entry
	for uid, e := range l.entries {
		if e.held {
			l.wake(uid)
		}
		if e.wish != nil {
			waiting = append(waiting, e)
		}
	}
	slices.SortFunc(waiting, precedence)
	for _, e := range waiting {
		uid, reason, message := e.wish.UID, "", ""
		if node := l.node(); node != nil {
			reason, message = Admit(node, l.others(uid), e.wish)
		}
		changed := reason == "" || reason != e.reason || message != e.message
		e.reason, e.message = reason, message
		if reason == "" {
			e.room, e.wish = e.wish, nil
			l.tell()
		}
		if changed && uid != asking {
			l.wake(uid)
		}
	}
}

// others are the rooms that are taken, without that of uid.
func (l *ledger) others(uid types.UID) []*v1.Pod {
	others := make([]*v1.Pod, 0, len(l.entries))
	for other, e := range l.entries {
		if other != uid && !e.leaving {
			others = append(others, e.room)
		}
	}
	return others
}

// precedence orders wishes: those that ask for no more than they have, then
// by priority, then guaranteed pods, then those that have waited longest.
func precedence(a, b *entry) int {
	rank := func(e *entry) (int, int32, int) {
		more, priority, class := 0, int32(0), 1
		if e.increases() {
			more = 1
		}
		if p := e.wish.Spec.Priority; p != nil {
			priority = *p
		}
		if cgroups.QOS(e.wish) == v1.PodQOSGuaranteed {
			class = 0
		}
		return more, priority, class
	}
	aMore, aPriority, aClass := rank(a)
	bMore, bPriority, bClass := rank(b)
	return cmp.Or(cmp.Compare(aMore, bMore), cmp.Compare(bPriority, aPriority),
		cmp.Compare(aClass, bClass), cmp.Compare(a.since, b.since))
}

func (e *entry) increases() bool {
	has := resourcehelper.PodRequests(e.room, resourcehelper.PodResourcesOptions{})
	wants := resourcehelper.PodRequests(e.wish, resourcehelper.PodResourcesOptions{})
	return wants.Cpu().Cmp(*has.Cpu()) > 0 || wants.Memory().Cmp(*has.Memory()) > 0
}
