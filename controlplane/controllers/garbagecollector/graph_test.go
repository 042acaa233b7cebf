package garbagecollector

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

func refs(owners ...types.UID) []metav1.OwnerReference {
	var result []metav1.OwnerReference
	for _, uid := range owners {
		yes := true
		result = append(result, metav1.OwnerReference{UID: uid, Kind: "Pod", APIVersion: "v1", Name: string(uid), BlockOwnerDeletion: &yes})
	}
	return result
}

func wakes(t *testing.T, what string, got []types.UID, want ...types.UID) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%s wakes %v, want %v", what, got, want)
	}
}

func TestGraphWakes(t *testing.T) {
	g := newGraph()
	wakes(t, "an object without owners", g.observe(node{uid: "owner"}))
	wakes(t, "a new dependent", g.observe(node{uid: "dep", owners: refs("owner")}), "dep")
	wakes(t, "no change", g.observe(node{uid: "dep", owners: refs("owner")}))
	wakes(t, "a dependent seen before its owner", g.observe(node{uid: "early", owners: refs("late")}), "early")
	wakes(t, "a foreground deletion", g.observe(node{uid: "owner", deleting: true, foreground: true}), "owner", "dep")
	wakes(t, "an end of blocking", g.observe(node{uid: "dep", owners: []metav1.OwnerReference{{UID: "owner"}}}), "dep", "owner")
	wakes(t, "a dependent that goes", g.remove("dep"), "owner")
	wakes(t, "an owner that goes and was never seen", g.remove("late"))
	wakes(t, "a late owner", g.observe(node{uid: "late"}))
	wakes(t, "a late owner that goes", g.remove("late"), "early")
	wakes(t, "an orphaning deletion", g.observe(node{uid: "o", deleting: true, orphan: true}), "o")

	r := schema.GroupVersionResource{Resource: "widgets"}
	g.observe(node{uid: "w1", resource: r})
	g.observe(node{uid: "of-w1", owners: refs("w1")})
	wakes(t, "a resource that goes", g.removeResource(r), "of-w1")
	if _, ok := g.get("w1"); ok {
		t.Error("objects of a resource that is gone are still known")
	}
}

// TestGraphMatchesObjects feeds random events and compares with a plain list.
func TestGraphMatchesObjects(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGraph()
		plain := map[types.UID][]metav1.OwnerReference{}
		uid := rapid.SampledFrom([]types.UID{"a", "b", "c", "d", "e"})
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			id := uid.Draw(t, "uid")
			if rapid.Bool().Draw(t, "remove") {
				g.remove(id)
				delete(plain, id)
				continue
			}
			owners := refs(rapid.SliceOfNDistinct(uid, 0, 3, rapid.ID).Draw(t, "owners")...)
			g.observe(node{uid: id, owners: owners})
			plain[id] = owners
		}
		if g.size() != len(plain) {
			t.Fatalf("%d nodes, want %d", g.size(), len(plain))
		}
		for _, owner := range []types.UID{"a", "b", "c", "d", "e"} {
			var got, want []types.UID
			for _, n := range g.dependentsOf(owner) {
				got = append(got, n.uid)
			}
			for id, owners := range plain {
				if slices.ContainsFunc(owners, func(r metav1.OwnerReference) bool { return r.UID == owner }) {
					want = append(want, id)
				}
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Fatalf("dependents of %s: %v, want %v", owner, got, want)
			}
		}
	})
}

func TestDecide(t *testing.T) {
	waits := node{uid: "x", deleting: true, foreground: true}
	for name, test := range map[string]struct {
		states     []ownerState
		dependents []node
		want       action
	}{
		"no owners":                   {nil, nil, action{}},
		"a solid owner":               {[]ownerState{solid}, nil, action{}},
		"absent beside solid":         {[]ownerState{solid, absent}, nil, action{drop: []types.UID{"o1"}}},
		"waiting beside solid":        {[]ownerState{waiting, solid}, nil, action{drop: []types.UID{"o0"}}},
		"all absent":                  {[]ownerState{absent, absent}, nil, action{remove: true}},
		"owner waits":                 {[]ownerState{waiting}, nil, action{remove: true}},
		"owner waits, has dependents": {[]ownerState{waiting}, []node{{uid: "x"}}, action{remove: true, policy: metav1.DeletePropagationForeground}},
		"owner waits, circle":         {[]ownerState{waiting}, []node{waits}, action{remove: true, unblock: true, policy: metav1.DeletePropagationForeground}},
		"all absent, with dependents": {[]ownerState{absent}, []node{{uid: "x"}}, action{remove: true}},
	} {
		t.Run(name, func(t *testing.T) {
			n := node{uid: "n", owners: refs("o0", "o1", "o2")[:len(test.states)]}
			got := decide(n, test.states, test.dependents)
			if got.remove != test.want.remove || got.unblock != test.want.unblock || got.policy != test.want.policy || !slices.Equal(got.drop, test.want.drop) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestKeptPolicy(t *testing.T) {
	for _, test := range []struct {
		finalizers []string
		want       metav1.DeletionPropagation
	}{
		{nil, metav1.DeletePropagationBackground},
		{[]string{"x", metav1.FinalizerOrphanDependents}, metav1.DeletePropagationOrphan},
		{[]string{metav1.FinalizerDeleteDependents}, metav1.DeletePropagationForeground},
	} {
		if got := keptPolicy(test.finalizers); got != test.want {
			t.Errorf("%v: got %s", test.finalizers, got)
		}
	}
}
