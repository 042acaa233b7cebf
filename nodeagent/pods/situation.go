package pods

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/probes"
	"clusterctl/nodeagent/runtime"
)

// Situation is everything that a decision about a pod depends on.
type Situation struct {
	Pod    *v1.Pod
	Actual *runtime.Pod
	Now    time.Time

	End  *End // why the pod has to end; nil while it shall run
	Gone bool // the API has the pod no more

	Probes   map[string]probes.Result // by container ID
	History  map[string]*History      // by container name
	Faults   map[string]Fault         // of operations on the pod itself, by key
	Busy     map[string]bool          // operations under way, by key
	Stopping map[string]time.Time     // containers being stopped, by ID: when they are killed
	Hooked   map[string]bool          // containers whose preStop hook a PreStop has begun, by ID

	Allotment *Allotment        // nil before the pod is admitted; Pod is as it was granted
	Resizing  []v1.PodCondition // how far changes of the pod's size have come

	Health    map[string][]v1.ResourceStatus // of devices, by container
	Recursive *bool                          // the pod's handler mounts read-only recursively; nil: not known now

	Held         bool // others have to make room for the pod first
	NetworkReady bool // pods can be given addresses
	Prepared     bool // cgroup and volumes are in place
	TornDown     bool // cgroup and volumes are gone again
	HostIPs      []string
}

// End is why and how a pod has to end.
type End struct {
	Phase     v1.PodPhase // to report when everything has stopped; empty to derive it
	Reason    string
	Message   string
	Excuse    string    // message of the DisruptionTarget condition, where it is not Message
	Rejected  bool      // it was never let in: nothing is said of its containers
	Disrupted string    // reason of the DisruptionTarget condition; empty for none
	Grace     int64     // seconds for containers to stop in
	Since     time.Time // when it was noticed
}

// History is what the worker remembers of a container. It is lost with the
// agent, which costs no more than a shorter back-off.
type History struct {
	Crash   Crash
	Fault   *Fault // why the last start failed; nil after a success
	Restart string // ID of a run that was stopped in order to be started again
}

// Fault is a failure that holds an operation back.
type Fault struct {
	Reason  string
	Message string
	Until   time.Time
}

// history never returns nil.
func (s *Situation) history(container string) *History {
	if h := s.History[container]; h != nil {
		return h
	}
	return &History{}
}

// current is the latest run of the container in the pod's newest sandbox.
func (s *Situation) current(container string) *runtime.Container {
	sandbox := s.Actual.Sandbox()
	latest := s.Actual.Latest(container)
	if sandbox == nil || latest == nil || latest.SandboxID != sandbox.ID {
		return nil
	}
	return latest
}

// sandboxUsable says that containers can run in the newest sandbox.
func (s *Situation) sandboxUsable() bool {
	sandbox := s.Actual.Sandbox()
	return sandbox != nil && sandbox.Ready && (s.Pod.Spec.HostNetwork || len(sandbox.IPs) > 0)
}

// podIPs are the pod's addresses, as far as they are known.
func (s *Situation) podIPs() []string {
	if s.Pod.Spec.HostNetwork {
		return s.HostIPs
	}
	if sandbox := s.Actual.Sandbox(); sandbox != nil && len(sandbox.IPs) > 0 {
		return sandbox.IPs
	}
	return nil
}

func (s *Situation) anyRunning() bool {
	for i := range s.Actual.Containers {
		if s.Actual.Containers[i].State == runtime.Running {
			return true
		}
	}
	return false
}

// isSidecar says that an init container stays while the pod runs.
func isSidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// initialized says that the init containers have done their work in the
// newest sandbox: something after them has been started, or they are done.
func (s *Situation) initialized() bool {
	for i := range s.Pod.Spec.Containers {
		if s.current(s.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		run := s.current(c.Name)
		switch {
		case run == nil:
			return false
		case isSidecar(c):
			if run.State != runtime.Running || !s.Probes[run.ID].Started || s.Busy[startKey(c.Name)] {
				return false
			}
		case run.State != runtime.Exited || run.ExitCode != 0:
			return false
		}
	}
	return true
}

// anyMainCreated says that any of the pod's own containers was made: its init
// containers had done their work before.
func (s *Situation) anyMainCreated() bool {
	return slices.ContainsFunc(s.Pod.Spec.Containers, func(c v1.Container) bool { return s.Actual.Latest(c.Name) != nil })
}

func isInit(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

// restarts says whether container c is started again after it exited with
// code, by its own rules, its own policy or the pod's.
func restarts(pod *v1.Pod, c *v1.Container, code int32) bool {
	if code == 0 && isInit(pod, c.Name) && !isSidecar(c) {
		return false
	}
	switch ruleFor(c, code) {
	case v1.ContainerRestartRuleActionRestart, v1.ContainerRestartRuleActionRestartAllContainers:
		return true
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// ruleFor is what the container's own rules have done when it exits with code:
// the first that matches decides; empty if none does.
func ruleFor(c *v1.Container, code int32) v1.ContainerRestartRuleAction {
	for _, rule := range c.RestartPolicyRules {
		if rule.ExitCodes == nil {
			continue
		}
		listed := slices.Contains(rule.ExitCodes.Values, code)
		if listed == (rule.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return rule.Action
		}
	}
	return ""
}

// restartable are the containers that start anew when all do: all but the
// ephemeral ones.
func restartable(pod *v1.Pod) map[string]*v1.Container {
	found := map[string]*v1.Container{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			found[list[i].Name] = &list[i]
		}
	}
	return found
}

// mayRestartAll says that the end of some container can have all start anew.
func mayRestartAll(pod *v1.Pod) bool {
	for _, c := range restartable(pod) {
		for _, rule := range c.RestartPolicyRules {
			if rule.Action == v1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

// restartsAll says that run ended in a way that has all containers start anew.
func restartsAll(c *v1.Container, run *runtime.Container) bool {
	return run != nil && run.State == runtime.Exited && ruleFor(c, run.ExitCode) == v1.ContainerRestartRuleActionRestartAllContainers
}

// restartingAll says that all containers have to go, in order to start anew.
func (s *Situation) restartingAll() bool {
	if !mayRestartAll(s.Pod) {
		return false
	}
	for name, c := range restartable(s.Pod) {
		if restartsAll(c, s.Actual.Latest(name)) {
			return true
		}
	}
	return false
}
