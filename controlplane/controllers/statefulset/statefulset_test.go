package statefulset

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
)

func testSet(replicas int32, policy appsv1.PodManagementPolicyType) *appsv1.StatefulSet {
	labels := map[string]string{"app": "db"}
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "ns", UID: "set", Generation: 1},
		Spec: appsv1.StatefulSetSpec{
			Replicas:             &replicas,
			RevisionHistoryLimit: ptr.To[int32](1),
			ServiceName:          "db",
			PodManagementPolicy:  policy,
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{
				Type:          appsv1.RollingUpdateStatefulSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](0)},
			},
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "db", Image: "db:1"}}},
			},
		},
	}
}

func testPod(ordinal int, revision string, ready bool) *corev1.Pod {
	name := fmt.Sprintf("db-%d", ordinal)
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: revision}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: status}}},
	}
}

func names(pods []*corev1.Pod) (result []string) {
	for _, p := range pods {
		result = append(result, p.Name)
	}
	return result
}

func TestDecide(t *testing.T) {
	ordered, parallel := appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement
	gone := testPod(2, "old", true)
	gone.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	failed := testPod(0, "new", false)
	failed.Status.Phase = corev1.PodFailed
	for name, test := range map[string]struct {
		replicas int32
		policy   appsv1.PodManagementPolicyType
		change   func(*appsv1.StatefulSet)
		pods     []*corev1.Pod
		create   []int
		remove   []string
	}{
		"the first alone":                 {3, ordered, nil, nil, []int{0}, nil},
		"all at once":                     {3, parallel, nil, nil, []int{0, 1, 2}, nil},
		"wait for the first":              {3, ordered, nil, []*corev1.Pod{testPod(0, "new", false)}, nil, nil},
		"the next":                        {3, ordered, nil, []*corev1.Pod{testPod(0, "new", true)}, []int{1}, nil},
		"a hole":                          {3, ordered, nil, []*corev1.Pod{testPod(0, "new", true), testPod(2, "new", true)}, []int{1}, nil},
		"replace what failed":             {1, ordered, nil, []*corev1.Pod{failed}, nil, []string{"db-0"}},
		"highest goes first":              {1, ordered, nil, []*corev1.Pod{testPod(0, "new", true), testPod(1, "new", true), testPod(2, "new", true)}, nil, []string{"db-2"}},
		"an unready one holds scale down": {1, ordered, nil, []*corev1.Pod{testPod(0, "new", false), testPod(1, "new", true)}, nil, nil},
		"all go at once":                  {1, parallel, nil, []*corev1.Pod{testPod(0, "new", true), testPod(1, "new", true), testPod(2, "new", true)}, nil, []string{"db-2", "db-1"}},
		"update from the top":             {3, ordered, nil, []*corev1.Pod{testPod(0, "old", true), testPod(1, "old", true), testPod(2, "old", true)}, nil, []string{"db-2"}},
		"one at a time":                   {3, parallel, nil, []*corev1.Pod{testPod(0, "old", true), testPod(1, "old", true), gone}, nil, nil},
		"partition": {3, ordered, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = ptr.To[int32](2) },
			[]*corev1.Pod{testPod(0, "old", true), testPod(1, "old", true), testPod(2, "new", true)}, nil, nil},
		"on delete": {1, ordered, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
		}, []*corev1.Pod{testPod(0, "old", true)}, nil, nil},
		"start ordinal": {2, parallel, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 3} },
			[]*corev1.Pod{testPod(2, "new", true)}, []int{3, 4}, []string{"db-2"}},
		"nothing for a deleted set": {2, parallel, func(s *appsv1.StatefulSet) { s.DeletionTimestamp = &metav1.Time{Time: time.Now()} }, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			set := testSet(test.replicas, test.policy)
			if test.change != nil {
				test.change(set)
			}
			d := decide(set, "new", test.pods, time.Now())
			if !slices.Equal(d.create, test.create) || !slices.Equal(names(d.remove), test.remove) {
				t.Errorf("create %v, remove %v; want %v, %v", d.create, names(d.remove), test.create, test.remove)
			}
		})
	}
}

// Whatever exists at first and whenever pods become ready: no ordinal exists
// twice, an update takes one pod at a time, an ordered set never starts a pod
// before the lower ones are ready, and all ends as wanted.
func TestRandomSetsConverge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		policy := rapid.SampledFrom([]appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement}).Draw(t, "policy")
		set := testSet(rapid.Int32Range(0, 5).Draw(t, "replicas"), policy)
		start := rapid.Int32Range(0, 2).Draw(t, "start")
		set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: start}
		pods := map[string]*corev1.Pod{}
		for i := range rapid.IntRange(0, 8).Draw(t, "pods") {
			if rapid.Bool().Draw(t, "exists") {
				p := testPod(i, rapid.SampledFrom([]string{"old", "new"}).Draw(t, "revision"), rapid.Bool().Draw(t, "ready"))
				pods[p.Name] = p
			}
		}
		list := func() (all []*corev1.Pod) {
			for i := range 20 {
				if p := pods[fmt.Sprintf("db-%d", i)]; p != nil {
					all = append(all, p)
				}
			}
			return all
		}
		wanted := func(p *corev1.Pod) bool {
			n, _ := ordinalOf("db", p)
			return n >= int(start) && n < int(start+*set.Spec.Replicas)
		}
		ready := func(p *corev1.Pod) bool { return p != nil && p.DeletionTimestamp == nil && running(p) }
		for round := range 200 {
			d := decide(set, "new", list(), time.Now())
			if policy == appsv1.OrderedReadyPodManagement && len(d.create)+len(d.remove) > 1 {
				t.Fatalf("an ordered set takes several steps: %v %v", d.create, names(d.remove))
			}
			updates := 0
			for _, p := range d.remove {
				if wanted(p) {
					updates++
				}
			}
			if updates > 1 {
				t.Fatalf("updates %v at once", names(d.remove))
			}
			for _, n := range d.create {
				name := fmt.Sprintf("db-%d", n)
				if pods[name] != nil {
					t.Fatalf("%s exists already", name)
				}
				for lower := int(start); lower < n && policy == appsv1.OrderedReadyPodManagement; lower++ {
					if !ready(pods[fmt.Sprintf("db-%d", lower)]) {
						t.Fatalf("%s starts before db-%d is ready", name, lower)
					}
				}
				pods[name] = testPod(n, "new", false)
			}
			for _, p := range d.remove {
				if p.DeletionTimestamp != nil {
					t.Fatalf("%s is deleted twice", p.Name)
				}
				marked := p.DeepCopy()
				marked.DeletionTimestamp = &metav1.Time{Time: time.Now()}
				pods[p.Name] = marked
			}
			for _, p := range list() {
				if round < 100 && !rapid.Bool().Draw(t, "moves") {
					continue // may wait for long, but not for ever
				}
				if p.DeletionTimestamp != nil {
					delete(pods, p.Name)
					continue
				}
				n, _ := ordinalOf("db", p)
				pods[p.Name] = testPod(n, p.Labels[appsv1.ControllerRevisionHashLabelKey], true)
			}
		}
		for _, p := range list() {
			if !wanted(p) || !ready(p) || p.Labels[appsv1.ControllerRevisionHashLabelKey] != "new" {
				t.Fatalf("%s is not what was wanted", p.Name)
			}
		}
		if len(pods) != int(*set.Spec.Replicas) {
			t.Fatalf("%d pods", len(pods))
		}
	})
}

func TestOrdinalOf(t *testing.T) {
	for name, want := range map[string]int{"db-0": 0, "db-12": 12, "db-01": -1, "db-": -1, "db": -1, "web-1": -1, "db-1-1": -1, "db--1": -1, "db-+1": -1} {
		got, ok := ordinalOf("db", &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}})
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %d, %v", name, got, ok)
		}
	}
}

func TestClaimOwners(t *testing.T) {
	keep, drop := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	pod := testPod(1, "new", true)
	for name, test := range map[string]struct {
		deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType
		condemned       *corev1.Pod
		want            string
	}{
		"kept":                 {keep, keep, pod, ""},
		"go with the set":      {drop, keep, pod, "set"},
		"go with the pod":      {keep, drop, pod, "db-1"},
		"not with a kept pod":  {keep, drop, nil, ""},
		"both, pod is kept":    {drop, drop, nil, "set"},
		"both, pod is leaving": {drop, drop, pod, "db-1"},
	} {
		t.Run(name, func(t *testing.T) {
			set := testSet(1, "")
			set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: test.deleted, WhenScaled: test.scaled}
			before := []metav1.OwnerReference{{UID: "other"}, {UID: "set"}, {APIVersion: "v1", Kind: "Pod", Name: "db-1", UID: "former"}}
			got, conflict := owners(set, before, "db-1", test.condemned)
			if conflict || got[0].UID != "other" || len(got) > 2 || (len(got) == 2) != (test.want != "") || test.want != "" && string(got[1].UID) != test.want {
				t.Errorf("owners %v, want %q", got, test.want)
			}
		})
	}
}

func TestClaimsOfOthersAreLeftToThem(t *testing.T) {
	keep, drop := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	other := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Backup", Name: "b", UID: "other", Controller: ptr.To(true)}
	ours := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "set"}
	former := metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "former", Controller: ptr.To(true)}
	neighbour := metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "db-2", UID: "neighbour"}
	type refs = []metav1.OwnerReference
	for name, test := range map[string]struct {
		deleted  appsv1.PersistentVolumeClaimRetentionPolicyType
		before   refs
		want     refs
		conflict bool
	}{
		"another controller":              {drop, refs{other, ours}, refs{other}, true},
		"another controller, no policy":   {keep, refs{other}, refs{other}, false},
		"a former set":                    {drop, refs{former}, refs{former}, false},
		"another pod, which controls not": {keep, refs{neighbour, ours}, refs{neighbour}, false},
	} {
		t.Run(name, func(t *testing.T) {
			set := testSet(1, "")
			set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: test.deleted, WhenScaled: keep}
			got, conflict := owners(set, test.before, "db-1", nil)
			if conflict != test.conflict || !equality.Semantic.DeepEqual(got, test.want) {
				t.Errorf("owners %v, conflict %v", got, conflict)
			}
		})
	}
}

func TestEveryPodsAvailabilityIsWaitedFor(t *testing.T) {
	set := testSet(2, appsv1.OrderedReadyPodManagement)
	set.Spec.MinReadySeconds = 60
	now := time.Unix(1e9, 0)
	late := testPod(1, "new", true)
	for i := range late.Status.Conditions {
		late.Status.Conditions[i].LastTransitionTime = metav1.NewTime(now.Add(-20 * time.Second))
	}
	// The first pod is missing, so that nothing is done about the second.
	if d := decide(set, "new", []*corev1.Pod{late}, now); d.wait != 40*time.Second || len(d.create) != 1 {
		t.Errorf("decision %+v", d)
	}
}

func TestRunsAndUpdates(t *testing.T) {
	set := testSet(2, appsv1.OrderedReadyPodManagement)
	set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	f := controllertest.New(t, set)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	// Every pod becomes ready as soon as it is there.
	settled := func(image string) func() bool {
		return func() bool {
			pods, err := f.Client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			done := len(pods.Items) == 2
			for _, p := range pods.Items {
				if !running(&p) {
					p.Status = testPod(0, "", true).Status
					if _, err := f.Client.CoreV1().Pods("ns").UpdateStatus(ctx, &p, metav1.UpdateOptions{}); err != nil {
						t.Log(err)
					}
				}
				done = done && p.Spec.Containers[0].Image == image && p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName == "data-"+p.Name
			}
			now, err := f.Client.AppsV1().StatefulSets("ns").Get(ctx, "db", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			s := now.Status
			return done && s.ReadyReplicas == 2 && s.UpdatedReplicas == 2 && s.CurrentReplicas == 2 && s.CurrentRevision == s.UpdateRevision
		}
	}
	controllertest.Eventually(t, "two pods", settled("db:1"))
	for _, image := range []string{"db:2", "db:3", "db:1"} {
		now, err := f.Client.AppsV1().StatefulSets("ns").Get(ctx, "db", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		now.Spec.Template.Spec.Containers[0].Image = image
		if _, err := f.Client.AppsV1().StatefulSets("ns").Update(ctx, now, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, "pods of "+image, settled(image))
	}
	controllertest.Eventually(t, "a short history", func() bool {
		list, err := f.Client.AppsV1().ControllerRevisions("ns").List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 2
	})
	claims, err := f.Client.CoreV1().PersistentVolumeClaims("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(claims.Items) != 2 || claims.Items[0].Labels["app"] != "db" {
		t.Errorf("claims %v, %v", claims, err)
	}
}
