package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"clusterctl/controlplane/scheduler/framework"
)

// Default is the profile of pods that name no other scheduler.
func Default(client kubernetes.Interface) *framework.Profile {
	volumes, devices := NewVolumeBinding(client), NewDynamicResources(client)
	return &framework.Profile{
		Name:      v1.DefaultSchedulerName,
		QueueSort: PrioritySort{},
		Filters: []framework.FilterPlugin{
			NodeUnschedulable{}, NodeName{}, TaintToleration{}, NodeAffinity{}, NodePorts{}, NodeResourcesFit{},
			VolumeRestrictions{}, NodeVolumeLimits{}, volumes, VolumeZone{}, NodeDeclaredFeatures{},
			PodTopologySpread{}, InterPodAffinity{}, devices,
		},
		PostFilters: []framework.PostFilterPlugin{devices, DefaultPreemption{Client: client}},
		Scores: []framework.Weighted{
			{ScorePlugin: TaintToleration{}, Weight: 3},
			{ScorePlugin: NodeAffinity{}, Weight: 2},
			{ScorePlugin: NodeResourcesFit{}, Weight: 1},
			{ScorePlugin: NodeResourcesBalanced{}, Weight: 1},
			{ScorePlugin: PodTopologySpread{}, Weight: 2},
			{ScorePlugin: InterPodAffinity{}, Weight: 2},
			{ScorePlugin: devices, Weight: 2},
			{ScorePlugin: ImageLocality{}, Weight: 1},
		},
		Reserves: []framework.ReservePlugin{volumes, devices},
		PreBinds: []framework.PreBindPlugin{volumes, devices},
		Bind:     APIBinder{Client: client},
	}
}

// proportional brings scores into 0..MaxScore by dividing by the largest;
// reverse makes the smallest the best.
func proportional(scores []int64, reverse bool) {
	var most int64
	for _, s := range scores {
		most = max(most, s)
	}
	for i, s := range scores {
		if most > 0 {
			s = s * framework.MaxScore / most
		}
		if reverse {
			s = framework.MaxScore - s
		}
		scores[i] = s
	}
}
