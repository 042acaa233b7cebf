package runtime

import (
	"slices"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// News is what was heard of a pod: an event of one of its containers or sandboxes,
// or what a listing has of it.
type News struct {
	ID     string // of what the event is about; empty: this is a listing
	Type   criv1.ContainerEventType
	Ended  *Container       // the run that the event says has ended, if it says all of it
	Listed map[string]int32 // states of the pod's sandboxes and containers, by ID
}

// Update is p with the news in it: p itself if it says the same already, nil if the
// runtime has to be asked. Events may come late. p is not changed.
func (n News) Update(p *Pod) *Pod {
	if n.ID == "" {
		if p.has(n.Listed) {
			return p
		}
		return nil
	}
	sandbox := slices.IndexFunc(p.Sandboxes, func(s Sandbox) bool { return s.ID == n.ID })
	run := slices.IndexFunc(p.Containers, func(c Container) bool { return c.ID == n.ID })
	switch n.Type {
	case criv1.ContainerEventType_CONTAINER_CREATED_EVENT:
		return p // which changes nothing before the start
	case criv1.ContainerEventType_CONTAINER_STARTED_EVENT:
		if sandbox >= 0 || run >= 0 && p.Containers[run].State != Created {
			return p
		}
	case criv1.ContainerEventType_CONTAINER_STOPPED_EVENT:
		switch {
		case sandbox >= 0 && !p.Sandboxes[sandbox].Ready:
			return p
		case sandbox >= 0:
			return p.Stopped(n.ID)
		case run < 0 || n.Ended == nil:
			return nil
		case p.Containers[run].State == Running:
			return p.With(*n.Ended)
		case p.Containers[run].State == Exited && p.Containers[run].ExitCode == n.Ended.ExitCode:
			return p
		}
	case criv1.ContainerEventType_CONTAINER_DELETED_EVENT:
		if sandbox < 0 && run < 0 {
			return p
		}
		return p.Without(n.ID)
	}
	return nil
}

// has says that p is just what is listed.
func (p *Pod) has(listed map[string]int32) bool {
	for i := range p.Sandboxes {
		ready, ok := listed[p.Sandboxes[i].ID]
		if !ok || p.Sandboxes[i].Ready != (ready == int32(criv1.PodSandboxState_SANDBOX_READY)) {
			return false
		}
	}
	for i := range p.Containers {
		if state, ok := listed[p.Containers[i].ID]; !ok || p.Containers[i].State != State(state) {
			return false
		}
	}
	return len(listed) == len(p.Sandboxes)+len(p.Containers)
}

// With is p with the run c, in the place of what it says of it so far.
func (p *Pod) With(c Container) *Pod {
	after := *p
	after.Containers = slices.DeleteFunc(slices.Clone(p.Containers), func(old Container) bool { return old.ID == c.ID })
	after.Containers = append(after.Containers, c)
	after.sort()
	return &after
}

// WithSandbox is p with the sandbox s, in the place of what it says of it so far.
func (p *Pod) WithSandbox(s Sandbox) *Pod {
	after := *p
	after.Sandboxes = slices.DeleteFunc(slices.Clone(p.Sandboxes), func(old Sandbox) bool { return old.ID == s.ID })
	after.Sandboxes = append(after.Sandboxes, s)
	after.sort()
	return &after
}

// Stopped is p with the sandbox stopped, which has no address any more.
func (p *Pod) Stopped(sandbox string) *Pod {
	after := *p
	after.Sandboxes = slices.Clone(p.Sandboxes)
	for i := range after.Sandboxes {
		if s := &after.Sandboxes[i]; s.ID == sandbox {
			s.Ready, s.IPs = false, nil
		}
	}
	return &after
}

// Without is p without a container, or without a sandbox and the containers in it.
func (p *Pod) Without(id string) *Pod {
	after := *p
	after.Sandboxes = slices.DeleteFunc(slices.Clone(p.Sandboxes), func(s Sandbox) bool { return s.ID == id })
	after.Containers = slices.DeleteFunc(slices.Clone(p.Containers), func(c Container) bool { return c.ID == id || c.SandboxID == id })
	return &after
}

// sort puts the newest first.
func (p *Pod) sort() {
	slices.SortStableFunc(p.Sandboxes, func(a, b Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })
	slices.SortStableFunc(p.Containers, func(a, b Container) int { return b.CreatedAt.Compare(a.CreatedAt) })
}
