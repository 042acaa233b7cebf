package deployment

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/utils/ptr"
)

func TestTerminatingPodsAreUnknownUntilAllCount(t *testing.T) {
	rs := func(generation int64, terminating *int32) *appsv1.ReplicaSet {
		return &appsv1.ReplicaSet{Status: appsv1.ReplicaSetStatus{ObservedGeneration: generation, TerminatingReplicas: terminating}}
	}
	for name, test := range map[string]struct {
		sets []*appsv1.ReplicaSet
		want *int32
	}{
		"no set":           {nil, ptr.To[int32](0)},
		"all count":        {[]*appsv1.ReplicaSet{rs(1, ptr.To[int32](2)), rs(2, ptr.To[int32](1))}, ptr.To[int32](3)},
		"one is new":       {[]*appsv1.ReplicaSet{rs(1, ptr.To[int32](2)), rs(0, nil)}, ptr.To[int32](2)},
		"one never counts": {[]*appsv1.ReplicaSet{rs(1, ptr.To[int32](2)), rs(1, nil)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := terminating(test.sets); !ptr.Equal(got, test.want) {
				t.Errorf("got %v", ptr.Deref(got, -1))
			}
		})
	}
}
