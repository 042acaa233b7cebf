package statefulset

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/controlplane/controllers/reconcile"
)

// decision is what one reconciliation does to pods.
type decision struct {
	create    []int         // ordinals, in this order
	remove    []*corev1.Pod // in this order
	condemned []*corev1.Pod // whose ordinals are wanted no more, highest first
	wait      time.Duration // until a pod's availability changes by itself; 0 if none will
}

// ordinalOf returns the ordinal of a pod of the set named set; ok is false for
// any other pod.
func ordinalOf(set string, pod *corev1.Pod) (ordinal int, ok bool) {
	digits, found := strings.CutPrefix(pod.Name, set+"-")
	n, err := strconv.Atoi(digits)
	return n, found && err == nil && n >= 0 && strconv.Itoa(n) == digits
}

// first returns the lowest wanted ordinal.
func first(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

func parallel(set *appsv1.StatefulSet) bool {
	return set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement
}

// partition is the lowest ordinal that gets new templates, counted from first.
func partition(set *appsv1.StatefulSet) int {
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

// maxUnavailable is how many pods an update may keep away at once; at least 1.
func maxUnavailable(set *appsv1.StatefulSet) int {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil || r.MaxUnavailable == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(r.MaxUnavailable, int(*set.Spec.Replicas), true)
	if err != nil { // validation refuses what cannot be parsed
		return 1
	}
	return max(n, 1)
}

// keepsCurrent reports whether a pod made now at an ordinal gets the template
// that the set had before its update.
func keepsCurrent(set *appsv1.StatefulSet, ordinal int) bool {
	strategy := set.Spec.UpdateStrategy
	switch {
	case strategy.Type != appsv1.RollingUpdateStatefulSetStrategyType:
		return false
	case strategy.RollingUpdate == nil:
		return ordinal < first(set)+int(set.Status.CurrentReplicas)
	}
	return ordinal < first(set)+partition(set)
}

func running(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && reconcile.PodReady(pod)
}

// decide settles the next step. Ordered sets take one step at a time, and none
// before all lower pods are available; parallel sets take all steps at once.
// Updates go from the highest ordinal down, once every pod exists.
func decide(set *appsv1.StatefulSet, update string, pods []*corev1.Pod, now time.Time) decision {
	d := decision{}
	available := func(pod *corev1.Pod) bool {
		if pod == nil || pod.DeletionTimestamp != nil || !running(pod) {
			return false
		}
		left, _ := reconcile.PodAvailableIn(pod, set.Spec.MinReadySeconds, now)
		if left > 0 && (d.wait == 0 || left < d.wait) {
			d.wait = left
		}
		return left <= 0
	}
	for _, pod := range pods {
		available(pod) // the status counts those too that the next step does not look at
	}
	slots := make([]*corev1.Pod, *set.Spec.Replicas)
	for _, pod := range pods {
		ordinal, ok := ordinalOf(set.Name, pod)
		switch i := ordinal - first(set); {
		case !ok:
		case i >= 0 && i < len(slots):
			slots[i] = pod
		default:
			d.condemned = append(d.condemned, pod)
		}
	}
	slices.SortFunc(d.condemned, func(a, b *corev1.Pod) int {
		x, _ := ordinalOf(set.Name, a)
		y, _ := ordinalOf(set.Name, b)
		return cmp.Compare(y, x)
	})
	if set.DeletionTimestamp != nil {
		return d
	}
	ordered := !parallel(set)
	dead := false
	for i, pod := range slots {
		switch {
		case pod == nil:
			d.create = append(d.create, first(set)+i)
		case reconcile.PodTerminal(pod):
			dead = true
			if pod.DeletionTimestamp == nil {
				d.remove = append(d.remove, pod)
			}
		case available(pod):
			continue
		}
		if ordered {
			return d
		}
	}
	if d.scaleDown(ordered, available) || dead || set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return d
	}
	budget := maxUnavailable(set)
	for i := len(slots) - 1; i >= partition(set) && budget > 0; i-- {
		pod := slots[i]
		switch {
		case pod != nil && pod.DeletionTimestamp == nil && pod.Labels[appsv1.ControllerRevisionHashLabelKey] != update:
			d.remove = append(d.remove, pod)
			budget--
		case !available(pod):
			budget--
		}
	}
	return d
}

// scaleDown removes condemned pods, and reports whether nothing else is to be
// done before they are gone. All wanted pods of an ordered set are available
// here, so that the lowest condemned pod that is not may go in its turn; one
// above it waits.
func (d *decision) scaleDown(ordered bool, available func(*corev1.Pod) bool) bool {
	if !ordered {
		for _, pod := range d.condemned {
			if pod.DeletionTimestamp == nil {
				d.remove = append(d.remove, pod)
			}
		}
		return false
	}
	if len(d.condemned) == 0 {
		return false
	}
	lowestBad := -1
	for i, pod := range d.condemned {
		if !available(pod) {
			lowestBad = i
		}
	}
	if top := d.condemned[0]; top.DeletionTimestamp == nil && (lowestBad == 0 || available(top)) {
		d.remove = append(d.remove, top)
	}
	return true
}
