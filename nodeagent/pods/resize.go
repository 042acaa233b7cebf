package pods

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/runtime"
)

// resizing says whether anything that runs still has to be given what the pod
// was granted.
func (s *Situation) resizing() bool {
	if s.Allotment == nil {
		return false
	}
	if cgroups.PodLimits(s.Pod) != s.Allotment.Group {
		return true
	}
	for _, c := range resizableContainers(s.Pod) {
		if run := s.current(c.Name); run != nil && run.State == runtime.Running && s.differs(c.Name) {
			return true
		}
	}
	return false
}

func (s *Situation) differs(container string) bool {
	for _, name := range resizable {
		if s.Allotment.Granted.amounts(container, name) != s.Allotment.Applied.amounts(container, name) {
			return true
		}
	}
	return false
}

// outgrown says that a running container has to start anew to be resized.
func (s *Situation) outgrown(c *v1.Container) bool {
	if s.Allotment == nil || isInit(s.Pod, c.Name) && !isSidecar(c) { // the API lets no such policy be
		return false
	}
	for _, policy := range c.ResizePolicy {
		name := policy.ResourceName
		if policy.RestartPolicy == v1.RestartContainer &&
			s.Allotment.Granted.amounts(c.Name, name) != s.Allotment.Applied.amounts(c.Name, name) {
			return true
		}
	}
	return false
}

// resizableContainers are those that can be resized while they run.
func resizableContainers(pod *v1.Pod) []*v1.Container {
	var list []*v1.Container
	for i := range pod.Spec.InitContainers {
		list = append(list, &pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		list = append(list, &pod.Spec.Containers[i])
	}
	return list
}

// negotiate asks for room if the pod wants to be of another size, and keeps
// the conditions that tell how far that has come. w.mu is held.
func (w *worker) negotiate(s *Situation) {
	if w.allotment == nil {
		return
	}
	a := w.agent
	if s.End != nil || s.Gone {
		a.ledger.keep(w.uid)
		w.pending, w.progress = nil, nil
		return
	}
	wants := resourcesOf(w.pod)
	if wants.equal(w.allotment.Granted) {
		a.ledger.keep(w.uid)
		w.pending = nil
	} else if granted, reason, message := a.ledger.resize(w.pod); granted {
		w.allotment.Granted = wants
		w.keepAllotment()
		w.pending, w.progress = nil, nil
		w.progress = w.resizeCondition(w.progress, v1.PodResizeInProgress, "", "", s)
		a.event(w.pod, "", v1.EventTypeNormal, "ResizeStarted", resizeMessage("Pod resize started", w.pod, w.pod.Generation, ""))
	} else if reason != "" {
		before := w.pending
		w.pending = w.resizeCondition(before, v1.PodResizePending, v1.PodReasonDeferred, message, s)
		if before == nil || before.Reason != w.pending.Reason || before.ObservedGeneration != w.pending.ObservedGeneration {
			a.event(w.pod, "", v1.EventTypeWarning, "ResizeDeferred",
				resizeMessage("Pod resize "+v1.PodReasonDeferred, w.pod, w.pod.Generation, message))
		}
	}
	s.Pod, s.Allotment = w.allotment.Granted.of(w.pod), w.allotment.clone()
	switch {
	case s.resizing():
		if w.progress == nil {
			w.progress = w.resizeCondition(nil, v1.PodResizeInProgress, "", "", s)
		}
	case w.progress != nil:
		a.event(w.pod, "", v1.EventTypeNormal, "ResizeCompleted",
			resizeMessage("Pod resize completed", s.Pod, w.progress.ObservedGeneration, ""))
		w.progress = nil
	}
	s.Resizing = nil
	for _, c := range []*v1.PodCondition{w.pending, w.progress} {
		if c != nil {
			s.Resizing = append(s.Resizing, *c)
		}
	}
}

func (w *worker) resizeCondition(before *v1.PodCondition, kind v1.PodConditionType, reason, message string, s *Situation) *v1.PodCondition {
	c := &v1.PodCondition{
		Type: kind, Status: v1.ConditionTrue, Reason: reason, Message: message,
		ObservedGeneration: w.pod.Generation, LastTransitionTime: metav1.NewTime(s.Now).Rfc3339Copy(),
	}
	if before != nil && before.Reason == reason {
		c.LastTransitionTime = before.LastTransitionTime
	}
	return c
}

// keepAllotment writes the allotment down. w.mu is held.
func (w *worker) keepAllotment() {
	if err := w.agent.saveAllotment(w.uid, w.allotment); err != nil {
		w.logger.Warn("cannot write down what the pod is allotted", "error", err)
	}
}

// started notes what a container has been started with.
func (w *worker) started(container string, with Resources) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allotment == nil {
		return
	}
	changed := false
	for _, name := range resizable {
		if w.allotment.Applied.amounts(container, name) != with.amounts(container, name) {
			w.allotment.Applied.take(container, name, with)
			changed = true
		}
	}
	if changed {
		w.keepAllotment()
	}
}

// resize gives running containers, and the pod's cgroup, what was granted.
// What is limited anew must not be in use; and at no time is a container
// allowed more than the pod: the pod grows first and shrinks last.
func (w *worker) resize(ctx context.Context, s *Situation) error {
	own := *s // what is applied changes on the way
	own.Allotment = s.Allotment.clone()
	s = &own
	err := w.checkMemory(ctx, s)
	for _, name := range resizable {
		if err == nil {
			err = w.resizeOne(ctx, s, name)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allotment == nil {
		return err
	}
	if err == nil {
		w.allotment.Applied.Pod = s.Allotment.Granted.Pod.DeepCopy()
	}
	w.keepAllotment()
	if err != nil && ctx.Err() == nil {
		before := w.progress
		w.progress = w.resizeCondition(before, v1.PodResizeInProgress, v1.PodReasonError, err.Error(), s)
		if before != nil {
			w.progress.ObservedGeneration = before.ObservedGeneration
		}
		if before == nil || before.Message != w.progress.Message {
			w.agent.event(s.Pod, "", v1.EventTypeWarning, "ResizeError",
				resizeMessage("Pod resize error", s.Pod, w.progress.ObservedGeneration, err.Error()))
		}
	}
	return err
}

// resizeOne changes one resource.
func (w *worker) resizeOne(ctx context.Context, s *Situation, name v1.ResourceName) error {
	want, have := cgroups.PodLimits(s.Pod), s.Allotment.Group
	grown, wanted := have, have // the cgroup before and after containers change
	if name == v1.ResourceMemory {
		grown.Memory, wanted.Memory = larger(want.Memory, have.Memory), want.Memory
	} else {
		grown.CPUQuota, wanted.CPUQuota = larger(want.CPUQuota, have.CPUQuota), want.CPUQuota
		grown.CPUShares, wanted.CPUShares = max(want.CPUShares, have.CPUShares), want.CPUShares
	}
	if err := w.setGroup(ctx, s, grown); err != nil {
		return err
	}
	granted := s.Allotment.Granted
	var list []*v1.Container
	for _, c := range resizableContainers(s.Pod) {
		run := s.current(c.Name)
		if run != nil && run.State == runtime.Running && granted.amounts(c.Name, name) != s.Allotment.Applied.amounts(c.Name, name) {
			list = append(list, c)
		}
	}
	growth := func(c *v1.Container) int { // those that shrink make room for the others
		to, from := granted.amounts(c.Name, name), s.Allotment.Applied.amounts(c.Name, name)
		return cmp.Or(compareLimits(to.limit, from.limit), cmp.Compare(to.request, from.request))
	}
	slices.SortStableFunc(list, func(a, b *v1.Container) int { return cmp.Compare(growth(a), growth(b)) })
	for _, c := range list {
		s.Allotment.Applied.take(c.Name, name, granted)
		mixed := Resources{Pod: granted.Pod, Containers: s.Allotment.Applied.Containers}.of(s.Pod)
		with, _ := find(mixed, c.Name)
		err := w.agent.Config.Runtime.UpdateContainerResources(ctx, s.current(c.Name).ID,
			&criv1.ContainerResources{Linux: cgroups.ContainerResources(s.Pod, with, w.agent.MemoryCapacity)})
		if err != nil {
			return fmt.Errorf("update %s of container %q: %w", name, c.Name, err)
		}
		w.mu.Lock()
		if w.allotment != nil {
			w.allotment.Applied.take(c.Name, name, granted)
		}
		w.mu.Unlock()
	}
	return w.setGroup(ctx, s, wanted)
}

// setGroup changes the pod's cgroup, if it has to be.
func (w *worker) setGroup(ctx context.Context, s *Situation, limits cgroups.Limits) error {
	if limits == s.Allotment.Group {
		return nil
	}
	if err := w.tellSandbox(ctx, s, limits); err != nil {
		return err
	}
	if err := w.agent.Cgroups.Create(s.Pod, limits); err != nil {
		return err
	}
	s.Allotment.Group = limits
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allotment != nil {
		w.allotment.Group = limits
	}
	return nil
}

// tellSandbox asks the runtime, where it wants to be asked, whether the pod may
// have another size.
func (w *worker) tellSandbox(ctx context.Context, s *Situation, limits cgroups.Limits) error {
	sandbox := s.Actual.Sandbox()
	if sandbox == nil {
		return nil
	}
	_, overhead := cgroups.SandboxResources(s.Pod)
	_, err := w.agent.Config.Runtime.UpdatePodSandboxResources(ctx, &criv1.UpdatePodSandboxResourcesRequest{
		PodSandboxId: sandbox.ID, Resources: limits.Resources(s.Pod), Overhead: overhead})
	if code := status.Code(err); code == codes.Unimplemented || code == codes.Unknown && err != nil && strings.Contains(err.Error(), "not implemented") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("update resources of the sandbox: %w", err)
	}
	return nil
}

// checkMemory refuses limits below what is in use: the kernel would enforce
// them by killing.
func (w *worker) checkMemory(ctx context.Context, s *Situation) error {
	want := cgroups.PodLimits(s.Pod).Memory
	podShrinks := compareLimits(want, s.Allotment.Group.Memory) < 0
	shrinking := map[string]int64{} // new limits by container
	for _, c := range resizableContainers(s.Pod) {
		to := s.Allotment.Granted.amounts(c.Name, v1.ResourceMemory).limit
		if run := s.current(c.Name); run != nil && run.State == runtime.Running &&
			compareLimits(to, s.Allotment.Applied.amounts(c.Name, v1.ResourceMemory).limit) < 0 {
			shrinking[c.Name] = to
		}
	}
	if !podShrinks && len(shrinking) == 0 {
		return nil
	}
	var total uint64
	var faults []string
	for _, c := range resizableContainers(s.Pod) {
		run := s.current(c.Name)
		if run == nil || run.State != runtime.Running {
			continue
		}
		stats, err := w.agent.Config.Runtime.ContainerStats(ctx, run.ID)
		if err != nil {
			return fmt.Errorf("read memory usage of container %q: %w", c.Name, err)
		}
		usage := stats.GetMemory().GetUsageBytes().GetValue()
		total += usage
		if limit, ok := shrinking[c.Name]; ok && usage >= uint64(limit) {
			faults = append(faults, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Name, limit, usage))
		}
	}
	if podShrinks && total >= uint64(want) {
		faults = slices.Insert(faults, 0, fmt.Sprintf("attempting to set pod memory limit (%d) below current usage (%d)", want, total))
	}
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("cannot decrease memory limits: %s", faults[0])
	}
	return fmt.Errorf("cannot decrease memory limits: [%s]", strings.Join(faults, ", "))
}

// larger is the less strict of two limits, of which 0 is none.
func larger(a, b int64) int64 {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// compareLimits compares limits, of which 0 is none.
func compareLimits(a, b int64) int {
	if a == 0 || b == 0 {
		return cmp.Compare(b, a)
	}
	return cmp.Compare(a, b)
}

// resizeMessage is what an event tells of a resize.
func resizeMessage(prefix string, pod *v1.Pod, generation int64, fault string) string {
	type size struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	var sizes struct {
		Init       []size `json:"initContainers,omitempty"`
		Containers []size `json:"containers,omitempty"`
		Generation int64  `json:"generation"`
		Error      string `json:"error,omitempty"`
	}
	for i := range pod.Spec.InitContainers {
		sizes.Init = append(sizes.Init, size{pod.Spec.InitContainers[i].Name, pod.Spec.InitContainers[i].Resources})
	}
	for i := range pod.Spec.Containers {
		sizes.Containers = append(sizes.Containers, size{pod.Spec.Containers[i].Name, pod.Spec.Containers[i].Resources})
	}
	sizes.Generation, sizes.Error = generation, fault
	raw, err := json.Marshal(sizes)
	if err != nil {
		return prefix
	}
	return prefix + ": " + string(raw)
}
