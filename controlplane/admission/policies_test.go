package admission

import (
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	listers "k8s.io/client-go/listers/admissionregistration/v1"
	"k8s.io/client-go/openapi"
	"k8s.io/client-go/tools/cache"
)

// manyDocuments has one more document each time it is asked.
type manyDocuments struct{ asked int }

func (m *manyDocuments) Paths() (map[string]openapi.GroupVersion, error) {
	m.asked++
	paths := map[string]openapi.GroupVersion{}
	for i := range m.asked {
		paths[string(rune('a'+i))] = nil
	}
	return paths, nil
}

// The first object that a policy changes may come before the next list, so that
// there has to be one from the start; and a new one only where policies are.
func TestPolicyDocuments(t *testing.T) {
	policies := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	source := &manyDocuments{}
	documents := &policyDocuments{Client: source, policies: listers.NewMutatingAdmissionPolicyLister(policies)}
	paths := func(want int) {
		t.Helper()
		got, err := documents.Paths()
		if err != nil || len(got) != want {
			t.Errorf("%d documents (%v), want %d", len(got), err, want)
		}
	}
	paths(1)
	paths(1)
	if err := policies.Add(&admissionregistrationv1.MutatingAdmissionPolicy{}); err != nil {
		t.Fatal(err)
	}
	paths(2)
	paths(3)
}
