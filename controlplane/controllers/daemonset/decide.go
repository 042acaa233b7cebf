package daemonset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/controlplane/controllers/reconcile"
)

// generationLabel carries the count of template changes, by which pods made
// before revisions had hashes are recognized.
const generationLabel = "pod-template-generation"

// decision is what one reconciliation does to pods.
type decision struct {
	create  []string      // node names
	remove  []*corev1.Pod // pods that are too much, ended, or old
	desired int           // nodes that should run a pod
	wait    time.Duration // until a pod's availability changes by itself; 0 if none will
}

// limits are how far a rolling update may stray; exactly one of them is not 0.
type limits struct{ surge, unavailable int }

// limitsOf resolves percentages of desired, and rounds both up.
func limitsOf(ds *appsv1.DaemonSet, desired int) limits {
	rolling := ds.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil {
		return limits{unavailable: 1}
	}
	l := limits{surge: scaled(rolling.MaxSurge, desired), unavailable: scaled(rolling.MaxUnavailable, desired)}
	if l.surge == 0 && l.unavailable == 0 {
		l.unavailable = 1
	}
	return l
}

func scaled(value *intstr.IntOrString, total int) int {
	if value == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(value, total, true)
	if err != nil { // validation refuses what cannot be parsed
		return 0
	}
	return n
}

// view is what a decision is made of.
type view struct {
	ds     *appsv1.DaemonSet
	hash   string // of the present template
	nodes  []*corev1.Node
	byNode map[string][]*corev1.Pod // pods of the set, by the node they are on or made for
	now    time.Time
	// backoff reports whether a failed pod of a node has to stay for now.
	backoff func(node string) bool
}

// current says that a pod is of the present template: by its revision's hash, or by
// the count of template changes, which stays where a revision is made anew.
func (v view) current(pod *corev1.Pod) bool {
	generation := v.ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	return v.hash != "" && pod.Labels[appsv1.ControllerRevisionHashLabelKey] == v.hash || generation != "" && pod.Labels[generationLabel] == generation
}

// available notes in d when the answer changes by itself.
func (v view) available(d *decision, pod *corev1.Pod) bool {
	if pod == nil || pod.DeletionTimestamp != nil || reconcile.PodTerminal(pod) {
		return false
	}
	left, ready := reconcile.PodAvailableIn(pod, v.ds.Spec.MinReadySeconds, v.now)
	if ready && left > 0 && (d.wait == 0 || left < d.wait) {
		d.wait = left
	}
	return ready && left <= 0
}

// decide keeps one pod on every node that should have one, and then replaces
// old ones as far as the strategy allows. Pods on nodes that do not exist go.
func (v view) decide() decision {
	d := decision{}
	surging := v.rolling() && limitsOf(v.ds, 1).surge > 0
	exists := map[string]bool{}
	place := newPlacement(v.ds)
	var wanted, left []string
	for _, node := range v.nodes {
		exists[node.Name] = true
		run, stay := place.on(node)
		if run {
			d.desired++
			wanted = append(wanted, node.Name)
		} else if stay && len(v.byNode[node.Name]) > 0 {
			left = append(left, node.Name)
		}
		v.keep(&d, node.Name, run, stay, surging)
	}
	for _, node := range slices.Sorted(maps.Keys(v.byNode)) {
		if exists[node] {
			continue
		}
		for _, pod := range v.byNode[node] {
			// Those that were bound are the pod garbage collector's.
			if pod.DeletionTimestamp == nil && pod.Spec.NodeName == "" {
				d.remove = append(d.remove, pod)
			}
		}
	}
	if v.rolling() {
		v.roll(&d, wanted, left)
	}
	return d
}

func (v view) rolling() bool {
	return v.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType
}

// keep settles the number of pods on one node.
func (v view) keep(d *decision, node string, run, stay, surging bool) {
	pods := v.byNode[node]
	if !stay {
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil {
				d.remove = append(d.remove, pod)
			}
		}
		return
	}
	var alive []*corev1.Pod
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if !v.backoff(node) {
				d.remove = append(d.remove, pod)
			}
		case pod.Status.Phase == corev1.PodSucceeded:
			d.remove = append(d.remove, pod)
		default:
			alive = append(alive, pod)
		}
	}
	if run && (len(pods) == 0 || surging && len(alive) == 0) {
		d.create = append(d.create, node)
		return
	}
	slices.SortFunc(alive, bySeniority)
	if !surging {
		d.remove = append(d.remove, alive[min(1, len(alive)):]...)
		return
	}
	// One old and one new pod may live side by side until the new one is
	// available.
	var old, fresh *corev1.Pod
	for _, pod := range alive {
		switch {
		case v.current(pod) && fresh == nil:
			fresh = pod
		case !v.current(pod) && old == nil:
			old = pod
		default:
			d.remove = append(d.remove, pod)
		}
	}
	if old != nil && fresh != nil && (v.available(d, fresh) || !reconcile.PodReady(old)) {
		d.remove = append(d.remove, old)
	}
}

// bySeniority puts bound pods first, and then older ones.
func bySeniority(a, b *corev1.Pod) int {
	if bound := cmp.Compare(len(b.Spec.NodeName), len(a.Spec.NodeName)); bound != 0 && (a.Spec.NodeName == "" || b.Spec.NodeName == "") {
		return bound
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// roll replaces old pods on the nodes that should have one, and takes them away
// from those that are left: nodes which get no new pod.
func (v view) roll(d *decision, wanted, left []string) {
	l := limitsOf(v.ds, d.desired)
	var broken, healthy []*corev1.Pod // old, to be replaced
	var spare []*corev1.Pod           // old, healthy, and not to be replaced
	away, surplus, works := 0, 0, 0
	for i, node := range slices.Concat(wanted, left) {
		var old, fresh *corev1.Pod
		for _, pod := range v.byNode[node] {
			switch {
			case pod.DeletionTimestamp != nil || slices.Contains(d.remove, pod):
			case v.current(pod):
				fresh = pod
			default:
				old = pod
			}
		}
		if v.available(d, cmp.Or(old, fresh)) {
			works++
		}
		if l.surge > 0 && i >= len(wanted) && old != nil && fresh == nil {
			if v.available(d, old) {
				spare = append(spare, old)
			} else if !reconcile.PodTerminal(old) {
				d.remove = append(d.remove, old)
			}
			continue
		}
		switch {
		case old == nil && fresh == nil, old != nil && fresh != nil && l.surge == 0:
			away++
		case old == nil:
			if !v.available(d, fresh) {
				away++
			}
		case fresh != nil:
			surplus++
		case reconcile.PodTerminal(old):
			away++ // goes once its back-off ends
		case v.available(d, old):
			healthy = append(healthy, old)
		default:
			broken = append(broken, old)
		}
	}
	if l.surge > 0 {
		// What does not work is replaced at once: nothing is lost by it.
		for _, pod := range append(broken, healthy[:min(len(healthy), max(0, l.surge-surplus))]...) {
			d.create = append(d.create, target(pod))
		}
		// With a surge nothing may be missing meanwhile: they go once others
		// work in their place.
		d.remove = append(d.remove, spare[:min(len(spare), max(0, works-d.desired))]...)
		return
	}
	d.remove = append(d.remove, broken...)
	d.remove = append(d.remove, healthy[:min(len(healthy), max(0, l.unavailable-away-len(broken)))]...)
}
