package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/hostconfig"
)

// NodeDeclaredFeatures keeps pods away from nodes whose agent does not say that
// it can do what they ask for.
type NodeDeclaredFeatures struct{}

func (NodeDeclaredFeatures) Name() string { return "NodeDeclaredFeatures" }
func (NodeDeclaredFeatures) Local() bool  { return true }

func (NodeDeclaredFeatures) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeFeaturesChanged
}

var (
	missingFeatures = framework.RefuseFinally("node(s) didn't match Pod's required features")
	// features that are older than the oldest agents an API server of this
	// version works with are asked of no node.
	apiVersion = version.MustParse(hostconfig.KubernetesVersion)
)

func (NodeDeclaredFeatures) PreFilter(pod *picture.Pod, _ *picture.Picture) framework.Filter {
	asked, err := FeaturesAsked(pod.Object)
	if err != nil {
		return func(*picture.Node) *framework.Refusal { return framework.RefuseWhole(err.Error()) }
	}
	if asked.IsEmpty() {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		if match, err := nodedeclaredfeatures.DefaultFramework.MatchNode(asked, n.Object); err != nil || !match.IsMatch {
			return missingFeatures
		}
		return nil
	}
}

func (NodeDeclaredFeatures) Helps(event framework.Event, pod *v1.Pod) bool {
	if event.Node == nil {
		return true
	}
	asked, err := FeaturesAsked(pod)
	if err != nil {
		return true
	}
	match, err := nodedeclaredfeatures.DefaultFramework.MatchNode(asked, event.Node)
	return err != nil || match.IsMatch
}

// FeaturesAsked are those that a pod needs of its node from the start.
func FeaturesAsked(pod *v1.Pod) (nodedeclaredfeatures.FeatureSet, error) {
	return nodedeclaredfeatures.DefaultFramework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec}, apiVersion)
}
