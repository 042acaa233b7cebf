package csi

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/informers"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

// full has CSINode say how many volumes the driver takes now, if it is one of
// those whose limit changes, and attaching failed for too many of them.
func (w *mount) full(ctx context.Context, attaching *AttachError) {
	if attaching.Code != codes.ResourceExhausted || limitPeriod(w.object) == 0 {
		return
	}
	attaching.Limit = true
	if err := w.updateLimit(ctx, w.Driver); err != nil {
		w.Logger.Warn("cannot tell the driver's limit", "driver", w.Driver, "error", err)
	}
}

// updateLimit asks a driver about this node once more.
func (m *Manager) updateLimit(ctx context.Context, name string) error {
	d, err := m.driver(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	info, err := d.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask driver about this node: %w", err)
	}
	return m.announce(ctx, name, info)
}

// limitPeriod is how often a driver wants to be asked for its limit; 0: never.
func limitPeriod(driver *storagev1.CSIDriver) time.Duration {
	if driver == nil || driver.Spec.NodeAllocatableUpdatePeriodSeconds == nil {
		return 0
	}
	return time.Duration(*driver.Spec.NodeAllocatableUpdatePeriodSeconds) * time.Second
}

// followDrivers keeps the limits in CSINode those that drivers say, as often as
// they want to be asked, and notices drivers that come to do without attaching.
// Until a first driver registers it does nothing.
func (m *Manager) followDrivers(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-m.changed:
	}
	factory := informers.NewSharedInformerFactory(m.Client, 0)
	objects := factory.Storage().V1().CSIDrivers()
	poke := func(any) { poke(m.changed) }
	if _, err := objects.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: poke, UpdateFunc: func(any, any) { poke(nil) }, DeleteFunc: poke,
	}); err != nil {
		m.Logger.Warn("cannot follow CSIDrivers", "error", err)
		return
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	due := map[string]turn{}
	for {
		if err := m.learnAttaching(objects.Lister()); err != nil {
			m.Logger.Warn("cannot tell which drivers do without attaching", "error", err)
		}
		var timer <-chan time.Time
		if next := m.askLimits(ctx, objects.Lister(), due); !next.IsZero() {
			timer = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
		case <-timer:
		}
	}
}

// turn is when a driver is asked next.
type turn struct {
	at     time.Time
	period time.Duration
}

// askLimits asks the drivers whose turn it is, and returns when it is the next's.
func (m *Manager) askLimits(ctx context.Context, objects storagelisters.CSIDriverLister, due map[string]turn) (next time.Time) {
	m.mu.Lock()
	names := make(map[string]bool, len(m.drivers))
	for name := range m.drivers {
		names[name] = true
	}
	m.mu.Unlock()
	for name := range due {
		if !names[name] {
			delete(due, name)
		}
	}
	for name := range names {
		object, err := objects.Get(name)
		if err != nil {
			object = nil
		}
		period := limitPeriod(object)
		if period == 0 {
			delete(due, name)
			continue
		}
		now := time.Now()
		t := due[name]
		if t.period == period && !now.Before(t.at) {
			if err := m.updateLimit(ctx, name); err != nil && ctx.Err() == nil {
				m.Logger.Warn("cannot tell the driver's limit", "driver", name, "error", err)
			}
			t.period = 0
		}
		if t.period != period {
			t = turn{now.Add(period), period}
		}
		due[name] = t
		if next.IsZero() || t.at.Before(next) {
			next = t.at
		}
	}
	return next
}
