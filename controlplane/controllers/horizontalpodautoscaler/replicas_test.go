package horizontalpodautoscaler

import (
	"fmt"
	"math"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// aPod runs and is ready since an hour ago, and requests one processor.
func aPod(name string) *corev1.Pod {
	long := metav1.NewTime(noon.Add(-time.Hour))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "test", Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name:      "web",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
		}}},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, StartTime: &long,
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: long}},
		},
	}
}

func pending(pod *corev1.Pod) { pod.Status.Phase = corev1.PodPending }
func failed(pod *corev1.Pod)  { pod.Status.Phase = corev1.PodFailed }
func going(pod *corev1.Pod)   { pod.DeletionTimestamp = &metav1.Time{Time: noon} }

// readiness gives a pod this age, and a change to ready or unready then.
func readiness(started time.Duration, status corev1.ConditionStatus, changed time.Duration) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Status.StartTime = &metav1.Time{Time: noon.Add(-started)}
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(noon.Add(-changed))}}
	}
}

const unknown = -1

func TestUtilizationSize(t *testing.T) {
	for name, test := range map[string]struct {
		used    []int64 // by pod, unknown for none
		alter   map[int]func(*corev1.Pod)
		target  int32
		want    int32
		percent int32
		fails   error
	}{
		"at the target":                         {used: []int64{500, 500}, target: 50, want: 2, percent: 50},
		"within tolerance":                      {used: []int64{540, 540}, target: 50, want: 2, percent: 54},
		"twice the target":                      {used: []int64{1000, 1000}, target: 50, want: 4, percent: 100},
		"half the target":                       {used: []int64{250, 250, 250, 250}, target: 50, want: 2, percent: 25},
		"rounds up":                             {used: []int64{600, 600, 600}, target: 50, want: 4, percent: 60},
		"unready count as idle on the way up":   {used: []int64{1000, 1000, 900}, alter: map[int]func(*corev1.Pod){2: pending}, target: 50, want: 4, percent: 100},
		"unready turn a rise into nothing":      {used: []int64{600, 600, 0, 0}, alter: map[int]func(*corev1.Pod){2: pending, 3: pending}, target: 50, want: 4, percent: 60},
		"unready do not count on the way down":  {used: []int64{100, 100, 100}, alter: map[int]func(*corev1.Pod){2: pending}, target: 50, want: 1, percent: 10},
		"missing count as full on the way down": {used: []int64{100, 100, unknown}, target: 50, want: 3, percent: 10},
		"missing slow a fall":                   {used: []int64{0, 0, 0, 0, 0, unknown}, target: 50, want: 2, percent: 0},
		"missing count as idle on the way up":   {used: []int64{1000, 1000, unknown}, target: 50, want: 4, percent: 100},
		"failed and going ones are left out":    {used: []int64{1000, 0, 0}, alter: map[int]func(*corev1.Pod){1: failed, 2: going}, target: 50, want: 2, percent: 100},
		"the processor time of a start is none": {used: []int64{500, 3000}, alter: map[int]func(*corev1.Pod){1: readiness(time.Minute, corev1.ConditionTrue, 20*time.Second)}, target: 50, want: 2, percent: 50},
		"a window after ready it counts":        {used: []int64{500, 1500}, alter: map[int]func(*corev1.Pod){1: readiness(2*time.Minute, corev1.ConditionTrue, 90*time.Second)}, target: 50, want: 4, percent: 100},
		"never ready does not count":            {used: []int64{500, 1500}, alter: map[int]func(*corev1.Pod){1: readiness(time.Hour, corev1.ConditionFalse, time.Hour-10*time.Second)}, target: 50, want: 2, percent: 50},
		"unready for a while does":              {used: []int64{500, 1500}, alter: map[int]func(*corev1.Pod){1: readiness(time.Hour, corev1.ConditionFalse, time.Minute)}, target: 50, want: 4, percent: 100},
		"nothing is known":                      {used: []int64{unknown, unknown}, target: 50, fails: errNoSamples},
		"there are no pods":                     {target: 50, fails: errNoPods},
	} {
		t.Run(name, func(t *testing.T) {
			var pods []*corev1.Pod
			all := samples{}
			for i, used := range test.used {
				pod := aPod(fmt.Sprint(i))
				if alter := test.alter[i]; alter != nil {
					alter(pod)
				}
				pods = append(pods, pod)
				if used != unknown {
					all[pod.Name] = sample{value: used, at: noon, window: time.Minute}
				}
			}
			q := &question{pods: pods, current: int32(len(pods)), tolerance: toleranceOf(nil), now: noon}
			size, percent, _, err := q.byUtilization(func() (samples, error) { return all, nil }, corev1.ResourceCPU, "", test.target)
			if err != test.fails {
				t.Fatalf("failed with %v, want %v", err, test.fails)
			}
			if size != test.want || percent != test.percent {
				t.Errorf("size %d at %d %%, want %d at %d %%", size, percent, test.want, test.percent)
			}
		})
	}
}

func TestRequests(t *testing.T) {
	pod := aPod("p")
	if got, err := requestsOf([]*corev1.Pod{pod}, "", corev1.ResourceCPU); err != nil || got["p"] != 1000 {
		t.Errorf("got %v, %v", got, err)
	}
	for _, test := range []struct {
		container string
		resource  corev1.ResourceName
		want      string
	}{
		{"", corev1.ResourceMemory, "missing request for memory in container web of Pod p"},
		{"other", corev1.ResourceCPU, "container other not found in Pod p"},
	} {
		if _, err := requestsOf([]*corev1.Pod{pod}, test.container, test.resource); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	pod.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}
	if got, err := requestsOf([]*corev1.Pod{pod}, "", corev1.ResourceCPU); err != nil || got["p"] != 3000 {
		t.Errorf("with requests of its own, a pod counts %v, %v", got, err)
	}
}

func TestSizeOfOneValue(t *testing.T) {
	pods := []*corev1.Pod{aPod("a"), aPod("b"), aPod("c")}
	pending(pods[2])
	for _, test := range []struct {
		current int32
		ratio   float64
		want    int32
	}{{0, 2.5, 3}, {3, 1.05, 3}, {3, 3, 6}, {3, 0.5, 1}, {3, math.MaxInt64, math.MaxInt32}} {
		if got, err := sizeByRatio(test.current, test.ratio, toleranceOf(nil), pods); err != nil || got != test.want {
			t.Errorf("%d at %v becomes %d, %v, want %d", test.current, test.ratio, got, err, test.want)
		}
	}
	for _, test := range []struct {
		current       int32
		usage, target int64
		want          int32
		each          int64
	}{{2, 1000, 500, 2, 500}, {2, 2001, 500, 5, 1001}, {4, 1000, 500, 2, 250}, {1, math.MaxInt64, 1, math.MaxInt32, math.MaxInt64}} {
		if got, each := sizeByShare(test.current, test.usage, test.target, toleranceOf(nil)); got != test.want || each != test.each {
			t.Errorf("%d of %d becomes %d at %d, want %d at %d", test.usage, test.current, got, each, test.want, test.each)
		}
	}
	if got := sum([]int64{math.MaxInt64, 1, 2}); got != math.MaxInt64 {
		t.Errorf("the sum is %d", got)
	}
}

// Guesses about pods that nothing is known of never make a size change more.
func TestMissingPodsDampen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		target := rapid.Int64Range(100, 2000).Draw(t, "target")
		var pods []*corev1.Pod
		all := samples{}
		known := rapid.IntRange(1, 20).Draw(t, "known")
		missing := rapid.IntRange(0, 20).Draw(t, "missing")
		for i := range known + missing {
			pod := aPod(fmt.Sprint(i))
			pods = append(pods, pod)
			if i < known {
				all[pod.Name] = sample{value: rapid.Int64Range(0, 4000).Draw(t, "used"), at: noon}
			}
		}
		q := &question{pods: pods, current: int32(len(pods)), tolerance: toleranceOf(nil), now: noon}
		size, value, err := q.byAverage(func() (samples, error) { return all, nil }, corev1.ResourceMemory, target)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case value > target && size < q.current:
			t.Errorf("%d pods above the target become %d", q.current, size)
		case value < target && size > q.current:
			t.Errorf("%d pods below the target become %d", q.current, size)
		}
		if missing > 0 && value < target && size < int32(missing) {
			t.Errorf("%d pods that nothing is known of, and %d stay", missing, size)
		}
	})
}
