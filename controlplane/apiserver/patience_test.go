package apiserver

import (
	"context"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func TestPatienceWaitsForTheFirstSync(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	p := newPatience(factory)

	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if decision, _, err := p.Authorize(short, nil); decision != authorizer.DecisionNoOpinion || err != nil {
		t.Fatalf("decided %v, %v; want no opinion", decision, err)
	}
	if short.Err() == nil {
		t.Error("did not wait, though nothing is synced")
	}

	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	if _, _, err := p.Authorize(t.Context(), nil); err != nil || !p.over.Load() {
		t.Errorf("still waiting after the sync: %v", err)
	}
}
