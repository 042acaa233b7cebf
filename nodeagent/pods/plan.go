package pods

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/probes"
	"clusterctl/nodeagent/runtime"
)

// Verb is what an Action does.
type Verb string

// The verbs.
const (
	Prepare       Verb = "prepare"        // cgroup, volumes
	RunSandbox    Verb = "run-sandbox"    // a new sandbox
	StopSandbox   Verb = "stop-sandbox"   // and give its address back
	RemoveSandbox Verb = "remove-sandbox" // with the containers in it
	Start         Verb = "start"          // pull, create, start, postStart
	PreStop       Verb = "pre-stop"       // the hook alone, of a sidecar that stops later
	Stop          Verb = "stop"           // preStop, stop
	Remove        Verb = "remove"         // a container that has ended
	Resize        Verb = "resize"         // what runs, to what was granted
	Teardown      Verb = "teardown"       // volumes, cgroup
	Purge         Verb = "purge"          // logs and the pod's directory
)

// stirs says that the verb changes what the runtime holds.
func (v Verb) stirs() bool {
	switch v {
	case RunSandbox, StopSandbox, RemoveSandbox, Start, Stop, Remove, Resize:
		return true
	}
	return false
}

// Action is one operation to begin.
type Action struct {
	Verb      Verb
	Container string        // name, for Start, PreStop, Stop and Remove
	ID        string        // of the container or sandbox
	Attempt   uint32        // for RunSandbox and Start
	Grace     time.Duration // for PreStop and Stop; the hook gets all of it, a stop at least minimumGrace
	Hooked    bool          // Stop: the hook was run by a PreStop
	Restart   bool          // Stop: in order to start again
	Message   string        // Stop: why
}

// Key names what the action works on; one operation runs per key.
func (a Action) Key() string {
	switch a.Verb {
	case Start:
		return startKey(a.Container)
	case Stop, Remove:
		return "container/" + a.ID
	case PreStop:
		return hookKey(a.ID)
	case StopSandbox, RemoveSandbox:
		return "sandbox/" + a.ID
	}
	return string(a.Verb)
}

func startKey(container string) string { return "start/" + container }
func hookKey(id string) string         { return "pre-stop/" + id }

// Plan is what to do now, and when to look again if nothing happens.
type Plan struct {
	Actions []Action
	Next    time.Time // zero: only when something changes
	Waiting map[string]Fault
	Closing bool // no container runs, and what the pod had besides is being taken away
	Stopped bool // the pod has ended and nothing of it runs or is mounted
	Purged  bool // the host holds nothing of the pod
}

// minimumGrace is what a container always gets to stop in, and minimumHookGrace
// what its preStop hook gets when the pod ends.
const (
	minimumGrace     = 2 * time.Second
	minimumHookGrace = time.Second
)

// Decide is what to do about a pod. It is a pure function.
func Decide(s *Situation) Plan {
	p := &planner{s: s, plan: Plan{Waiting: map[string]Fault{}}}
	if s.End != nil || s.Gone {
		p.end()
	} else {
		p.run()
	}
	return p.plan
}

type planner struct {
	s    *Situation
	plan Plan
}

// do adds an action, unless its key is busy or a fault holds it back.
func (p *planner) do(a Action) {
	key := a.Key()
	if p.s.Busy[key] {
		return
	}
	if fault, ok := p.s.Faults[key]; ok && p.s.Now.Before(fault.Until) {
		p.again(fault.Until)
		return
	}
	p.plan.Actions = append(p.plan.Actions, a)
}

func (p *planner) again(at time.Time) {
	if p.plan.Next.IsZero() || at.Before(p.plan.Next) {
		p.plan.Next = at
	}
}

// stop adds the stop of a running container, unless it is being stopped
// already about as soon.
func (p *planner) stop(run *runtime.Container, grace time.Duration, restart bool, message string) {
	if by, ok := p.s.Stopping[run.ID]; ok && !p.s.Now.Add(max(grace, minimumGrace)+time.Second).Before(by) {
		return // not worth starting over for less than a second
	}
	action := Action{Verb: Stop, Container: run.Name, ID: run.ID, Grace: grace, Hooked: p.s.Hooked[run.ID], Restart: restart, Message: message}
	if fault, ok := p.s.Faults[action.Key()]; ok && p.s.Now.Before(fault.Until) {
		p.again(fault.Until)
		return
	}
	p.plan.Actions = append(p.plan.Actions, action)
}

// end takes the pod down: containers, then sidecars last to first, then the
// sandbox, then what was mounted; and what is left of it once it is gone.
func (p *planner) end() {
	s := p.s
	for key := range s.Busy {
		if strings.HasPrefix(key, "start/") || key == string(RunSandbox) || key == string(Prepare) {
			return // called off; its end brings us back
		}
	}
	if p.stopContainers() {
		return
	}
	standing := false
	for _, sandbox := range s.Actual.Sandboxes {
		stop := Action{Verb: StopSandbox, ID: sandbox.ID}
		if sandbox.Ready {
			p.do(stop)
		}
		// One that is not ready any more still has its address until its stop ends.
		standing = standing || sandbox.Ready || !s.TornDown && s.Busy[stop.Key()]
		p.plan.Closing = p.plan.Closing || s.Busy[stop.Key()]
	}
	if standing {
		return
	}
	p.plan.Closing = true
	if !s.TornDown {
		p.do(Action{Verb: Teardown})
		return
	}
	p.plan.Stopped = true
	if !s.Gone {
		return
	}
	for _, sandbox := range s.Actual.Sandboxes {
		p.do(Action{Verb: RemoveSandbox, ID: sandbox.ID})
	}
	if len(s.Actual.Sandboxes) > 0 {
		return
	}
	for i := range s.Actual.Containers {
		p.do(Action{Verb: Remove, Container: s.Actual.Containers[i].Name, ID: s.Actual.Containers[i].ID})
	}
	for key := range s.Busy {
		if strings.HasPrefix(key, "sandbox/") || strings.HasPrefix(key, "container/") {
			return // out of sight, but not removed yet
		}
	}
	if len(s.Actual.Containers) == 0 {
		p.plan.Purged = true
		p.plan.Actions = append(p.plan.Actions, Action{Verb: Purge})
	}
}

// shorten has the runtime stop and remove the sandbox of a pod that is deleted in
// one go, which takes the network from it once instead of twice. It waits until the
// API was told how the containers ended: afterwards nobody knows. If it cannot be
// told, the sandbox is stopped at least.
func shorten(actions []Action, s *Situation, told bool) []Action {
	if isStatic(s.Pod) || s.Pod.DeletionTimestamp == nil && !s.Gone {
		return actions
	}
	_, untold := s.Faults[statusKey]
	var kept []Action
	for _, a := range actions {
		switch {
		case a.Verb == StopSandbox && (told || s.Gone):
			a.Verb = RemoveSandbox
		case a.Verb == StopSandbox && !untold:
			continue
		}
		kept = append(kept, a)
	}
	return kept
}

// stopContainers stops what runs and says whether anything does.
func (p *planner) stopContainers() bool {
	s := p.s
	order := map[string]int{} // of sidecars
	for i := range s.Pod.Spec.InitContainers {
		if isSidecar(&s.Pod.Spec.InitContainers[i]) {
			order[s.Pod.Spec.InitContainers[i].Name] = i + 1
		}
	}
	var mains, sidecars []*runtime.Container
	var sidecar *runtime.Container // the one that stops first
	for i := range s.Actual.Containers {
		run := &s.Actual.Containers[i]
		if run.State != runtime.Running && run.State != runtime.Unknown {
			continue
		}
		if order[run.Name] == 0 {
			mains = append(mains, run)
			continue
		}
		sidecars = append(sidecars, run)
		if sidecar == nil || order[run.Name] > order[sidecar.Name] {
			sidecar = run
		}
	}
	grace, left := 30*time.Second, 30*time.Second
	if s.End != nil {
		grace = max(time.Duration(s.End.Grace)*time.Second, minimumHookGrace)
		left = max(grace-s.Now.Sub(s.End.Since), 0)
	}
	// Every preStop hook is run at once; only the stop of a sidecar waits for its turn.
	for _, run := range sidecars {
		if (len(mains) > 0 || run != sidecar) && !s.Hooked[run.ID] && left > 0 && hasPreStop(s.Pod, run.Name) {
			p.do(Action{Verb: PreStop, Container: run.Name, ID: run.ID, Grace: left, Message: stopping(run)})
		}
	}
	for _, run := range mains {
		p.stop(run, grace, false, stopping(run))
	}
	switch {
	case len(mains) > 0:
		return true
	case sidecar == nil:
		return false
	case s.Busy[hookKey(sidecar.ID)] && left > 0:
		p.again(s.Now.Add(left))
		return true
	}
	p.stop(sidecar, left, false, stopping(sidecar))
	return true
}

func stopping(run *runtime.Container) string { return "Stopping container " + run.Name }

func hasPreStop(pod *v1.Pod, container string) bool {
	c, _ := find(pod, container)
	return c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil
}

// run brings the pod up, or keeps it up.
func (p *planner) run() {
	s := p.s
	if s.Held {
		return
	}
	if !s.Prepared {
		p.do(Action{Verb: Prepare})
		return
	}
	p.collect()
	if !s.sandboxUsable() {
		p.sandbox()
		return
	}
	if s.Busy[string(RunSandbox)] || p.restartAll() {
		return
	}
	for key := range s.Busy {
		if strings.HasPrefix(key, "start/") {
			// Containers start one after the other, but none waits to be
			// stopped or judged until another has started.
			p.judge()
			p.resize()
			return
		}
	}
	p.judge()
	if p.resize() {
		return
	}
	if p.initialize() {
		for i := range s.Pod.Spec.Containers {
			if c := &s.Pod.Spec.Containers[i]; p.wants(c) && p.start(c) {
				return
			}
		}
	}
	for i := range s.Pod.Spec.EphemeralContainers {
		c := (*v1.Container)(&s.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if s.Actual.Latest(c.Name) == nil && p.start(c) {
			return
		}
	}
}

// sandbox makes a new sandbox once nothing is left running in the old one. What
// may never start again loses its containers with their sandbox.
func (p *planner) sandbox() {
	s := p.s
	again := s.Pod.Spec.RestartPolicy != v1.RestartPolicyNever
	for i := range s.Actual.Containers {
		if run := &s.Actual.Containers[i]; run.State == runtime.Running {
			p.stop(run, p.podGrace(), again, stopping(run))
		}
	}
	if s.anyRunning() || !again && s.Actual.Sandbox() != nil && len(s.Actual.Containers) > 0 {
		return
	}
	attempt := uint32(0)
	if sandbox := s.Actual.Sandbox(); sandbox != nil {
		if sandbox.Ready {
			p.do(Action{Verb: StopSandbox, ID: sandbox.ID})
			return
		}
		attempt = sandbox.Attempt + 1
	}
	if !s.NetworkReady && !s.Pod.Spec.HostNetwork {
		p.again(s.Now.Add(time.Second))
		return
	}
	p.do(Action{Verb: RunSandbox, Attempt: attempt})
}

// judge stops containers that failed their probes or are not what the pod
// asks for any more.
func (p *planner) judge() {
	for _, list := range [][]v1.Container{p.s.Pod.Spec.InitContainers, p.s.Pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			run := p.s.current(c.Name)
			if run == nil || run.State != runtime.Running || p.s.Busy[startKey(c.Name)] {
				continue
			}
			// Where all the world says "will be restarted", nothing is said of sidecars.
			subject, ending := "Container "+c.Name, ", will be restarted"
			if isSidecar(c) && isInit(p.s.Pod, c.Name) {
				subject, ending = "Init container "+c.Name, ""
			} else if isInit(p.s.Pod, c.Name) {
				continue // it ends by itself
			}
			if run.Hash != "" && run.Hash != Hash(c) {
				p.stop(run, p.podGrace(), true, subject+" definition changed"+ending)
				continue
			}
			if p.s.outgrown(c) {
				p.stop(run, p.podGrace(), true, "Container "+c.Name+" resize requires restart"+ending)
				continue
			}
			result := p.s.Probes[run.ID]
			if result.Failed == "" {
				continue
			}
			restart := p.s.Pod.Spec.RestartPolicy != v1.RestartPolicyNever
			if c.RestartPolicy != nil {
				restart = *c.RestartPolicy != v1.ContainerRestartPolicyNever
			}
			message := fmt.Sprintf("%s failed %s probe", subject, lower(result.Failed))
			if restart {
				message += ending
			}
			grace := p.podGrace()
			probe := c.LivenessProbe
			if result.Failed == probes.Startup {
				probe = c.StartupProbe
			}
			if probe != nil && probe.TerminationGracePeriodSeconds != nil {
				grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
			}
			p.stop(run, grace, restart, message)
		}
	}
}

// resize brings what runs to its granted size, and says whether containers
// have to wait for that: one that starts must find its place in the pod's
// cgroup. What has to start anew is stopped before.
func (p *planner) resize() (wait bool) {
	s := p.s
	if !s.resizing() {
		return s.Busy[string(Resize)]
	}
	for _, c := range resizableContainers(s.Pod) {
		if run := s.current(c.Name); run != nil && run.State == runtime.Running && s.outgrown(c) {
			return true
		}
	}
	before := len(p.plan.Actions)
	p.do(Action{Verb: Resize})
	return s.Busy[string(Resize)] || len(p.plan.Actions) > before
}

// initialize starts the init container whose turn it is, and sidecars that
// have ended. It says whether the pod's own containers may start.
func (p *planner) initialize() bool {
	s := p.s
	done := s.initialized()
	for i := range s.Pod.Spec.InitContainers {
		c := &s.Pod.Spec.InitContainers[i]
		run := s.current(c.Name)
		if done && !isSidecar(c) {
			continue
		}
		if p.wants(c) {
			if p.start(c) || !done {
				return false
			}
			continue
		}
		if done {
			continue
		}
		if isSidecar(c) {
			if !s.Probes[run.ID].Started {
				return false
			}
		} else if run.State != runtime.Exited || run.ExitCode != 0 {
			return false
		}
	}
	return true
}

// wants says whether container c has to be started.
func (p *planner) wants(c *v1.Container) bool {
	run := p.s.current(c.Name)
	if run == nil && !isInit(p.s.Pod, c.Name) {
		run = p.s.Actual.Latest(c.Name) // what has done its work in an older sandbox is not run again
	}
	if run == nil {
		return true
	}
	switch run.State {
	case runtime.Running:
		return false
	case runtime.Created:
		return true
	}
	return p.s.history(c.Name).Restart == run.ID || restarts(p.s.Pod, c, run.ExitCode) || run.State == runtime.Unknown
}

// start starts container c, or says why it has to wait; false if it waits.
func (p *planner) start(c *v1.Container) bool {
	s, h := p.s, p.s.history(c.Name)
	latest := s.Actual.Latest(c.Name)
	if h.Fault != nil && s.Now.Before(h.Fault.Until) {
		p.again(h.Fault.Until)
		return false
	}
	attempt := uint32(0)
	if latest != nil {
		if latest.State == runtime.Created { // the agent ended between create and start
			p.do(Action{Verb: Remove, Container: c.Name, ID: latest.ID})
			return true
		}
		if latest.State == runtime.Unknown { // it may run all the same
			subject := "Container"
			if isInit(s.Pod, c.Name) {
				subject = "Init container"
			}
			p.stop(latest, p.podGrace(), true, subject+` is in "unknown" state, try killing it before restart`)
			return true
		}
		attempt = latest.Attempt + 1
		crash := s.crash(c.Name)
		if until := crash.Until(latest.FinishedAt); s.Now.Before(until) {
			p.plan.Waiting[c.Name] = Fault{
				Reason: "CrashLoopBackOff",
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s_%s(%s)",
					crash.Delay, c.Name, s.Pod.Name, s.Pod.Namespace, s.Pod.UID),
				Until: until,
			}
			p.again(until)
			return false
		}
	}
	p.do(Action{Verb: Start, Container: c.Name, Attempt: attempt})
	return true
}

// collect removes runs that nobody will ask about: all but the latest two of
// each container, and sandboxes that hold none of those.
func (p *planner) collect() {
	seen := map[string]int{}
	kept := map[string]bool{}
	for i := range p.s.Actual.Containers {
		run := &p.s.Actual.Containers[i]
		seen[run.Name]++
		if seen[run.Name] > 2 && run.State == runtime.Exited {
			p.do(Action{Verb: Remove, Container: run.Name, ID: run.ID})
		} else {
			kept[run.SandboxID] = true
		}
	}
	for i, sandbox := range p.s.Actual.Sandboxes {
		if i > 0 && !kept[sandbox.ID] {
			p.do(Action{Verb: RemoveSandbox, ID: sandbox.ID})
		}
	}
}

func (p *planner) podGrace() time.Duration {
	if g := p.s.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 30 * time.Second
}

func lower(kind probes.Kind) string {
	if kind == probes.Startup {
		return "startup"
	}
	return "liveness"
}
