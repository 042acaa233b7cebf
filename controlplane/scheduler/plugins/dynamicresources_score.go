package plugins

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// chooses says that a claim names alternatives, so that nodes differ in how good
// the devices are that were found.
func (s *search) chooses() bool {
	for _, claim := range s.open {
		for i := range claim.Spec.Devices.Requests {
			if len(claim.Spec.Devices.Requests[i].FirstAvailable) > 0 {
				return true
			}
		}
	}
	return false
}

// PreScore prefers nodes where claims get what they would rather have.
func (p *DynamicResources) PreScore(pod *picture.Pod, _ *picture.Picture, _ []*picture.Node) framework.Score {
	s := p.last
	p.last = nil
	if s == nil || s.pod != pod.Object {
		return nil
	}
	return func(n *picture.Node) (score int64) {
		found := s.found[n]
		if found == nil {
			return 0
		}
		results := found.results
		for _, claim := range s.claims {
			allocation := claim.Status.Allocation
			if allocation == nil {
				allocation, results = &results[0], results[1:]
			}
			score += preference(claim, allocation)
		}
		return score
	}
}

// Normalize makes the best node's score the highest.
func (*DynamicResources) Normalize(scores []int64) { proportional(scores, false) }

// preference is the higher the earlier the alternatives stand that were chosen.
func preference(claim *resourcev1.ResourceClaim, allocation *resourcev1.AllocationResult) (score int64) {
	chosen := sets.New[string]()
	for i := range allocation.Devices.Results {
		chosen.Insert(allocation.Devices.Results[i].Request)
	}
	for _, request := range claim.Spec.Devices.Requests {
		for i, alternative := range request.FirstAvailable {
			if chosen.Has(resourceclaim.CreateSubRequestRef(request.Name, alternative.Name)) {
				score += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - i)
			}
		}
	}
	return score
}
