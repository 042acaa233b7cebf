package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	client "k8s.io/cri-client/pkg"

	"clusterctl/hostconfig"
)

// ears note when the worker's runtime tells of containers that have ended. Safe
// for concurrent use.
type ears struct {
	mu  sync.Mutex
	end map[string]time.Time // by container
}

// listen hears the runtime's events until ctx ends.
func (l *lab) listen(ctx context.Context) (*ears, error) {
	service, err := client.NewRemoteRuntimeService(ctx, "unix://"+l.path(hostconfig.CRISock), time.Minute, nil, false)
	if err != nil {
		return nil, fmt.Errorf("reach the worker's runtime: %w", err)
	}
	e := &ears{end: map[string]time.Time{}}
	events, listening := make(chan *criv1.ContainerEventResponse, 100), make(chan struct{})
	go func() {
		_ = service.GetContainerEvents(ctx, events, func(criv1.RuntimeService_GetContainerEventsClient) { close(listening) })
	}()
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case event := <-events:
				if event.ContainerEventType == criv1.ContainerEventType_CONTAINER_STOPPED_EVENT {
					e.mu.Lock()
					e.end[event.ContainerId] = time.Now()
					e.mu.Unlock()
				}
			}
		}
	}()
	select {
	case <-listening:
		return e, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("hear of the runtime's containers: %w", ctx.Err())
	case <-time.After(time.Minute):
		return nil, errors.New("hear of the runtime's containers: it does not answer")
	}
}

// ended is when the runtime told of the container's end, which the API has told of.
func (e *ears) ended(ctx context.Context, container string) (at time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = poll(ctx, "the runtime to tell of the exit", func() (bool, error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		at = e.end[container]
		return !at.IsZero(), nil
	})
	return at, err
}
