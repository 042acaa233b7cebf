package pods

import (
	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/runtime"
)

// What is said of a container that had to go because all start anew.
const (
	restartingAllReason  = "RestartingAllContainers"
	restartingAllMessage = "The container is removed because RestartAllContainers in place"
)

// restartAll takes all containers away once one has ended in a way that has
// all start anew, and says whether it has work left. Those that ended so go
// last: they are all that tells a new agent of it. The pod then starts as it
// did at first, in its sandbox and with its volumes.
func (p *planner) restartAll() bool {
	s := p.s
	if !s.restartingAll() {
		return false
	}
	containers := restartable(s.Pod)
	standing := false
	for name := range containers {
		standing = standing || s.Busy[startKey(name)] // its end brings us back
	}
	var causes, others []*runtime.Container
	for i := range s.Actual.Containers {
		run := &s.Actual.Containers[i]
		c := containers[run.Name]
		switch {
		case c == nil:
		case run.State == runtime.Running || run.State == runtime.Unknown:
			standing = true
			if !s.Busy[startKey(run.Name)] {
				p.stop(run, 0, false, "killing")
			}
		case restartsAll(c, run):
			causes = append(causes, run)
		default:
			others = append(others, run)
		}
	}
	if standing {
		return true
	}
	if len(others) == 0 {
		others = causes
	}
	for _, run := range others {
		p.do(Action{Verb: Remove, Container: run.Name, ID: run.ID})
	}
	return true
}

// removed is the status of a container that is gone because all start anew,
// given what the API has of it: it counts as one that was killed.
func removed(old, status *v1.ContainerStatus) {
	status.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: restartingAllReason, Message: restartingAllMessage}}
	status.LastTerminationState = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason: restartingAllReason, Message: restartingAllMessage, ExitCode: 137}}
	status.RestartCount = old.RestartCount + 1
}

// restartingCondition tells of a pod whose containers all start anew.
func restartingCondition(s *Situation, phase v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case phase == v1.PodSucceeded:
		c.Reason = "PodCompleted"
	case phase == v1.PodFailed:
		c.Reason = "PodFailed"
	case s.restartingAll():
		c.Status, c.Reason = v1.ConditionTrue, "RestartAllContainersStarted"
		c.Message = "container exited with restart policy rule"
	}
	return c
}
