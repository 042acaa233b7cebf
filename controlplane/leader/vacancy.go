package leader

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	typedcoordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// waiting waits until nobody holds a lease. The library's elector only asks now
// and then, so that it learns late both of a renewal and of there being none.
type waiting struct {
	client typedcoordinationv1.LeaseInterface
	name   string
	logger *slog.Logger

	last *resourcelock.LeaderElectionRecord // what was seen last; nil: there is no lease
	at   time.Time                          // when it was first seen
}

// vacant returns true once nobody holds the lease, and false when ctx has ended.
func (w *waiting) vacant(ctx context.Context) bool {
	for ctx.Err() == nil {
		lease, err := w.client.Get(ctx, w.name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			w.last = nil
			return true
		case err != nil:
			pause(ctx)
			continue
		}
		w.see(lease)
		if w.left() <= 0 || w.watch(ctx, lease.ResourceVersion) {
			return ctx.Err() == nil
		}
		pause(ctx)
	}
	return false
}

// watch returns true once the lease is vacant, and false if it cannot tell any
// more.
func (w *waiting) watch(ctx context.Context, from string) bool {
	changes, err := w.client.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, w.name).String(), ResourceVersion: from,
	})
	if err != nil {
		return false
	}
	defer changes.Stop()
	for {
		left := w.left()
		if left <= 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(left):
		case event, open := <-changes.ResultChan():
			lease, ok := event.Object.(*coordinationv1.Lease)
			switch {
			case !open || !ok:
				return false
			case event.Type == watch.Deleted:
				w.last = nil
				return true
			}
			w.see(lease)
		}
	}
}

// see takes note of what the lease says.
func (w *waiting) see(lease *coordinationv1.Lease) {
	record := resourcelock.LeaseSpecToLeaderElectionRecord(&lease.Spec)
	if w.last != nil && equality.Semantic.DeepEqual(w.last, record) {
		return
	}
	if record.HolderIdentity != "" && (w.last == nil || w.last.HolderIdentity != record.HolderIdentity) {
		w.logger.Info("leader elected", "leader", record.HolderIdentity)
	}
	w.last, w.at = record, time.Now()
}

// left is for how long the lease is still held, by what is known.
func (w *waiting) left() time.Duration {
	if w.last == nil || w.last.HolderIdentity == "" {
		return 0
	}
	return time.Until(w.at.Add(time.Duration(w.last.LeaseDurationSeconds) * time.Second))
}

// pause keeps candidates from asking all at once, and from asking all the time.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(retryPeriod/4 + rand.N(retryPeriod/4)):
	}
}
