package pods

import (
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/runtime"
)

// describer makes the statuses of containers.
type describer struct {
	s       *Situation
	plan    *Plan
	initial v1.ContainerStateWaiting // of a container that nobody has begun to start
	stopped bool
	// restarting: all containers start anew, so that one that is gone was taken away.
	restarting bool
}

func (d *describer) containers(list []v1.Container, initContainers bool) []v1.ContainerStatus {
	if len(list) == 0 {
		return nil
	}
	statuses := make([]v1.ContainerStatus, 0, len(list))
	for i := range list {
		statuses = append(statuses, d.container(&list[i], initContainers))
	}
	slices.SortFunc(statuses, func(a, b v1.ContainerStatus) int {
		if initContainers {
			return 0 // in the order they run
		}
		return strings.Compare(a.Name, b.Name)
	})
	return statuses
}

func (d *describer) ephemeral() []v1.ContainerStatus {
	var statuses []v1.ContainerStatus
	for i := range d.s.Pod.Spec.EphemeralContainers {
		c := v1.Container(d.s.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		status := d.container(&c, false)
		status.Started, status.Ready = nil, false // nobody probes it
		statuses = append(statuses, status)
	}
	return statuses
}

func (d *describer) container(c *v1.Container, isInit bool) v1.ContainerStatus {
	s := d.s
	runs := s.Actual.Runs(c.Name)
	if len(runs) > 0 && (runs[0].State == runtime.Created || s.Busy[startKey(c.Name)] && runs[0].State == runtime.Running) {
		runs = runs[1:] // not started until its postStart hook has ended
	}
	no := false
	status := v1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no, VolumeMounts: d.mounts(c)}
	if len(runs) == 0 {
		status.State = d.absent(c)
		if old := d.told(c.Name); old != nil {
			status.RestartCount = old.RestartCount
			status.LastTerminationState = old.LastTerminationState
			if d.restarting && old.State.Waiting == nil {
				removed(old, &status)
			} else if old.State.Terminated != nil {
				status = *old // the runtime has forgotten it, the API has not
			} else if old.State.Running != nil && status.LastTerminationState.Terminated == nil && status.State.Waiting.Reason == d.initial.Reason {
				// The runtime lost a run that nobody saw the end of.
				status.LastTerminationState.Terminated = &v1.ContainerStateTerminated{Reason: lostReason, ExitCode: 137,
					Message: "The container could not be located when the pod was deleted.  The container used to be Running"}
				if s.Pod.DeletionTimestamp == nil {
					status.RestartCount++
				}
			}
		}
		if isInit && !isSidecar(c) && status.State.Waiting != nil && s.Actual.Latest(c.Name) == nil && !d.restarting && s.anyMainCreated() {
			status.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed",
				Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"}}
			status.Ready = true
		}
		return status
	}
	run := runs[0]
	status.ContainerID = run.URI
	status.User = userStatus(run)
	status.RestartCount = int32(run.Attempt)
	status.ImageID = run.ImageRef
	if run.Image != "" {
		status.Image = run.Image
	}
	status.State = state(run)
	if len(runs) > 1 {
		status.LastTerminationState = v1.ContainerState{Terminated: state(runs[1]).Terminated}
	} else if old := d.told(c.Name); old != nil {
		// The run before is gone from the runtime, but not from the API.
		if old.ContainerID != run.URI && old.State.Terminated != nil {
			status.LastTerminationState = old.State
		} else {
			status.LastTerminationState = old.LastTerminationState
		}
	}
	if run.State == runtime.Running {
		result := s.Probes[run.ID]
		started := result.Started
		status.Started = &started
		status.Ready = started && result.Ready
		if isInit && !isSidecar(c) {
			status.Ready = false
		}
	}
	d.resources(c, run, &status)
	if isInit && !isSidecar(c) && run.State == runtime.Exited && run.ExitCode == 0 {
		status.Ready = true
	}
	if run.State == runtime.Exited && s.End == nil && !s.Gone {
		waiting, ok := d.plan.Waiting[c.Name]
		if fault := s.history(c.Name).Fault; !ok && fault != nil {
			waiting, ok = *fault, true
		}
		if ok {
			status.LastTerminationState = status.State
			status.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: waiting.Reason, Message: waiting.Message}}
			status.Ready = false
		}
	}
	return status
}

// absent is the state of a container that has no run.
func (d *describer) absent(c *v1.Container) v1.ContainerState {
	waiting := d.initial
	if fault := d.s.history(c.Name).Fault; fault != nil {
		waiting = v1.ContainerStateWaiting{Reason: fault.Reason, Message: fault.Message}
	}
	return v1.ContainerState{Waiting: &waiting}
}

// endAll has containers of a pod that has ended be ended, as far as they could have
// been started: nobody will learn more of them.
func endAll(pod *v1.Pod, status *v1.PodStatus) {
	end := func(list []v1.ContainerStatus) {
		for i := range list {
			if list[i].State.Terminated == nil {
				list[i].State = v1.ContainerState{Terminated: lost()}
			}
		}
	}
	begun := func(c v1.ContainerStatus) bool {
		return c.State.Waiting == nil || c.LastTerminationState.Terminated != nil
	}
	initialized := len(pod.Spec.InitContainers) == 0 || slices.ContainsFunc(pod.Status.ContainerStatuses, begun)
	if told := pod.Status.InitContainerStatuses; len(told) > 0 && !initialized {
		last := told[len(told)-1]
		done := func(state v1.ContainerState) bool { return state.Terminated != nil && state.Terminated.ExitCode == 0 }
		if isSidecar(&pod.Spec.InitContainers[len(pod.Spec.InitContainers)-1]) {
			initialized = last.State.Running != nil && isTrue(last.Started)
		} else {
			initialized = done(last.State) || done(last.LastTerminationState)
		}
	}
	if initialized {
		end(status.ContainerStatuses)
	}
	inits := status.InitContainerStatuses
	for n := len(inits); n > 0; n-- {
		if n == 1 || begun(inits[n-1]) {
			end(inits[:n])
			break
		}
	}
}

const lostReason = "ContainerStatusUnknown"

func lost() *v1.ContainerStateTerminated {
	return &v1.ContainerStateTerminated{
		Reason:   lostReason,
		Message:  "The container could not be located when the pod was terminated",
		ExitCode: 137,
	}
}

// told is what the API has of the container.
func (d *describer) told(name string) *v1.ContainerStatus {
	status := &d.s.Pod.Status
	for _, list := range [][]v1.ContainerStatus{status.ContainerStatuses, status.InitContainerStatuses, status.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

// resources says what the container was granted, and what of that it has: the
// runtime knows best, save of requests for memory, which never reach it.
func (d *describer) resources(c *v1.Container, run *runtime.Container, status *v1.ContainerStatus) {
	status.AllocatedResources = c.Resources.Requests
	has := c.Resources.DeepCopy()
	status.Resources = has
	if run.State != runtime.Running {
		return
	}
	real := run.Resources.GetLinux()
	if q := cgroups.MilliFromQuota(real.GetCpuQuota(), real.GetCpuPeriod()); q > 0 && has.Limits != nil &&
		(q > cgroups.MinMilliLimit || has.Limits.Cpu().MilliValue() > cgroups.MinMilliLimit) {
		has.Limits[v1.ResourceCPU] = *resource.NewMilliQuantity(q, resource.DecimalSI)
	}
	if q := real.GetMemoryLimitInBytes(); q > 0 && has.Limits != nil {
		has.Limits[v1.ResourceMemory] = *resource.NewQuantity(q, resource.BinarySI)
	}
	if q := cgroups.MilliFromShares(real.GetCpuShares()); q > 0 && has.Requests != nil &&
		(q > cgroups.MinShares || has.Requests.Cpu().MilliValue() > cgroups.MinShares) {
		has.Requests[v1.ResourceCPU] = *resource.NewMilliQuantity(q, resource.DecimalSI)
	}
	if d.s.Allotment == nil || has.Requests == nil {
		return
	}
	if q := d.s.Allotment.Applied.Containers[c.Name].Requests[v1.ResourceMemory]; !q.IsZero() {
		has.Requests[v1.ResourceMemory] = q
	}
}

// mounts are the container's mounts as its status has them, from the start
// until the pod is gone.
func (d *describer) mounts(c *v1.Container) []v1.VolumeMountStatus {
	if old := d.told(c.Name); old != nil && d.s.Recursive == nil && len(old.VolumeMounts) == len(c.VolumeMounts) {
		return old.VolumeMounts
	}
	var list []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		mount := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if yes, err := recursive(&m, d.s.Recursive != nil && *d.s.Recursive); err == nil && yes {
				mode = v1.RecursiveReadOnlyEnabled
			}
			mount.RecursiveReadOnly = &mode
		}
		list = append(list, mount)
	}
	return list
}

// userStatus is whom a run has, or had, its first process run as.
func userStatus(run *runtime.Container) *v1.ContainerUser {
	user := run.User.GetLinux()
	if user == nil {
		return nil
	}
	return &v1.ContainerUser{Linux: &v1.LinuxContainerUser{UID: user.Uid, GID: user.Gid, SupplementalGroups: user.SupplementalGroups}}
}

// state is a run's state as the API spells it.
func state(run *runtime.Container) v1.ContainerState {
	switch run.State {
	case runtime.Running:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: wholeSeconds(run.StartedAt)}}
	case runtime.Exited:
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			ExitCode: run.ExitCode, Reason: run.Reason, Message: run.Message,
			StartedAt: wholeSeconds(run.StartedAt), FinishedAt: wholeSeconds(run.FinishedAt),
			ContainerID: run.URI,
		}}
	}
	return v1.ContainerState{Terminated: lost()}
}

// wholeSeconds is t as the API keeps times: a status with fractions would never
// equal the one that comes back.
func wholeSeconds(t time.Time) metav1.Time { return metav1.NewTime(t).Rfc3339Copy() }

// ends are the statuses that say of a container, as the ones before did not, that
// it has ended.
func ends(before, after *v1.PodStatus) []v1.ContainerStatus {
	known := map[string]bool{}
	all := func(s *v1.PodStatus) []v1.ContainerStatus {
		return slices.Concat(s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses)
	}
	for _, c := range all(before) {
		known[c.Name] = c.State.Terminated != nil
	}
	return slices.DeleteFunc(all(after), func(c v1.ContainerStatus) bool { return c.State.Terminated == nil || known[c.Name] })
}
