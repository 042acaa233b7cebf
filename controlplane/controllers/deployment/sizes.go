package deployment

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Annotations of replica sets, as kubectl and other tools read them.
const (
	revisionAnnotation        = "deployment.kubernetes.io/revision"
	revisionHistoryAnnotation = "deployment.kubernetes.io/revision-history"
	desiredAnnotation         = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation             = "deployment.kubernetes.io/max-replicas"
)

// limits are how far a rolling update may stray from the wanted size.
type limits struct{ surge, unavailable int32 }

// limitsOf resolves percentages: surge is rounded up, unavailability down, and
// one pod may be unavailable where both would be 0.
func limitsOf(d *appsv1.Deployment) limits {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return limits{}
	}
	replicas := *d.Spec.Replicas
	l := limits{surge: scaled(rolling.MaxSurge, replicas, true), unavailable: scaled(rolling.MaxUnavailable, replicas, false)}
	if l.surge == 0 && l.unavailable == 0 {
		l.unavailable = 1
	}
	l.unavailable = min(l.unavailable, replicas)
	return l
}

func scaled(value *intstr.IntOrString, total int32, up bool) int32 {
	if value == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(value, int(total), up)
	if err != nil { // validation refuses what cannot be parsed
		return 0
	}
	return int32(n)
}

func total(sets []*appsv1.ReplicaSet) int32 {
	n := int32(0)
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) int32 {
	n := int32(0)
	for _, rs := range sets {
		n += rs.Status.AvailableReplicas
	}
	return n
}

// occupied is how many pods replica sets may have: those that a set is still to
// remove take room as long as they are there.
func occupied(sets []*appsv1.ReplicaSet) int32 {
	n := int32(0)
	for _, rs := range sets {
		n += max(*rs.Spec.Replicas, rs.Status.Replicas)
	}
	return n
}

// unseen says whether a replica set has a size that its controller does not know
// yet. What it does meanwhile, and how many pods there are, is not known.
func unseen(sets []*appsv1.ReplicaSet) bool {
	return slices.ContainsFunc(sets, func(rs *appsv1.ReplicaSet) bool { return rs.Status.ObservedGeneration < rs.Generation })
}

// newSize is the size that the new replica set may take now. others is how many
// pods all other replica sets may have together.
func newSize(d *appsv1.Deployment, current, others int32) int32 {
	wanted := *d.Spec.Replicas
	if d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType || current >= wanted {
		return wanted
	}
	room := wanted + limitsOf(d).surge - current - others
	if room <= 0 {
		return current
	}
	return min(wanted, current+room)
}

// oldSizes is the size that each old replica set is to shrink to now, in the
// order of olds (oldest first). Pods that are not available go first, since
// their loss costs nothing; pods of the new set that are not available yet
// count as lost already.
func oldSizes(d *appsv1.Deployment, newSet *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) []int32 {
	sizes := make([]int32, len(olds))
	for i, rs := range olds {
		sizes[i] = *rs.Spec.Replicas
	}
	needed := *d.Spec.Replicas - limitsOf(d).unavailable
	newMissing := *newSet.Spec.Replicas - newSet.Status.AvailableReplicas
	spare := total(olds) + *newSet.Spec.Replicas - needed - newMissing
	if spare <= 0 {
		return sizes
	}
	for i, rs := range olds {
		unhealthy := min(spare, max(0, sizes[i]-rs.Status.AvailableReplicas))
		sizes[i] -= unhealthy
		spare -= unhealthy
	}
	spare = min(spare, available(olds)+newSet.Status.AvailableReplicas-needed)
	for i := range olds {
		healthy := min(max(0, spare), sizes[i])
		sizes[i] -= healthy
		spare -= healthy
	}
	return sizes
}

// proportional spreads a changed size of the deployment over the active replica
// sets of a rollout that is under way, each in proportion to its own size, and
// gives what rounding leaves to the largest.
func proportional(d *appsv1.Deployment, active []*appsv1.ReplicaSet) map[string]int32 {
	allowed := int32(0)
	if *d.Spec.Replicas > 0 {
		allowed = *d.Spec.Replicas + limitsOf(d).surge
	}
	toAdd := allowed - total(active)
	sorted := slices.Clone(active)
	// Largest first; of equals, the newest grows first, the oldest shrinks first.
	slices.SortFunc(sorted, func(a, b *appsv1.ReplicaSet) int {
		age := byAge(a, b)
		if toAdd > 0 {
			age = -age
		}
		return cmp.Or(cmp.Compare(*b.Spec.Replicas, *a.Spec.Replicas), age)
	})
	sizes := map[string]int32{}
	added := int32(0)
	for _, rs := range sorted {
		share := int32(0)
		if left := toAdd - added; left > 0 {
			share = min(fraction(d, rs), left)
		} else if left < 0 {
			share = max(fraction(d, rs), left)
		}
		sizes[rs.Name] = *rs.Spec.Replicas + share
		added += share
	}
	if len(sorted) > 0 {
		sizes[sorted[0].Name] = max(0, sizes[sorted[0].Name]+toAdd-added)
	}
	return sizes
}

// fraction is how many replicas rs gains (or loses) when the deployment grows
// from the maximum noted on rs to its present maximum.
func fraction(d *appsv1.Deployment, rs *appsv1.ReplicaSet) int32 {
	size := *rs.Spec.Replicas
	if *d.Spec.Replicas == 0 {
		return -size
	}
	before := annotated(rs, maxAnnotation)
	if before <= 0 {
		if before = d.Status.Replicas; before == 0 {
			return 0
		}
	}
	after := *d.Spec.Replicas + limitsOf(d).surge
	return int32(math.Round(float64(size)*float64(after)/float64(before))) - size
}

// annotated reads a count from an annotation; -1 if there is none.
func annotated(rs *appsv1.ReplicaSet, key string) int32 {
	n, err := strconv.ParseInt(rs.Annotations[key], 10, 32)
	if err != nil || n < 0 {
		return -1
	}
	return int32(n)
}

// byAge puts the older replica set first.
func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Time.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}
