package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/utils/clock"
)

var deviceClaims = resourcev1.Resource("resourceclaims")

// newDeviceEvaluator measures claims of devices: how many there are, and how
// many devices of each class they may come to.
func newDeviceEvaluator(list generic.ListFuncByNamespace, cluster Cluster, now clock.PassiveClock) quota.Evaluator {
	return &evaluator{
		resource: deviceClaims,
		list:     list,
		handles: func(a admission.Attributes) bool {
			return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
		},
		matching: func(names []corev1.ResourceName) (matching []corev1.ResourceName) {
			for _, name := range names {
				if name == generic.ObjectCountQuotaResourceNameFor(deviceClaims) || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass) || cluster.matches(name) {
					matching = append(matching, name)
				}
			}
			return matching
		},
		usage: func(object runtime.Object) (corev1.ResourceList, error) {
			claim, err := as[*resourcev1.ResourceClaim](object)
			if err != nil {
				return nil, err
			}
			usage := deviceUsage(claim)
			cluster.addExtended(usage, claim, now.Now())
			return usage, nil
		},
	}
}

func deviceUsage(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	devices := map[string]int64{}
	for _, request := range claim.Spec.Devices.Requests {
		if request.Exactly != nil {
			devices[request.Exactly.DeviceClassName] += atMost(request.Exactly.AllocationMode, request.Exactly.Count)
		}
		// One of the alternatives is chosen later: each class is charged for
		// the alternative that takes most of it.
		most := map[string]int64{}
		for _, r := range request.FirstAvailable {
			most[r.DeviceClassName] = max(most[r.DeviceClassName], atMost(r.AllocationMode, r.Count))
		}
		for class, n := range most {
			devices[class] += n
		}
	}
	usage := corev1.ResourceList{generic.ObjectCountQuotaResourceNameFor(deviceClaims): count(1)}
	for class, n := range devices {
		usage[corev1.ResourceName(class+corev1.ResourceClaimsPerClass)] = count(int(n))
	}
	return usage
}

// atMost is how many devices a request can be given.
func atMost(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	switch mode {
	case resourcev1.DeviceAllocationModeExactCount:
		return count
	case resourcev1.DeviceAllocationModeAll:
		return resourcev1.AllocationResultsMaxSize
	}
	return 0
}
