package pods

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/runtime"
)

// Describe is the pod's status as the API shall show it. It is a pure
// function; plan is what Decide made of the same situation.
func Describe(s *Situation, plan *Plan) v1.PodStatus {
	status := *s.Pod.Status.DeepCopy()
	if finished(status.Phase) {
		return status // told already; nothing makes a finished pod another
	}
	stopped := plan.Stopped
	if s.End == nil && !s.Gone {
		notEnding(&status)
	}
	status.ObservedGeneration = s.Pod.Generation
	status.QOSClass = cgroups.QOS(s.Pod)
	if status.StartTime == nil {
		now := metav1.NewTime(s.Now).Rfc3339Copy()
		status.StartTime = &now
	}
	addresses(s, &status)
	if s.End == nil || !s.End.Rejected {
		initial := v1.ContainerStateWaiting{Reason: "ContainerCreating"}
		if len(s.Pod.Spec.InitContainers) > 0 {
			initial.Reason = "PodInitializing"
		}
		d := &describer{s: s, plan: plan, initial: initial, stopped: stopped}
		if s.End == nil && !s.Gone && mayRestartAll(s.Pod) {
			d.restarting = s.restartingAll() || isTrueCondition(&s.Pod.Status, v1.AllContainersRestarting)
		}
		status.InitContainerStatuses = d.containers(s.Pod.Spec.InitContainers, true)
		status.ContainerStatuses = d.containers(s.Pod.Spec.Containers, false)
		for i := range status.ContainerStatuses {
			c := &status.ContainerStatuses[i]
			if old := d.told(c.Name); stopped && old != nil {
				c.AllocatedResourcesStatus = old.AllocatedResourcesStatus // its devices are given back
			} else {
				c.AllocatedResourcesStatus = s.Health[c.Name]
			}
		}
		status.EphemeralContainerStatuses = d.ephemeral()
		if stopped {
			endAll(s.Pod, &status)
		}
	}
	phase := Phase(s, &status, stopped)
	if s.End != nil {
		if s.End.Phase != "" {
			phase = s.End.Phase
		}
		if s.End.Reason != "" {
			status.Reason, status.Message = s.End.Reason, s.End.Message
		}
	}
	if finished(phase) && (s.anyRunning() || s.End != nil && !stopped && !s.neverStarted()) {
		phase = status.Phase // not before everything has stopped
		if phase == "" {
			phase = v1.PodPending
		}
	}
	status.Phase = phase
	conditions(s, &status)
	podResources(s, &status)
	return status
}

// podResources says what the pod as a whole was granted and has, and how far
// a change of that has come.
func podResources(s *Situation, status *v1.PodStatus) {
	kept := status.Conditions[:0]
	for _, c := range status.Conditions {
		if c.Type != v1.PodResizePending && c.Type != v1.PodResizeInProgress {
			kept = append(kept, c)
		}
	}
	status.Conditions = kept
	if !finished(status.Phase) {
		status.Conditions = append(status.Conditions, s.Resizing...)
	}
	if s.Allotment == nil {
		return
	}
	options := resourcehelper.PodResourcesOptions{}
	requests := resourcehelper.PodRequests(s.Pod, options)
	status.AllocatedResources = requests
	has := s.Pod.Spec.Resources.DeepCopy()
	if has == nil {
		has = &v1.ResourceRequirements{}
	}
	status.Resources = has
	if s.Pod.Status.Phase != v1.PodRunning {
		has.Requests, has.Limits = requests.DeepCopy(), resourcehelper.PodLimits(s.Pod, options)
		return
	}
	set := func(list *v1.ResourceList, name v1.ResourceName, q *resource.Quantity) {
		if *list == nil {
			*list = v1.ResourceList{}
		}
		(*list)[name] = *q
	}
	group := s.Allotment.Group
	if q := cgroups.MilliFromShares(group.CPUShares); q > cgroups.MinShares || has.Requests.Cpu().MilliValue() > cgroups.MinShares {
		set(&has.Requests, v1.ResourceCPU, resource.NewMilliQuantity(q, resource.DecimalSI))
	}
	if q, ok := requests[v1.ResourceMemory]; ok && has.Requests.Memory().IsZero() {
		set(&has.Requests, v1.ResourceMemory, &q)
	}
	if q := cgroups.MilliFromQuota(group.CPUQuota, cgroups.QuotaPeriod); q > 0 &&
		(q > cgroups.MinMilliLimit || has.Limits.Cpu().MilliValue() > cgroups.MinMilliLimit) {
		set(&has.Limits, v1.ResourceCPU, resource.NewMilliQuantity(q, resource.DecimalSI))
	}
	if group.Memory > 0 {
		set(&has.Limits, v1.ResourceMemory, resource.NewQuantity(group.Memory, resource.BinarySI))
	}
}

// notEnding takes back what was said of an end that did not come: the host went
// down before it was told that the pod had ended, and the pod runs again.
func notEnding(status *v1.PodStatus) {
	status.Reason, status.Message = "", ""
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.DisruptionTarget && c.Reason == v1.PodReasonTerminationByKubelet
	})
}

func (s *Situation) neverStarted() bool { return s.Actual.Empty() }

// finished says that a phase is final.
func finished(phase v1.PodPhase) bool { return phase == v1.PodSucceeded || phase == v1.PodFailed }

// Phase sums up the pod's containers. With stopped nothing will be started
// any more.
func Phase(s *Situation, status *v1.PodStatus, stopped bool) v1.PodPhase {
	byName := map[string]*v1.ContainerStatus{}
	for i := range status.InitContainerStatuses {
		byName[status.InitContainerStatuses[i].Name] = &status.InitContainerStatuses[i]
	}
	for i := range status.ContainerStatuses {
		byName[status.ContainerStatuses[i].Name] = &status.ContainerStatuses[i]
	}
	initializing := false
	restarting := s.End == nil && s.restartingAll()
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		cs := byName[c.Name]
		switch {
		case isSidecar(c):
			initializing = initializing || cs == nil || cs.Started == nil || !*cs.Started
		case cs != nil && cs.State.Terminated != nil:
			if code := cs.State.Terminated.ExitCode; code != 0 {
				if !restarting && !restarts(s.Pod, c, code) {
					return v1.PodFailed
				}
				initializing = true
			}
		default:
			initializing = true
		}
	}
	var unknown, waiting, running, ended, succeeded, returning int
	for i := range s.Pod.Spec.Containers {
		c := &s.Pod.Spec.Containers[i]
		cs := byName[c.Name]
		switch {
		case cs == nil:
			unknown++
		case cs.State.Running != nil:
			running++
		case cs.State.Terminated != nil:
			ended++
			if cs.State.Terminated.ExitCode == 0 {
				succeeded++
			}
			if restarting || restarts(s.Pod, c, cs.State.Terminated.ExitCode) || s.history(c.Name).Restart != "" && strings.HasSuffix(cs.ContainerID, "://"+s.history(c.Name).Restart) {
				returning++
			}
		case cs.LastTerminationState.Terminated != nil:
			ended++
			returning++
		default:
			waiting++
		}
	}
	begun := running+ended > 0
	switch {
	case initializing && !begun && !stopped:
		return v1.PodPending
	case waiting > 0 && !stopped, unknown > 0:
		return v1.PodPending
	case running > 0:
		return v1.PodRunning
	case stopped || returning == 0:
		if ended == succeeded && waiting == 0 && ended > 0 {
			return v1.PodSucceeded
		}
		return v1.PodFailed
	}
	return v1.PodRunning
}

func addresses(s *Situation, status *v1.PodStatus) {
	if len(s.HostIPs) > 0 {
		status.HostIP = s.HostIPs[0]
		status.HostIPs = nil
		for _, ip := range s.HostIPs {
			status.HostIPs = append(status.HostIPs, v1.HostIP{IP: ip})
		}
	}
	ips := s.podIPs()
	if s.Pod.Spec.HostNetwork && len(s.Actual.Containers) == 0 && len(s.Actual.Sandboxes) == 0 {
		ips = nil
	}
	if len(ips) == 0 {
		return // keep what was told: a stopped pod keeps its address
	}
	status.PodIP = ips[0]
	status.PodIPs = nil
	for _, ip := range ips {
		status.PodIPs = append(status.PodIPs, v1.PodIP{IP: ip})
	}
}

// conditions brings the conditions that are the node agent's up to date and
// leaves the others alone.
func conditions(s *Situation, status *v1.PodStatus) {
	set := func(kind v1.PodConditionType, ok bool, reason, message string) {
		value := v1.ConditionFalse
		if ok {
			value = v1.ConditionTrue
		}
		setCondition(status, v1.PodCondition{
			Type: kind, Status: value, Reason: reason, Message: message,
			ObservedGeneration: s.Pod.Generation, LastTransitionTime: metav1.NewTime(s.Now).Rfc3339Copy(),
		})
	}
	done := status.Phase == v1.PodSucceeded
	completed := func(reason string) string {
		switch status.Phase {
		case v1.PodSucceeded:
			return "PodCompleted"
		case v1.PodFailed:
			return "PodFailed"
		}
		return reason
	}
	sandbox := s.sandboxUsable() && !finished(status.Phase)
	set(v1.PodReadyToStartContainers, sandbox, "", "")
	if mayRestartAll(s.Pod) {
		c := restartingCondition(s, status.Phase)
		c.LastTransitionTime = metav1.NewTime(s.Now).Rfc3339Copy()
		setCondition(status, c)
	}

	incomplete := incompleteInit(s, status)
	if slices.ContainsFunc(status.ContainerStatuses, func(c v1.ContainerStatus) bool { return c.State.Waiting == nil }) {
		incomplete = nil // whatever its sidecars do now
	}
	switch {
	case done:
		set(v1.PodInitialized, true, "PodCompleted", "")
	case len(incomplete) > 0 && isTrueCondition(&s.Pod.Status, v1.PodInitialized):
		set(v1.PodInitialized, true, "", "") // once is for ever
	case len(incomplete) > 0:
		set(v1.PodInitialized, false, "ContainersNotInitialized", fmt.Sprintf("containers with incomplete status: %s", names(incomplete)))
	default:
		set(v1.PodInitialized, true, "", "")
	}

	var unready []string
	for i := range s.Pod.Spec.InitContainers {
		if c := &s.Pod.Spec.InitContainers[i]; isSidecar(c) && !isReady(status.InitContainerStatuses, c.Name) {
			unready = append(unready, c.Name)
		}
	}
	for i := range s.Pod.Spec.Containers {
		if name := s.Pod.Spec.Containers[i].Name; !isReady(status.ContainerStatuses, name) {
			unready = append(unready, name)
		}
	}
	containersReady := len(unready) == 0 && !finished(status.Phase)
	reason, message := "", ""
	if !containersReady {
		reason = completed("ContainersNotReady")
		if !finished(status.Phase) {
			message = fmt.Sprintf("containers with unready status: %s", names(unready))
		}
	}
	set(v1.ContainersReady, containersReady, reason, message)

	ready := containersReady
	if containersReady {
		var gates []string
		for _, gate := range s.Pod.Spec.ReadinessGates {
			c := condition(status, gate.ConditionType)
			if c == nil {
				gates = append(gates, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
			} else if c.Status != v1.ConditionTrue {
				gates = append(gates, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
			}
		}
		if len(gates) > 0 {
			ready, reason, message = false, "ReadinessGatesNotReady", strings.Join(gates, ", ")
		}
	}
	set(v1.PodReady, ready, reason, message)
	if s.End != nil && s.End.Disrupted != "" {
		set(v1.DisruptionTarget, true, s.End.Disrupted, cmp.Or(s.End.Excuse, s.End.Message))
	}
	if c := condition(status, v1.PodScheduled); c == nil {
		set(v1.PodScheduled, true, "", "")
	} else if c.Status == v1.ConditionTrue {
		c.ObservedGeneration = s.Pod.Generation
	}
}

func incompleteInit(s *Situation, status *v1.PodStatus) []string {
	var incomplete []string
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		complete := false
		for j := range status.InitContainerStatuses {
			cs := &status.InitContainerStatuses[j]
			if cs.Name != c.Name {
				continue
			}
			if isSidecar(c) {
				complete = cs.Started != nil && *cs.Started
			} else {
				complete = cs.State.Terminated != nil && cs.State.Terminated.ExitCode == 0
			}
		}
		if !complete {
			incomplete = append(incomplete, c.Name)
		}
	}
	if s.sandboxUsable() && s.initialized() {
		kept := incomplete[:0] // once past them, only sidecars can be incomplete again
		for _, name := range incomplete {
			if c := s.Actual.Latest(name); c == nil || c.State != runtime.Exited || c.ExitCode != 0 {
				kept = append(kept, name)
			}
		}
		incomplete = kept
	}
	return incomplete
}

func isReady(statuses []v1.ContainerStatus, name string) bool {
	for i := range statuses {
		if statuses[i].Name == name {
			return statuses[i].Ready
		}
	}
	return false
}

func names(list []string) string { return "[" + strings.Join(list, " ") + "]" }

func condition(status *v1.PodStatus, kind v1.PodConditionType) *v1.PodCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

func isTrueCondition(status *v1.PodStatus, kind v1.PodConditionType) bool {
	c := condition(status, kind)
	return c != nil && c.Status == v1.ConditionTrue
}

// setCondition replaces a condition; its transition time changes only with
// its status.
func setCondition(status *v1.PodStatus, c v1.PodCondition) {
	old := condition(status, c.Type)
	if old == nil {
		status.Conditions = append(status.Conditions, c)
		return
	}
	if old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	c.LastProbeTime = old.LastProbeTime
	*old = c
}
