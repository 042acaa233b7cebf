package leader

import (
	"context"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// bid is the lock of one attempt at a lease that was found vacant. An elector
// that has just been made knows nothing of the lease and would watch it for the
// whole of its duration before taking it; a bid tells it that nobody holds the
// lease, if the API server says of it what was seen last. Somebody else's write
// in between is a conflict. The attempt ends, by lost, when it fails, and so does
// the term that it won when the lease was not renewed in time.
type bid struct {
	*resourcelock.LeaseLock
	out  *resourcelock.LeaderElectionRecord // that is vacant; nil: there was no lease
	won  bool
	lost func()

	renewals *pace
	until    time.Time   // the term ends then
	timer    *time.Timer // ends it; nil before the lease is won
}

var errOutbid = errors.New("the lease is held again")

func (b *bid) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := b.LeaseLock.Get(ctx)
	switch {
	case b.won || apierrors.IsNotFound(err):
		return record, raw, err
	case err != nil:
	case b.out != nil && equality.Semantic.DeepEqual(record, b.out):
		free := *record
		free.HolderIdentity = ""
		return &free, raw, nil
	default:
		err = errOutbid
	}
	b.lost()
	return nil, nil, err
}

func (b *bid) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return b.write(ctx, record, b.LeaseLock.Create)
}

func (b *bid) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	if record.HolderIdentity == "" { // gives it up
		return b.LeaseLock.Update(ctx, record)
	}
	return b.write(ctx, record, b.LeaseLock.Update)
}

// write takes or renews the lease, for as long as suits the pace of renewals.
func (b *bid) write(ctx context.Context, record resourcelock.LeaderElectionRecord, do func(context.Context, resourcelock.LeaderElectionRecord) error) error {
	began := time.Now()
	lease := b.renewals.lease()
	record.LeaseDurationSeconds = int(lease / time.Second)
	end := began.Add(lease - stopBefore)
	if b.won && end.Before(b.until) {
		b.stopAt(end) // others may see the shorter lease even if this fails
	}
	err := do(ctx, record)
	b.renewals.note(began, time.Since(began))
	switch {
	case err == nil:
		b.won = true
		b.stopAt(end)
	case !b.won:
		b.lost()
	}
	return err
}

// stopAt ends the term then.
func (b *bid) stopAt(when time.Time) {
	b.until = when
	if b.timer == nil {
		b.timer = time.AfterFunc(time.Until(when), b.lost)
	} else {
		b.timer.Reset(time.Until(when))
	}
}

// end takes back what is to happen when the lease is out.
func (b *bid) end() {
	if b.timer != nil {
		b.timer.Stop()
	}
}
