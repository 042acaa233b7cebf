package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// ServiceAffinity keeps the pods of a service together on nodes with one value of
// each label in Together (a value that the pod's own node selector names is left
// to NodeAffinity), and spreads them over the values of the labels in Apart. It is
// not part of the default profile.
type ServiceAffinity struct {
	Together []string
	Apart    []string
}

func (ServiceAffinity) Name() string { return "ServiceAffinity" }
func (ServiceAffinity) Local() bool  { return false }

func (ServiceAffinity) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged | framework.PodAdded | framework.PodRemoved | framework.Surroundings
}

var serviceElsewhere = framework.RefuseFinally("node(s) didn't match service affinity")

// Helps: pods of another namespace are of no service of this pod's.
func (ServiceAffinity) Helps(event framework.Event, pod *v1.Pod) bool {
	return event.Pod == nil || event.Pod.Namespace == pod.Namespace
}

// fellows counts the pods with the labels by which services select this one, by
// the values of a node's label; nil: no service does.
func (ServiceAffinity) fellows(pod *picture.Pod, cluster *picture.Picture, key string) *picture.Counts {
	object := pod.Object
	selected := cluster.ServicesOf(object.Namespace, object.Labels)
	if selected == nil {
		return nil
	}
	matcher := picture.Matcher{Namespaces: []string{object.Namespace}, Selector: labels.SelectorFromSet(selected)}
	return cluster.Select(picture.Query{Terms: []picture.Matcher{matcher}, Living: true}, cluster.Topology(key))
}

func (p ServiceAffinity) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	var together []*picture.Counts
	for _, key := range p.Together {
		if _, chosen := pod.Object.Spec.NodeSelector[key]; chosen {
			continue
		}
		if counts := p.fellows(pod, cluster, key); counts != nil && counts.Sum > 0 {
			together = append(together, counts)
		}
	}
	if len(together) == 0 {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		for _, counts := range together {
			if domain, ok := counts.Topology.Domain(n); !ok || counts.At(domain) == 0 {
				return serviceElsewhere
			}
		}
		return nil
	}
}

func (p ServiceAffinity) PreScore(pod *picture.Pod, cluster *picture.Picture, _ []*picture.Node) framework.Score {
	var apart []*picture.Counts
	for _, key := range p.Apart {
		if counts := p.fellows(pod, cluster, key); counts != nil && counts.Sum > 0 {
			apart = append(apart, counts)
		}
	}
	if len(apart) == 0 {
		return nil
	}
	return func(n *picture.Node) int64 {
		var sum int64
		for _, counts := range apart {
			if domain, ok := counts.Topology.Domain(n); ok { // nodes without the label come last
				sum += int64(counts.Sum-int(counts.At(domain))) * framework.MaxScore / int64(counts.Sum)
			}
		}
		return sum / int64(len(apart))
	}
}
