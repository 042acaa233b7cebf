package scheduler

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
)

func TestEventsKeepToABudgetForEachReason(t *testing.T) {
	fake := events.NewFakeRecorder(10 * eventBurst)
	recorder := &thrifty{recorder: fake}
	for range 5 * eventBurst {
		recorder.Eventf(&v1.Pod{}, nil, v1.EventTypeNormal, "Scheduled", "Binding", "assigned")
	}
	// A slow machine lets the budget grow meanwhile.
	if got := len(fake.Events); got < eventBurst || got >= 5*eventBurst {
		t.Errorf("%d events of %d, want %d and few more", got, 5*eventBurst, eventBurst)
	}
	before := len(fake.Events)
	recorder.Eventf(&v1.Pod{}, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "no room")
	if len(fake.Events) != before+1 {
		t.Error("an event of another reason was dropped")
	}
}
