package pods

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/nodeagent/network"
)

// restoreHostPorts says which of the mappings that an earlier agent left are still
// of pods. Workers find out whether these have kept their addresses.
func (a *Agent) restoreHostPorts() {
	if a.HostPorts == nil {
		return
	}
	known := map[types.UID][]network.PortMapping{}
	for _, pod := range a.List() {
		if finished(pod.Status.Phase) || isMirror(pod) {
			continue
		}
		var addresses []string
		for _, ip := range pod.Status.PodIPs {
			addresses = append(addresses, ip.IP)
		}
		if ports := network.PortMappings(pod, addresses); len(ports) > 0 {
			known[pod.UID] = ports
		}
	}
	if err := a.HostPorts.Restore(known); err != nil {
		a.Logger.Error("host ports of an earlier run may lead astray", "error", err)
	}
}

// mapHostPorts has the pod's host ports lead to its newest sandbox as long as that
// is of use. No container may start before: nobody should see one that cannot be
// reached.
func (w *worker) mapHostPorts(s *Situation) error {
	if w.agent.HostPorts == nil {
		return nil
	}
	var ports []network.PortMapping
	if s.sandboxUsable() {
		ports = network.PortMappings(s.Pod, s.podIPs())
	}
	err := w.agent.HostPorts.Set(w.uid, ports)
	if err != nil {
		w.logger.Warn("cannot map host ports", "error", err)
		if s.End == nil && !s.Gone {
			w.agent.event(s.Pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: map host ports: %v", err))
		}
	}
	return err
}
