package reconcile

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// expectationLife bounds how long a lost watch event can hold a key up.
const expectationLife = 5 * time.Minute

// Expectations remembers, for each key, the creations and deletions that its
// controller has asked for and its informer has not shown. While there are any,
// counting the informer's objects gives the wrong answer, and the controller
// must create and delete nothing. The zero value is ready; it is safe for
// concurrent use.
type Expectations struct {
	mu     sync.Mutex
	byKey  map[string]*expectation
	expire time.Duration // for tests; expectationLife if zero
}

type expectation struct {
	creations int
	deletions sets.Set[types.UID]
	since     time.Time
}

func (e *Expectations) update(key string, f func(*expectation)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byKey == nil {
		e.byKey = map[string]*expectation{}
	}
	x := e.byKey[key]
	if x == nil {
		x = &expectation{deletions: sets.New[types.UID]()}
		e.byKey[key] = x
	}
	f(x)
}

// ExpectCreations is called before n creations are sent.
func (e *Expectations) ExpectCreations(key string, n int) {
	e.update(key, func(x *expectation) { x.creations += n; x.since = time.Now() })
}

// ExpectDeletion is called before the deletion of uid is sent.
func (e *Expectations) ExpectDeletion(key string, uid types.UID) {
	e.update(key, func(x *expectation) { x.deletions.Insert(uid); x.since = time.Now() })
}

// Created is called when a creation is seen, and for each that failed.
func (e *Expectations) Created(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byKey[key]; x != nil && x.creations > 0 {
		x.creations--
	}
}

// Deleted is called when uid is seen to go, and when its deletion failed.
func (e *Expectations) Deleted(key string, uid types.UID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if x := e.byKey[key]; x != nil {
		x.deletions.Delete(uid)
	}
}

// Met reports whether the informer shows everything that was done for key, or
// has had so long for it that it never will.
func (e *Expectations) Met(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	x := e.byKey[key]
	if x == nil || x.creations == 0 && x.deletions.Len() == 0 {
		return true
	}
	life := e.expire
	if life == 0 {
		life = expectationLife
	}
	if time.Since(x.since) < life {
		return false
	}
	delete(e.byKey, key)
	return true
}

// Forget drops a key whose object is gone.
func (e *Expectations) Forget(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.byKey, key)
}
