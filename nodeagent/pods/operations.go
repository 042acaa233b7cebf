package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/csi"
	"clusterctl/nodeagent/devices"
	"clusterctl/nodeagent/images"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/volumes"
)

// Reasons a container could not be started, as its status shows them.
const (
	reasonConfig   = "CreateContainerConfigError"
	reasonCreate   = "CreateContainerError"
	reasonRun      = "RunContainerError"
	reasonPostHook = "PostStartHookError"
)

const (
	faultFirst   = time.Second
	faultLongest = 30 * time.Second
)

// outcome adds what an operation has changed to what the runtime was seen to hold
// before, which stays as it is. It is nil if there is nothing, or it is not known.
type outcome func(before *runtime.Pod) *runtime.Pod

// begin starts the action in the background. w.mu is held.
func (w *worker) begin(ctx context.Context, s *Situation, action Action) {
	key := action.Key()
	if running := w.operations[key]; running != nil {
		if action.Verb != Stop || running.action.Verb != Stop {
			return
		}
		running.cancel() // a shorter grace takes over
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &operation{action: action, cancel: cancel, kill: time.Now().Add(max(action.Grace, minimumGrace))}
	w.operations[key] = o
	if action.Verb == Stop && action.Restart {
		w.remember(action.Container).Restart = action.ID
	}
	if action.Verb == Start {
		h := w.remember(action.Container)
		if latest := s.Actual.Latest(action.Container); latest != nil {
			h.Crash = s.crash(action.Container).Restarted(latest.FinishedAt, s.Now)
		}
	}
	if action.Verb == PreStop {
		w.hooked[action.ID] = true
	}
	if action.Verb == Prepare {
		w.stale = false
	}
	mounted := w.mounted
	w.agent.wg.Go(func() {
		defer cancel()
		came, err := w.perform(ctx, s, action, mounted)
		if err != nil && ctx.Err() != nil {
			err = ctx.Err() // called off
		}
		w.finish(o, came, err)
	})
}

// background runs what belongs to no action, once at a time. w.mu is held.
func (w *worker) background(ctx context.Context, key string, do func(context.Context) error) {
	if w.operations[key] != nil {
		return
	}
	if fault, ok := w.faults[key]; ok && time.Now().Before(fault.Until) {
		time.AfterFunc(time.Until(fault.Until), w.poke)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	o := &operation{action: Action{Verb: Verb(key)}, cancel: cancel}
	w.operations[key] = o
	w.agent.wg.Go(func() {
		defer cancel()
		w.finish(o, nil, do(ctx))
	})
}

// finish records how an operation ended, and what came of it, and looks again.
func (w *worker) finish(o *operation, came outcome, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.poke()
	a, key := o.action, o.action.Key()
	over := w.operations[key] == o // or another took over
	if over {
		delete(w.operations, key)
	}
	if a.Verb.stirs() {
		w.finished++
		if err != nil || !over {
			came = nil
		}
		w.learn(came)
	}
	if !over {
		return
	}
	if a.Verb == Start {
		w.remember(a.Container).Fault = nil
	}
	if err == nil {
		delete(w.faults, key)
		delete(w.delays, key)
		switch a.Verb {
		case Prepare:
			w.prepared = true
		case Teardown:
			w.tornDown = true
		}
		return
	}
	if errors.Is(err, context.Canceled) {
		return
	}
	delay := min(max(2*w.delays[key], faultFirst), faultLongest)
	w.delays[key] = delay
	fault := Fault{Reason: string(a.Verb), Message: err.Error(), Until: time.Now().Add(delay)}
	if a.Verb == Start {
		var image *images.Fault
		var start *startFault
		switch {
		case errors.As(err, &image):
			fault.Reason, fault.Message, fault.Until = image.Reason, image.Message, image.Until
		case errors.As(err, &start):
			fault.Reason = start.reason
			if start.reason == reasonPostHook {
				fault.Until = time.Time{}
			}
		}
		w.remember(a.Container).Fault = &fault
	} else {
		w.faults[key] = fault
	}
	w.logger.Warn("cannot "+string(a.Verb), "container", a.Container, "id", a.ID, "error", err)
}

func (w *worker) remember(container string) *History {
	if w.history[container] == nil {
		w.history[container] = &History{}
	}
	return w.history[container]
}

// perform does the action, and says what that has changed of what the runtime
// holds, as far as it knows. It may take long; w.mu is not held.
func (w *worker) perform(ctx context.Context, s *Situation, action Action, mounted *volumes.Mounted) (outcome, error) {
	a, rt := w.agent, w.agent.Config.Runtime
	without := func(p *runtime.Pod) *runtime.Pod { return p.Without(action.ID) }
	switch action.Verb {
	case Prepare:
		return nil, w.prepare(ctx, s)
	case RunSandbox:
		return w.runSandbox(ctx, s.Pod, action.Attempt)
	case Start:
		return w.start(ctx, s, action, mounted)
	case PreStop:
		return nil, w.preStop(ctx, s, action)
	case Stop:
		return w.stop(ctx, s, action)
	case StopSandbox:
		defer a.ends.take(ctx)()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return func(p *runtime.Pod) *runtime.Pod { return p.Stopped(action.ID) }, rt.StopPodSandbox(ctx, action.ID)
	case RemoveSandbox:
		// Behind those that are to end: what is left of the others can wait.
		defer a.ends.take(ctx)()
		return without, rt.RemoveSandbox(ctx, action.ID)
	case Remove:
		return without, rt.RemoveContainer(ctx, action.ID)
	case Resize:
		return nil, w.resize(ctx, s)
	case Teardown:
		a.Objects.Release(w.uid)
		a.images.Forget(s.Pod)
		err := errors.Join(a.Devices.Unprepare(ctx, w.uid), a.Volumes.Teardown(ctx, w.uid), a.Cgroups.Remove(w.uid))
		if err == nil {
			a.users.release(w.uid)
		}
		return nil, err
	}
	return nil, nil
}

// look observes one container of the pod. What cannot be observed is not known.
func (w *worker) look(ctx context.Context, sandbox, id string) outcome {
	run, err := w.agent.Config.Runtime.Container(ctx, sandbox, id)
	if err != nil {
		return nil
	}
	return func(p *runtime.Pod) *runtime.Pod { return p.With(run) }
}

func (w *worker) prepare(ctx context.Context, s *Situation) error {
	pod := withAddresses(s)
	if !s.Prepared {
		limits := cgroups.PodLimits(pod)
		if s.Allotment != nil {
			limits = s.Allotment.Group
		}
		if err := w.agent.Cgroups.Create(pod, limits); err != nil {
			return err
		}
	}
	if !s.Prepared {
		if err := w.agent.Devices.Prepare(ctx, pod); err != nil {
			if none := (*devices.Refusal)(nil); errors.As(err, &none) && s.Actual.Empty() {
				w.refuse("UnexpectedAdmissionError", none.Error())
			} else if ctx.Err() == nil {
				w.agent.event(pod, "", v1.EventTypeWarning, "FailedPrepareDynamicResources", fmt.Sprintf("Failed to prepare dynamic resources: %v", err))
			}
			return err
		}
	}
	mounted, err := w.agent.Volumes.Prepare(ctx, pod)
	if err != nil {
		if full := (*csi.AttachError)(nil); errors.As(err, &full) && full.Limit && s.Actual.Empty() {
			w.refuse("VolumeAttachmentLimitExceeded", "Node has reached its volume attachment limit, rejecting pod. "+err.Error())
		} else if ctx.Err() == nil {
			w.agent.event(pod, "", v1.EventTypeWarning, "FailedMount", err.Error())
		}
		return err
	}
	w.mu.Lock()
	w.mounted = mounted
	w.mu.Unlock()
	return nil
}

// refusal is why a pod that came to this host cannot be here.
type refusal struct{ reason, message string }

func (w *worker) refuse(reason, message string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = &refusal{reason, message}
}

func (w *worker) runSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) (outcome, error) {
	if attempt > 0 {
		w.agent.event(pod, "", v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	}
	config, handler, err := w.sandbox(ctx, pod, attempt)
	if err != nil {
		if ctx.Err() == nil {
			w.agent.event(pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", err))
		}
		return nil, err
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	defer w.agent.sandboxes.take(ctx)()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var id string
	err = steadily(ctx, func(ctx context.Context) (err error) {
		id, err = w.agent.Config.Runtime.RunPodSandbox(ctx, config, handler)
		return err
	})
	w.agent.Metrics.PodSandbox(config.Linux.SecurityContext.NamespaceOptions.UsernsOptions != nil, err)
	if err != nil {
		if ctx.Err() == nil {
			w.agent.event(pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox", fmt.Sprintf("Failed to create pod sandbox: %v", err))
		}
		return nil, fmt.Errorf("run sandbox: %w", err)
	}
	sandbox, err := w.agent.Config.Runtime.Sandbox(ctx, id)
	if err != nil {
		return nil, nil // it is there, and is observed with the rest
	}
	return func(p *runtime.Pod) *runtime.Pod { return p.WithSandbox(sandbox) }, nil
}

// sandbox is what the runtime has to know to make the pod's sandbox, and which of
// its handlers does it.
func (w *worker) sandbox(ctx context.Context, pod *v1.Pod, attempt uint32) (config *criv1.PodSandboxConfig, handler string, err error) {
	if handler, err = w.agent.runtimeHandler(ctx, pod); err != nil {
		return nil, "", err
	}
	w.mu.Lock()
	w.handler = &handler
	w.mu.Unlock()
	config, err = w.agent.sandboxConfig(ctx, pod, attempt)
	return config, handler, err
}

// patience is how long a call to the runtime may take once it is called off.
const patience = 10 * time.Second

// steadily does what should not be interrupted at any moment: a runtime that is,
// while it starts a process, leaves it behind.
func steadily(ctx context.Context, do func(context.Context) error) error {
	steady, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(patience, cancel) })()
	return do(steady)
}

// preStop tells that a container is to stop, and runs its hook within its grace.
// A hook that fails holds nothing up.
func (w *worker) preStop(ctx context.Context, s *Situation, action Action) error {
	a := w.agent
	a.event(s.Pod, action.Container, v1.EventTypeNormal, "Killing", action.Message)
	if !hasPreStop(s.Pod, action.Container) || action.Grace <= 0 {
		return nil
	}
	c, _ := find(s.Pod, action.Container)
	hook, cancel := context.WithTimeout(ctx, action.Grace)
	defer cancel()
	err := a.hook(hook, s.Pod, c, c.Lifecycle.PreStop, action.ID, s.podIPs())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		w.logger.Info("preStop hook failed", "container", action.Container, "error", err)
		a.event(s.Pod, action.Container, v1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
	}
	return nil
}

// stop runs the preStop hook, unless that was done, and stops the container, both
// within its grace.
func (w *worker) stop(ctx context.Context, s *Situation, action Action) (outcome, error) {
	a, began := w.agent, time.Now()
	if !action.Hooked {
		if err := w.preStop(ctx, s, action); err != nil {
			return nil, err
		}
	}
	left := max(action.Grace-time.Since(began), minimumGrace)
	if !a.ShuttingDown() { // the host does not wait
		// A runtime that is told to stop all of many pods at once comes to none of
		// them in the time that it gives itself, and then does them one by one.
		defer a.stops.take(ctx)()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	err := a.Config.Runtime.StopContainer(ctx, action.ID, int64((left+time.Second-1)/time.Second))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if runtime.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return w.lookAtEnd(ctx, action.ID), nil
}

// lookAtEnd observes a container that was stopped, unless its end was heard of.
func (w *worker) lookAtEnd(ctx context.Context, id string) outcome {
	w.mu.Lock()
	actual := w.actual
	w.mu.Unlock()
	if actual == nil {
		return nil
	}
	for _, run := range actual.Containers {
		if run.ID == id && run.State == runtime.Exited {
			return func(p *runtime.Pod) *runtime.Pod { return p }
		}
		if run.ID == id {
			return w.look(ctx, run.SandboxID, id)
		}
	}
	return nil
}

// patchStatus sends what differs between the status that the API has and the
// one that it shall have.
func (w *worker) patchStatus(ctx context.Context, pod *v1.Pod, status v1.PodStatus) error {
	before, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: pod.Status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	after, err := json.Marshal(v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: status})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Pod{})
	if err != nil {
		return fmt.Errorf("compare statuses: %w", err)
	}
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return fmt.Errorf("read back patch: %w", err)
	}
	fields["metadata"] = map[string]any{"uid": pod.UID}
	if patch, err = json.Marshal(fields); err != nil {
		return fmt.Errorf("encode patch: %w", err)
	}
	began := time.Now()
	got, err := w.agent.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) && w.static {
		w.mirrored(pod, true)
		return nil
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // gone, or another pod of the same name: the watch will tell
	}
	if err != nil {
		return fmt.Errorf("patch status: %w", err)
	}
	w.agent.Metrics.StatusTold(time.Since(began))
	for _, end := range ends(&pod.Status, &status) {
		w.agent.Metrics.ContainerEnded(kindOf(pod, end.Name), end.State.Terminated.ExitCode, end.State.Terminated.Reason)
	}
	if status.Phase == v1.PodRunning && pod.Status.Phase != v1.PodRunning {
		w.mu.Lock()
		plain := !w.pulled && len(pod.Spec.InitContainers) == 0
		w.mu.Unlock()
		w.agent.Metrics.PodRuns(time.Since(pod.CreationTimestamp.Time), time.Since(w.seen), plain)
	}
	got.ManagedFields = nil
	if w.static {
		w.mu.Lock()
		current := w.mirror != nil && w.mirror.UID == got.UID // and not gone meanwhile
		w.mu.Unlock()
		if current {
			w.mirrored(got, false)
		}
		return nil
	}
	w.update(got)
	return nil
}

// deleteObject takes the pod out of the API once nothing of it runs.
func (w *worker) deleteObject(ctx context.Context, pod *v1.Pod) error {
	now := int64(0)
	err := w.agent.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod: %w", err)
	}
	w.mu.Lock()
	w.deleted = true
	w.mu.Unlock()
	return nil
}

// purge removes the last traces: logs and probes.
func (w *worker) purge(s *Situation) {
	w.agent.probes.StopAllBut(w.uid, nil)
	if s.Pod.Name == "" {
		return
	}
	if err := os.RemoveAll(w.agent.logDirectory(s.Pod)); err != nil {
		w.logger.Warn("cannot remove logs", "error", err)
	}
}

// withAddresses is the pod with the addresses that it is about to report.
func withAddresses(s *Situation) *v1.Pod {
	pod := s.Pod.DeepCopy()
	addresses(s, &pod.Status)
	return pod
}

// find is the named container of the pod, and the target of an ephemeral one.
func find(pod *v1.Pod, name string) (c *v1.Container, target string) {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i], ""
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if e := &pod.Spec.EphemeralContainers[i]; e.Name == name {
			return (*v1.Container)(&e.EphemeralContainerCommon), e.TargetContainerName
		}
	}
	return nil, ""
}
