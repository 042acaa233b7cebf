package pods

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/nodeagent/cgroups"
)

// Resources are requests and limits of a pod's containers by name, and of the
// pod as a whole where it has any.
type Resources struct {
	Pod        *v1.ResourceRequirements           `json:"pod,omitempty"`
	Containers map[string]v1.ResourceRequirements `json:"containers"`
}

// Allotment is what a pod has of this host. It is kept in a file, because the
// API only knows what the pod wants: what it was granted, and what of that has
// reached its containers, would be lost with the agent.
type Allotment struct {
	Granted Resources      `json:"granted"` // what the host has room for
	Applied Resources      `json:"applied"` // what containers run with, as of their latest start or update
	Group   cgroups.Limits `json:"group"`   // what the pod's own cgroup allows
}

func (a *Allotment) clone() *Allotment {
	b := *a
	b.Granted.Containers, b.Applied.Containers = maps.Clone(a.Granted.Containers), maps.Clone(a.Applied.Containers)
	return &b
}

// allot grants everything that the pod asks for.
func allot(pod *v1.Pod) *Allotment {
	return &Allotment{Granted: resourcesOf(pod), Applied: resourcesOf(pod), Group: cgroups.PodLimits(pod)}
}

func resourcesOf(pod *v1.Pod) Resources {
	r := Resources{Pod: pod.Spec.Resources.DeepCopy(), Containers: map[string]v1.ResourceRequirements{}}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			r.Containers[list[i].Name] = *list[i].Resources.DeepCopy()
		}
	}
	return r
}

func (r Resources) equal(other Resources) bool { return equality.Semantic.DeepEqual(r, other) }

// of is the pod as it is with these resources: pod itself, or a copy of it.
func (r Resources) of(pod *v1.Pod) *v1.Pod {
	if r.equal(resourcesOf(pod)) {
		return pod
	}
	pod = pod.DeepCopy()
	pod.Spec.Resources = r.Pod.DeepCopy()
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if own, ok := r.Containers[list[i].Name]; ok {
				list[i].Resources = *own.DeepCopy()
			}
		}
	}
	return pod
}

// take copies what other has of one resource for one container.
func (r Resources) take(container string, name v1.ResourceName, other Resources) {
	own, from := r.Containers[container], other.Containers[container]
	move := func(to *v1.ResourceList, from v1.ResourceList) {
		list := maps.Clone(*to)
		if q, ok := from[name]; ok {
			if list == nil {
				list = v1.ResourceList{}
			}
			list[name] = q.DeepCopy()
		} else {
			delete(list, name)
		}
		*to = list
	}
	move(&own.Requests, from.Requests)
	move(&own.Limits, from.Limits)
	r.Containers[container] = own
}

// amounts are what can be changed in a running container, limits of the pod
// standing in for its own.
type amounts struct{ request, limit int64 }

func (r Resources) amounts(container string, name v1.ResourceName) amounts {
	value := func(list v1.ResourceList) int64 {
		q := list[name]
		if name == v1.ResourceCPU {
			return q.MilliValue()
		}
		return q.Value()
	}
	c := r.Containers[container]
	a := amounts{value(c.Requests), value(c.Limits)}
	if a.limit == 0 && r.Pod != nil {
		a.limit = value(r.Pod.Limits)
	}
	return a
}

// resizable are the resources that can change while a pod runs.
var resizable = []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU}

func (a *Agent) allotmentFile(uid types.UID) string {
	return filepath.Join(a.Volumes.PodDir(uid), "resources.json")
}

// loadAllotment is what the pod was allotted before; nil if it never was.
func (a *Agent) loadAllotment(uid types.UID) (*Allotment, error) {
	raw, err := os.ReadFile(a.allotmentFile(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the pod was allotted: %w", err)
	}
	allotment := &Allotment{}
	if err := json.Unmarshal(raw, allotment); err != nil {
		return nil, fmt.Errorf("parse what the pod was allotted: %w", err)
	}
	return allotment, nil
}

func (a *Agent) saveAllotment(uid types.UID, allotment *Allotment) error {
	raw, err := json.Marshal(allotment)
	if err != nil {
		return fmt.Errorf("encode what the pod is allotted: %w", err)
	}
	file := a.allotmentFile(uid)
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := os.WriteFile(file+".new", raw, 0o600); err != nil {
		return fmt.Errorf("write what the pod is allotted: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("replace what the pod was allotted: %w", err)
	}
	return nil
}
