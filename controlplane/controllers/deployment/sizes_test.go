package deployment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

func rolling(replicas int32, surge, unavailable intstr.IntOrString) *appsv1.Deployment {
	return &appsv1.Deployment{Spec: appsv1.DeploymentSpec{
		Replicas: &replicas,
		Strategy: appsv1.DeploymentStrategy{
			Type:          appsv1.RollingUpdateDeploymentStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
		},
	}}
}

func set(name string, age int, size, available int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9-int64(age), 0))},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &size},
		Status:     appsv1.ReplicaSetStatus{Replicas: size, AvailableReplicas: available},
	}
}

func TestLimits(t *testing.T) {
	percent, number := intstr.FromString, intstr.FromInt32
	for _, test := range []struct {
		replicas           int32
		surge, unavailable intstr.IntOrString
		want               limits
	}{
		{10, percent("25%"), percent("25%"), limits{3, 2}},
		{1, percent("25%"), percent("25%"), limits{1, 0}},
		{3, number(0), number(0), limits{0, 1}},
		{3, number(0), percent("10%"), limits{0, 1}},
		{2, number(1), number(5), limits{1, 2}},
		{0, percent("25%"), percent("25%"), limits{0, 0}},
	} {
		if got := limitsOf(rolling(test.replicas, test.surge, test.unavailable)); got != test.want {
			t.Errorf("%d replicas, surge %s, unavailable %s: got %+v, want %+v", test.replicas, &test.surge, &test.unavailable, got, test.want)
		}
	}
	recreate := rolling(3, number(1), number(1))
	recreate.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	if got := limitsOf(recreate); got != (limits{}) {
		t.Errorf("recreate: got %+v", got)
	}
}

func TestOldSizes(t *testing.T) {
	for name, test := range map[string]struct {
		replicas, surge, unavailable int32
		newSize, newAvailable        int32
		olds                         [][2]int32 // size, available; oldest first
		want                         []int32
	}{
		"nothing to spare":                {10, 3, 2, 5, 0, [][2]int32{{8, 8}}, []int32{8}},
		"a failed old pod is no spare":    {10, 3, 2, 5, 0, [][2]int32{{8, 7}}, []int32{8}},
		"new pods replace old ones":       {10, 3, 2, 5, 5, [][2]int32{{8, 8}}, []int32{3}},
		"unhealthy ones first":            {10, 0, 2, 0, 0, [][2]int32{{5, 5}, {5, 3}}, []int32{5, 3}},
		"rollover frees what never ran":   {10, 3, 2, 0, 0, [][2]int32{{8, 8}, {5, 0}}, []int32{8, 0}},
		"oldest first":                    {10, 0, 4, 0, 0, [][2]int32{{5, 5}, {5, 5}}, []int32{1, 5}},
		"a whole new set lets all old go": {3, 1, 1, 3, 3, [][2]int32{{1, 1}}, []int32{0}},
	} {
		t.Run(name, func(t *testing.T) {
			d := rolling(test.replicas, intstr.FromInt32(test.surge), intstr.FromInt32(test.unavailable))
			var olds []*appsv1.ReplicaSet
			for i, o := range test.olds {
				olds = append(olds, set(fmt.Sprint("old", i), 100-i, o[0], o[1]))
			}
			if got := oldSizes(d, set("new", 0, test.newSize, test.newAvailable), olds); !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// TestRollingNeverExceedsLimits rolls a deployment whose pods come and fail as
// they like, and checks after every step that it broke neither limit, and in
// the end that it arrives.
func TestRollingNeverExceedsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.Int32Range(0, 20).Draw(t, "replicas")
		value := rapid.Custom(func(t *rapid.T) intstr.IntOrString {
			if rapid.Bool().Draw(t, "percent") {
				return intstr.FromString(fmt.Sprintf("%d%%", rapid.IntRange(0, 100).Draw(t, "n")))
			}
			return intstr.FromInt32(rapid.Int32Range(0, 8).Draw(t, "n"))
		})
		d := rolling(replicas, value.Draw(t, "surge"), value.Draw(t, "unavailable"))
		l := limitsOf(d)
		newSet := set("new", 0, 0, 0)
		olds := []*appsv1.ReplicaSet{}
		room := replicas
		for i := range rapid.IntRange(1, 3).Draw(t, "olds") {
			size := rapid.Int32Range(0, room).Draw(t, "size")
			room -= size
			olds = append(olds, set(fmt.Sprint("old", i), 10-i, size, rapid.Int32Range(0, size).Draw(t, "available")))
		}
		all := func() []*appsv1.ReplicaSet { return append(slices.Clone(olds), newSet) }
		// The replica set deletes what is not available first.
		resize := func(rs *appsv1.ReplicaSet, size int32) {
			rs.Spec.Replicas = &size
			rs.Status.AvailableReplicas = min(rs.Status.AvailableReplicas, size)
		}
		step := func() bool {
			before, floor := available(all()), replicas-l.unavailable
			if size := newSize(d, *newSet.Spec.Replicas, total(olds)); size != *newSet.Spec.Replicas {
				if size < *newSet.Spec.Replicas {
					t.Fatalf("the new set shrank from %d to %d", *newSet.Spec.Replicas, size)
				}
				resize(newSet, size)
				if n := total(all()); n > replicas+l.surge {
					t.Fatalf("%d pods, at most %d+%d allowed", n, replicas, l.surge)
				}
				return true
			}
			moved := false
			for i, size := range oldSizes(d, newSet, olds) {
				if size < 0 || size > *olds[i].Spec.Replicas {
					t.Fatalf("old set sized %d from %d", size, *olds[i].Spec.Replicas)
				}
				moved = moved || size != *olds[i].Spec.Replicas
				resize(olds[i], size)
			}
			if after := available(all()); after < before && after < floor {
				t.Fatalf("scaling took availability from %d to %d, below %d", before, after, floor)
			}
			return moved
		}
		for range rapid.IntRange(0, 40).Draw(t, "events") {
			rs := rapid.SampledFrom(all()).Draw(t, "set")
			rs.Status.AvailableReplicas = rapid.Int32Range(0, *rs.Spec.Replicas).Draw(t, "available")
			step()
		}
		// Once all pods come up, the rollout ends.
		for i := 0; ; i++ {
			for _, rs := range all() {
				rs.Status.AvailableReplicas = *rs.Spec.Replicas
			}
			if !step() {
				break
			}
			if i > 200 {
				t.Fatal("the rollout never ends")
			}
		}
		if *newSet.Spec.Replicas != replicas || total(olds) != 0 {
			t.Fatalf("ended with %d new and %d old of %d", *newSet.Spec.Replicas, total(olds), replicas)
		}
	})
}

func TestProportional(t *testing.T) {
	sized := func(name string, age int, size, before int32) *appsv1.ReplicaSet {
		rs := set(name, age, size, size)
		rs.Annotations = map[string]string{maxAnnotation: fmt.Sprint(before)}
		return rs
	}
	zero := intstr.FromInt32(0)
	one := intstr.FromInt32(1)
	for name, test := range map[string]struct {
		replicas int32
		sets     []*appsv1.ReplicaSet
		want     map[string]int32
	}{
		"grows in proportion":          {20, []*appsv1.ReplicaSet{sized("a", 2, 8, 10), sized("b", 1, 2, 10)}, map[string]int32{"a": 16, "b": 4}},
		"shrinks in proportion":        {5, []*appsv1.ReplicaSet{sized("a", 2, 8, 10), sized("b", 1, 2, 10)}, map[string]int32{"a": 4, "b": 1}},
		"to nothing":                   {0, []*appsv1.ReplicaSet{sized("a", 2, 3, 6), sized("b", 1, 3, 6)}, map[string]int32{"a": 0, "b": 0}},
		"of equals the newest grows":   {7, []*appsv1.ReplicaSet{sized("a", 2, 3, 6), sized("b", 1, 3, 6)}, map[string]int32{"a": 3, "b": 4}},
		"of equals the oldest shrinks": {5, []*appsv1.ReplicaSet{sized("a", 2, 3, 6), sized("b", 1, 3, 6)}, map[string]int32{"a": 2, "b": 3}},
	} {
		t.Run(name, func(t *testing.T) {
			d := rolling(test.replicas, zero, one)
			got := proportional(d, test.sets)
			for name, want := range test.want {
				if got[name] != want {
					t.Errorf("got %v, want %v", got, test.want)
					break
				}
			}
		})
	}
}

func TestProportionalKeepsTheTotal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		replicas := rapid.Int32Range(0, 50).Draw(t, "replicas")
		surge := rapid.Int32Range(1, 10).Draw(t, "surge")
		d := rolling(replicas, intstr.FromInt32(surge), intstr.FromInt32(0))
		var active []*appsv1.ReplicaSet
		sum := int32(0)
		for i := range rapid.IntRange(2, 5).Draw(t, "sets") {
			rs := set(fmt.Sprint("s", i), i, rapid.Int32Range(1, 20).Draw(t, "size"), 0)
			sum += *rs.Spec.Replicas
			active = append(active, rs)
		}
		for _, rs := range active {
			rs.Annotations = map[string]string{maxAnnotation: fmt.Sprint(sum)}
		}
		got := int32(0)
		for name, size := range proportional(d, active) {
			if size < 0 {
				t.Fatalf("%s sized %d", name, size)
			}
			got += size
		}
		want := int32(0)
		if replicas > 0 {
			want = replicas + surge
		}
		if got != want {
			t.Fatalf("sizes sum to %d, want %d", got, want)
		}
	})
}

// What a replica set is still to remove takes room, and so may one whose
// controller does not know its size yet.
func TestPodsToRemoveTakeRoom(t *testing.T) {
	removing := func(rs *appsv1.ReplicaSet, pods int32) *appsv1.ReplicaSet {
		rs.Status.Replicas = pods
		return rs
	}
	unknown := func(rs *appsv1.ReplicaSet) *appsv1.ReplicaSet {
		rs.Generation, rs.Status.ObservedGeneration = 2, 1
		return rs
	}
	for name, test := range map[string]struct {
		replicas, surge int32
		old, new        *appsv1.ReplicaSet
		size            int32 // of the new set, as a rollout goes on
		resized         map[string]int32
		room            bool // for resized
	}{
		"all removed":      {4, 1, set("old", 9, 3, 3), set("new", 0, 1, 1), 2, map[string]int32{"new": 2}, true},
		"one to remove":    {4, 1, removing(set("old", 9, 3, 3), 4), set("new", 0, 1, 1), 1, map[string]int32{"new": 2}, false},
		"not known yet":    {4, 1, unknown(set("old", 9, 3, 3)), set("new", 0, 1, 1), 1, map[string]int32{"new": 2}, false},
		"smaller at once":  {2, 1, unknown(set("old", 9, 3, 3)), set("new", 0, 3, 3), 2, map[string]int32{"old": 1, "new": 2}, true},
		"its own pods":     {4, 0, set("old", 9, 0, 0), removing(set("new", 0, 2, 2), 4), 4, map[string]int32{"new": 4}, true},
		"more than wanted": {4, 0, removing(set("old", 9, 0, 0), 1), set("new", 0, 2, 2), 3, map[string]int32{"new": 4}, false},
	} {
		r := &rollout{d: rolling(test.replicas, intstr.FromInt32(test.surge), intstr.FromInt32(1)), newSet: test.new, olds: []*appsv1.ReplicaSet{test.old}}
		if size := r.newSetSize(*test.new.Spec.Replicas); size != test.size {
			t.Errorf("%s: the new set may take %d, want %d", name, size, test.size)
		}
		if room := r.roomFor(test.resized); room != test.room {
			t.Errorf("%s: room for %v: %t", name, test.resized, room)
		}
	}
}
