package scheduler

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/flowcontrol"
)

// These bound events of one reason, in each second and at once. Upstream's
// scheduler gets by with as many requests of every kind, in its defaults. What
// goes beyond is dropped: a pod's status says the same, and an event costs as
// much as the binding that it tells of.
const (
	eventRate  = 50
	eventBurst = 200
)

// thrifty records events within a budget for each reason, so that the many pods
// that were placed do not hide the few that were not. It is safe for concurrent
// use.
type thrifty struct {
	recorder events.EventRecorder
	budgets  sync.Map // of flowcontrol.PassiveRateLimiter by reason
}

// Eventf implements events.EventRecorder.
func (t *thrifty) Eventf(regarding, related runtime.Object, kind, reason, action, note string, args ...any) {
	budget, known := t.budgets.Load(reason)
	if !known {
		budget, _ = t.budgets.LoadOrStore(reason, flowcontrol.NewTokenBucketPassiveRateLimiter(eventRate, eventBurst))
	}
	if budget.(flowcontrol.PassiveRateLimiter).TryAccept() {
		t.recorder.Eventf(regarding, related, kind, reason, action, note, args...)
	}
}
