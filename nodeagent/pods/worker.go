package pods

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"clusterctl/nodeagent/metrics"
	"clusterctl/nodeagent/probes"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/volumes"
)

// worker makes one pod real.
type worker struct {
	agent   *Agent
	uid     types.UID
	name    types.NamespacedName
	static  bool // from a manifest of this host; the API has no more than its mirror
	wake    chan struct{}
	settled atomic.Bool // nothing of the pod runs, and the API knows
	logger  *slog.Logger
	seen    time.Time

	mu         sync.Mutex
	pod        *v1.Pod          // the newest that the API gave
	gone       bool             // the API has it no more
	mirror     *v1.Pod          // of a static pod; nil while there is none
	allotment  *Allotment       // nil until the pod is admitted
	pending    *v1.PodCondition // why the pod cannot be resized yet
	progress   *v1.PodCondition // of a resize
	end        *End
	history    map[string]*History
	faults     map[string]Fault
	delays     map[string]time.Duration // of faults, doubling
	operations map[string]*operation
	finished   uint64         // operations on the runtime so far: what was observed before one is out of date
	actual     *runtime.Pod   // as last observed; nil if it may have changed since
	stirs      uint64         // times that it may have
	unheard    []runtime.News // that an operation under way may explain
	puzzled    time.Time      // when the first of them was heard
	later      *time.Timer    // pokes once an operation has had its moment; nil: none does
	prepared   bool
	refused    *refusal // the pod cannot be here
	handler    *string  // of the pod's runtime class; nil: not asked for yet
	tornDown   bool
	mounted    *volumes.Mounted
	stale      bool                 // contents of volumes changed
	backOffs   map[string]time.Time // ends of back-offs that an event told of, by container
	messages   map[string]string    // termination messages, by run
	hooked     map[string]bool      // runs whose preStop hook was begun before their stop
	pulled     bool                 // an image of the pod had to be pulled
	closing    time.Time            // when its containers had ended, and the rest began to go
	deleted    bool                 // the API does away with the pod, as soon as it has no finalizers
}

// operation is an action under way.
type operation struct {
	action Action
	cancel context.CancelFunc
	kill   time.Time // Stop: when the container is killed
}

func newWorker(a *Agent, pod *v1.Pod, orphan bool) *worker {
	w := &worker{
		agent: a, uid: pod.UID, pod: pod, gone: orphan,
		name: fullName(pod), static: isStatic(pod),
		wake: make(chan struct{}, 1), seen: time.Now(),
		logger:     a.Logger.With("pod", pod.Namespace+"/"+pod.Name),
		history:    map[string]*History{},
		faults:     map[string]Fault{},
		delays:     map[string]time.Duration{},
		operations: map[string]*operation{},
		messages:   map[string]string{},
		hooked:     map[string]bool{},
		backOffs:   map[string]time.Time{},
	}
	if name := pod.Spec.RuntimeClassName; name == nil || *name == "" {
		w.handler = new(string)
	}
	w.poke()
	return w
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// How long news of the runtime wait for the operation that they are most likely of:
// settling until the worker looks, for the operation's end has it look anyway;
// explaining until it asks what they are about, for the operation knows.
const (
	settling   = 100 * time.Millisecond
	explaining = time.Second
)

// forget has the next step observe the pod anew. w.mu is held.
func (w *worker) forget() { w.actual, w.unheard, w.stirs = nil, nil, w.stirs+1 }

// stirred tells the worker what was heard of its pod from the runtime.
func (w *worker) stirred(news runtime.News) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.hear(news) {
		return
	}
	if w.stirring() {
		if w.later == nil {
			w.later = time.AfterFunc(settling, w.poke)
		}
		return
	}
	w.poke()
}

// stirring says that an operation is under way that changes what the runtime
// holds of the pod. w.mu is held.
func (w *worker) stirring() bool {
	for _, o := range w.operations {
		if o.action.Verb.stirs() {
			return true
		}
	}
	return false
}

// hear adds news to what was observed, and says whether they were any. What cannot
// be added has the runtime asked again, unless an operation under way explains it
// soon. w.mu is held.
func (w *worker) hear(news runtime.News) bool {
	if w.actual == nil {
		w.forget() // what is being observed now may not have it
		return true
	}
	switch known := news.Update(w.actual); {
	case known == w.actual:
		return false
	case known != nil:
		w.observed(known)
	case w.stirring():
		if len(w.unheard) == 0 {
			w.puzzled = time.Now()
		}
		w.unheard = append(w.unheard, news)
	default:
		w.forget()
	}
	return true
}

// observed takes what the runtime holds of the pod. Others may go on reading what
// was observed before. w.mu is held.
func (w *worker) observed(actual *runtime.Pod) {
	w.readMessages(actual)
	w.actual = actual
}

// learn takes what has come of an operation of the worker's own, and then what was
// heard meanwhile; nil: it is not known. w.mu is held.
func (w *worker) learn(came outcome) {
	if came == nil || w.actual == nil {
		w.forget()
		return
	}
	w.observed(came(w.actual))
	unheard := w.unheard
	w.unheard = nil
	for _, news := range unheard {
		w.hear(news)
	}
}

// update takes a newer version of the pod.
func (w *worker) update(pod *v1.Pod) {
	w.mu.Lock()
	if !older(pod, w.pod) {
		if !maps.Equal(pod.Labels, w.pod.Labels) || !maps.Equal(pod.Annotations, w.pod.Annotations) {
			w.stale = true
		}
		w.pod = pod
	}
	w.mu.Unlock()
	w.poke()
}

func older(a, b *v1.Pod) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	return err == nil && order < 0
}

func (w *worker) delete(pod *v1.Pod) {
	w.mu.Lock()
	w.pod, w.gone = pod, true
	w.mu.Unlock()
	w.agent.ledger.leave(w.uid)
	w.poke()
}

// contentsChanged lets what waited for the contents of objects try again.
func (w *worker) contentsChanged() {
	w.mu.Lock()
	w.stale = true
	delete(w.faults, string(Prepare))
	for _, h := range w.history {
		if h.Fault != nil && h.Fault.Reason == reasonConfig {
			h.Fault.Until = time.Time{}
		}
	}
	w.mu.Unlock()
	w.poke()
}

// lastWord is how long the sandbox and volumes of a pod whose containers have ended
// may take to be gone before its status tells of that alone: the last status follows
// in a moment, mostly.
const lastWord = 10 * time.Second

// sameContainers says that two statuses say the same of a pod's containers.
func sameContainers(a, b v1.PodStatus) bool {
	return equality.Semantic.DeepEqual(a.ContainerStatuses, b.ContainerStatuses) &&
		equality.Semantic.DeepEqual(a.InitContainerStatuses, b.InitContainerStatuses) &&
		equality.Semantic.DeepEqual(a.EphemeralContainerStatuses, b.EphemeralContainerStatuses)
}

// run steps until the host holds nothing of the pod, or ctx ends.
func (w *worker) run(ctx context.Context) {
	// What acts on the host is called off with the worker; a request to the API
	// server is not: the deletion that the worker ends by may be heard of before
	// its answer comes.
	acting, callOff := context.WithCancel(ctx)
	defer callOff()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
			w.mu.Lock()
			w.forget() // in case that nobody has told
			w.mu.Unlock()
		}
		began := time.Now()
		next, done := w.step(ctx, acting)
		w.agent.Metrics.PodStep(w.stage(), time.Since(began))
		if done {
			return
		}
		timer.Reset(max(min(time.Until(next), time.Hour), 10*time.Millisecond))
	}
}

// step observes, decides, describes and acts once. It says when to step
// again at the latest, and whether the pod is off the host.
func (w *worker) step(ctx, acting context.Context) (next time.Time, done bool) {
	now := time.Now()
	w.mu.Lock()
	actual, finished, stirs := w.actual, w.finished, w.stirs
	if w.later != nil {
		w.later.Stop()
		w.later = nil
	}
	w.mu.Unlock()
	fresh := actual == nil
	if fresh {
		var err error
		if actual, err = w.agent.Config.Runtime.Pod(ctx, w.uid); err != nil {
			if ctx.Err() == nil {
				w.logger.Debug("cannot observe the pod", "error", err) // the runtime is down: runtime.Watch says so once
			}
			return now.Add(2 * time.Second), false
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished != finished {
		return now, false // an operation ended meanwhile: look again, or it is done twice
	}
	if fresh {
		w.readMessages(actual)
		if w.stirs == stirs {
			w.actual = actual
		}
	} else if w.actual != nil {
		actual = w.actual // which may have come to know of an end meanwhile
	}
	s := w.situation(actual, now)
	w.watchProbes(s)
	w.judgeEnd(s)
	w.negotiate(s)
	unmapped := w.mapHostPorts(s)
	plan := Decide(s)
	if plan.Purged {
		w.agent.ledger.release(w.uid)
		w.purge(s)
		return next, true
	}
	if plan.Stopped {
		w.agent.ledger.release(w.uid)
	}
	next = plan.Next
	if next.IsZero() {
		next = now.Add(time.Hour)
	}
	if len(w.unheard) > 0 {
		next = earlier(next, w.puzzled.Add(explaining))
	}
	status := Describe(s, &plan)
	told := equality.Semantic.DeepEqual(status, w.pod.Status)
	plan.Actions = shorten(plan.Actions, s, told)
	for _, action := range plan.Actions {
		if unmapped != nil && action.Verb == Start {
			next = earlier(next, now.Add(2*time.Second))
			continue
		}
		w.begin(acting, s, action)
	}
	if at := w.refreshAt(s); !at.IsZero() {
		if now.Before(at) {
			next = earlier(next, at)
		} else {
			w.begin(acting, s, Action{Verb: Prepare})
		}
	}
	if deadline := w.deadline(); !deadline.IsZero() && s.End == nil {
		next = earlier(next, deadline)
	}
	w.tellBackOffs(&plan)
	if plan.Closing && w.closing.IsZero() {
		w.closing = now
	}
	if last := w.closing.Add(lastWord); plan.Closing && !plan.Stopped && now.Before(last) && sameContainers(status, w.pod.Status) {
		return earlier(next, last), false
	}
	if !w.gone {
		w.report(ctx, s, &plan, status, told)
	}
	return next, false
}

// stage is what the worker is about, for those who count.
func (w *worker) stage() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.end != nil || w.gone:
		return metrics.Kill
	case w.pod.Status.Phase == "" || w.pod.Status.Phase == v1.PodPending:
		return metrics.Create
	}
	return metrics.Sync
}

// tellBackOffs records an event for each container that begins to wait.
func (w *worker) tellBackOffs(plan *Plan) {
	for name, waiting := range plan.Waiting {
		if !w.backOffs[name].Equal(waiting.Until) {
			w.backOffs[name] = waiting.Until
			w.agent.event(w.pod, name, v1.EventTypeWarning, "BackOff",
				fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", name, w.pod.Name, w.pod.Namespace, w.uid))
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// situation gathers what decisions depend on. w.mu is held.
func (w *worker) situation(actual *runtime.Pod, now time.Time) *Situation {
	s := &Situation{
		Pod: w.pod, Actual: actual, Now: now, End: w.end, Gone: w.gone,
		Probes: map[string]probes.Result{}, History: w.history, Faults: w.faults,
		Busy: map[string]bool{}, Stopping: map[string]time.Time{}, Hooked: w.hooked,
		NetworkReady: w.agent.NetworkReady(), Prepared: w.prepared && !w.lacksVolumes(), TornDown: w.tornDown,
		HostIPs: w.agent.HostIPs(),
	}
	if w.allotment != nil {
		s.Pod, s.Allotment = w.allotment.Granted.of(w.pod), w.allotment.clone()
	}
	if w.prepared && !w.tornDown {
		s.Health = w.agent.Devices.Health(w.pod)
	}
	if node := w.agent.Config.Node(); node != nil && w.handler != nil {
		yes := supports(node, *w.handler, recursiveReadOnly)
		s.Recursive = &yes
	}
	for key, o := range w.operations {
		s.Busy[key] = true
		if o.action.Verb == Stop {
			s.Stopping[o.action.ID] = o.kill
		}
	}
	return s
}

// watchProbes has every running container probed, and no other.
func (w *worker) watchProbes(s *Situation) {
	running := map[string]bool{}
	ip := ""
	if ips := s.podIPs(); len(ips) > 0 {
		ip = ips[0]
	}
	for _, list := range [][]v1.Container{s.Pod.Spec.InitContainers, s.Pod.Spec.Containers} {
		for i := range list {
			run := s.Actual.Latest(list[i].Name)
			if run == nil || run.State != runtime.Running {
				continue
			}
			running[run.ID] = true
			var standing *probes.Result
			if run.StartedAt.Before(w.agent.began) {
				standing = told(s.Pod, run)
			}
			target := probes.Target{Pod: s.Pod, Container: withPlainProbes(&list[i]), ContainerID: run.ID, PodIP: ip,
				Ending: w.end != nil || w.gone || w.pod.DeletionTimestamp != nil}
			w.agent.probes.Watch(target, run.StartedAt, standing)
			s.Probes[run.ID] = w.agent.probes.Result(run.ID)
		}
	}
	w.agent.probes.StopAllBut(w.uid, running)
}

// withPlainProbes is c with the references to variables in commands of its probes
// replaced: to those only that its spec gives a value.
func withPlainProbes(c *v1.Container) *v1.Container {
	refers := func(p *v1.Probe) bool {
		return p != nil && p.Exec != nil && slices.ContainsFunc(p.Exec.Command, func(part string) bool { return strings.Contains(part, "$") })
	}
	if !refers(c.LivenessProbe) && !refers(c.ReadinessProbe) && !refers(c.StartupProbe) {
		return c
	}
	values := map[string]string{}
	for _, e := range c.Env {
		values[e.Name] = e.Value
	}
	c = c.DeepCopy()
	for _, p := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if refers(p) {
			for i, part := range p.Exec.Command {
				p.Exec.Command[i] = expand(part, values)
			}
		}
	}
	return c
}

// told is what the API has of a run, in terms of probes.
func told(pod *v1.Pod, run *runtime.Container) *probes.Result {
	for _, list := range [][]v1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			if list[i].ContainerID == run.URI {
				return &probes.Result{Started: isTrue(list[i].Started), Ready: list[i].Ready}
			}
		}
	}
	return nil
}

// judgeEnd finds out whether the pod has to end, and calls off what is being
// started then. An end is never taken back; its grace can only shrink.
func (w *worker) judgeEnd(s *Situation) {
	end := w.reasonToEnd(s)
	if end != nil {
		if w.end == nil {
			w.end = end
		} else if end.Grace < w.end.Grace {
			w.end.Grace = end.Grace
		}
		s.End = w.end
	}
	if s.End == nil && !s.Gone {
		return
	}
	for _, o := range w.operations {
		switch o.action.Verb {
		case Start, RunSandbox, Prepare:
			o.cancel()
		}
	}
}

func (w *worker) reasonToEnd(s *Situation) *End {
	pod := s.Pod
	grace := int64(30)
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	end := &End{Grace: grace, Since: s.Now}
	switch {
	case pod.DeletionTimestamp != nil:
		if g := pod.DeletionGracePeriodSeconds; g != nil {
			end.Grace = *g
		}
		return end
	case s.Gone:
		return end
	case w.end != nil:
		return nil
	case finished(pod.Status.Phase):
		end.Phase = pod.Status.Phase
		return end
	}
	if w.allotment == nil {
		if reason, message := w.enter(s.Actual); reason != "" {
			w.agent.event(pod, "", v1.EventTypeWarning, reason, message)
			end.Phase, end.Reason, end.Message, end.Rejected = v1.PodFailed, reason, "Pod was rejected: "+message, true
			return end
		}
		s.Pod, s.Allotment = w.allotment.Granted.of(w.pod), w.allotment.clone()
	}
	if s.Held = w.agent.ledger.waits(w.uid); s.Held {
		return nil
	}
	if w.refused != nil {
		end.Phase, end.Reason, end.Message, end.Rejected = v1.PodFailed, w.refused.reason, "Pod was rejected: "+w.refused.message, true
		w.agent.event(pod, "", v1.EventTypeWarning, end.Reason, w.refused.message)
		return end
	}
	if deadline := w.deadline(); !deadline.IsZero() && !s.Now.Before(deadline) {
		end.Phase, end.Reason = v1.PodFailed, "DeadlineExceeded"
		end.Message = "Pod was active on the node longer than the specified deadline"
		w.agent.event(pod, "", v1.EventTypeNormal, end.Reason, end.Message)
		return end
	}
	// The situation so far knows of no end; if its phase is final all the
	// same, every container has run its course.
	plan := Decide(s)
	if status := Describe(s, &plan); finished(status.Phase) || finished(Phase(s, &status, false)) {
		end.Phase = Phase(s, &status, false)
		return end
	}
	return nil
}

// deadline is when the pod's activeDeadlineSeconds run out.
func (w *worker) deadline() time.Time {
	seconds := w.pod.Spec.ActiveDeadlineSeconds
	if seconds == nil || w.pod.Status.StartTime == nil {
		return time.Time{}
	}
	return w.pod.Status.StartTime.Add(time.Duration(*seconds) * time.Second)
}

// lacksVolumes says whether an ephemeral container uses a volume that none did before.
func (w *worker) lacksVolumes() bool {
	return w.mounted != nil && len(w.pod.Spec.EphemeralContainers) > 0 && w.mounted.Lacks(w.pod)
}

// refreshAt is when the contents of volumes have to be prepared again.
func (w *worker) refreshAt(s *Situation) time.Time {
	if !w.prepared || s.End != nil || s.Gone || s.Busy[string(Prepare)] {
		return time.Time{}
	}
	at := time.Time{}
	switch {
	case w.stale:
		at = s.Now
	case w.mounted != nil:
		at = w.mounted.Refresh
	}
	if fault, ok := w.faults[string(Prepare)]; ok && !at.IsZero() && at.Before(fault.Until) {
		at = fault.Until
	}
	return at
}

// Keys of operations on the API.
const (
	statusKey = "status"
	deleteKey = "delete"
)

// report tells the API the status, unless that was told, and that the pod has
// ended when it has. w.mu is held.
func (w *worker) report(ctx context.Context, s *Situation, plan *Plan, status v1.PodStatus, told bool) {
	w.settled.Store(told && plan.Stopped)
	if w.static {
		w.reportStatic(ctx, status, told)
		return
	}
	if !told {
		w.background(ctx, statusKey, func(ctx context.Context) error { return w.patchStatus(ctx, s.Pod, status) })
		return
	}
	if plan.Stopped && w.pod.DeletionTimestamp != nil && !w.deleted {
		w.background(ctx, deleteKey, func(ctx context.Context) error { return w.deleteObject(ctx, s.Pod) })
	}
}
