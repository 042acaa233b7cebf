package runtime

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// How often everything is listed: as a safety net while events flow, and as
// the only source of changes while they do not.
const (
	relistWithEvents    = 30 * time.Second
	relistWithoutEvents = time.Second
)

// Watch calls changed with the pod of every change in the runtime until ctx
// ends. It listens to container events and compares listings besides: seldom
// while events flow, once a second while they do not. changed is called from one
// goroutine at a time and should return quickly.
func (r *Runtime) Watch(ctx context.Context, changed func(uid types.UID, news News)) {
	events := make(chan *criv1.ContainerEventResponse, 100)
	streaming := make(chan bool, 1)
	go r.stream(ctx, events, streaming)

	seen := map[string]summary{}
	period := relistWithoutEvents
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case on := <-streaming:
			period = relistWithoutEvents
			if on {
				period = relistWithEvents
			}
			timer.Reset(0)
		case event := <-events:
			if uid := event.GetPodSandboxStatus().GetMetadata().GetUid(); uid != "" {
				changed(types.UID(uid), News{ID: event.ContainerId, Type: event.ContainerEventType, Ended: r.ended(event)})
			} else {
				timer.Reset(0) // an event without its pod: look for what changed
			}
		case <-timer.C:
			began := time.Now()
			now, err := r.summaries(ctx)
			if err != nil {
				if ctx.Err() == nil {
					r.logger.Warn("cannot list containers", "error", err)
				}
				timer.Reset(5 * time.Second)
				continue
			}
			if r.observer != nil {
				r.observer.Relisted(time.Now(), time.Since(began))
			}
			for uid, listed := range differences(seen, now) {
				changed(uid, News{Listed: listed})
			}
			seen = now
			timer.Reset(period)
		}
	}
}

// ended is the run that the event says has ended, or nil if the event is about
// something else or does not say it all. What has ended stays as it is, so that
// such an event is true however late it comes.
func (r *Runtime) ended(event *criv1.ContainerEventResponse) *Container {
	if event.ContainerEventType != criv1.ContainerEventType_CONTAINER_STOPPED_EVENT {
		return nil
	}
	for _, s := range event.ContainersStatuses {
		if s.Id == event.ContainerId && s.State == criv1.ContainerState_CONTAINER_EXITED && s.FinishedAt > 0 && s.Metadata != nil {
			run := r.container(event.PodSandboxStatus.Id, s)
			return &run
		}
	}
	return nil
}

// stream feeds container events into events, and says on streaming whether
// the stream is up.
func (r *Runtime) stream(ctx context.Context, events chan *criv1.ContainerEventResponse, streaming chan<- bool) {
	say := func(on bool) {
		select {
		case streaming <- on:
		case <-ctx.Done():
		}
	}
	for delay := time.Second; ctx.Err() == nil; delay = min(2*delay, time.Minute) {
		began := time.Now()
		err := r.GetContainerEvents(ctx, events, func(criv1.RuntimeService_GetContainerEventsClient) { say(true) })
		if ctx.Err() != nil {
			return
		}
		say(false)
		if time.Since(began) > time.Minute {
			delay = time.Second
		}
		r.logger.Warn("container events stopped; listing every second meanwhile", "error", err, "retry", delay)
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

// summary is the part of a sandbox or container that changes.
type summary struct {
	pod   types.UID
	state int32
}

func (r *Runtime) summaries(ctx context.Context) (map[string]summary, error) {
	sandboxes, err := r.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, err
	}
	containers, err := r.ListContainers(ctx, nil)
	if err != nil {
		return nil, err
	}
	all := make(map[string]summary, len(sandboxes)+len(containers))
	for _, s := range sandboxes {
		all[s.Id] = summary{types.UID(s.Labels[LabelPodUID]), int32(s.State)}
	}
	for _, c := range containers {
		all[c.Id] = summary{types.UID(c.Labels[LabelPodUID]), int32(c.State)}
	}
	return all, nil
}

// differences are the pods of which anything came, went or changed, each with the
// states of what there is of it now, by ID.
func differences(before, after map[string]summary) map[types.UID]map[string]int32 {
	pods := map[types.UID]map[string]int32{}
	for id, a := range after {
		if b, ok := before[id]; !ok || a != b {
			pods[a.pod] = map[string]int32{}
		}
	}
	for id, b := range before {
		if _, ok := after[id]; !ok {
			pods[b.pod] = map[string]int32{}
		}
	}
	delete(pods, "")
	for id, a := range after {
		if states := pods[a.pod]; states != nil {
			states[id] = a.state
		}
	}
	return pods
}
