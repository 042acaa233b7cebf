package leader

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"pgregory.net/rapid"
)

func TestTheLeaseFollowsTheSlowestRenewal(t *testing.T) {
	start := time.Unix(1000, 0)
	type renewal struct{ at, took time.Duration }
	for name, test := range map[string]struct {
		renewals []renewal
		want     time.Duration
	}{
		"none":         {nil, 2 * time.Second},
		"quick":        {[]renewal{{0, 500 * time.Millisecond}}, 2 * time.Second},
		"slow":         {[]renewal{{0, 501 * time.Millisecond}}, 3 * time.Second},
		"slow before":  {[]renewal{{0, time.Second}, {30 * time.Second, time.Millisecond}}, 4 * time.Second},
		"slow earlier": {[]renewal{{0, time.Second}, {31 * time.Second, time.Millisecond}}, 2 * time.Second},
		"slower":       {[]renewal{{0, time.Second}, {time.Second, 1500 * time.Millisecond}}, 6 * time.Second},
		"too slow":     {[]renewal{{0, time.Minute}}, 8 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pace{}
			for _, r := range test.renewals {
				p.note(start.Add(r.at), r.took)
			}
			if got := p.lease(); got != test.want {
				t.Errorf("lease of %s, want %s", got, test.want)
			}
		})
	}
}

func TestTheLeaseIsWithinBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, at := &pace{}, time.Unix(1000, 0)
		for range rapid.IntRange(0, 20).Draw(t, "renewals") {
			took := time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "took"))
			p.note(at, took)
			lease := p.lease()
			if lease < shortestLease || lease > longestLease || lease%time.Second != 0 {
				t.Fatalf("lease of %s", lease)
			}
			if lease < longestLease && lease < patience*took {
				t.Fatalf("lease of %s after a renewal that took %s", lease, took)
			}
			at = at.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "rest")))
		}
	})
}

// A leader whose control plane takes longer for a renewal than the shortest lease
// allows goes on leading once it has seen that.
func TestSlowRenewalsKeepTheLease(t *testing.T) {
	client := fake.NewClientset()
	renewals := make(chan struct{}, 100)
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		time.Sleep(1700 * time.Millisecond)
		renewals <- struct{}{}
		return false, nil, nil
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	renewed, terms := false, 0
	err := Run(ctx, client, options("one"), func(ctx context.Context) error {
		terms++
		for len(renewals) > 0 {
			<-renewals
		}
		for range 2 {
			select {
			case <-renewals:
			case <-ctx.Done(): // the first term: nothing was known yet
				return ctx.Err()
			}
		}
		lease, err := client.CoordinationV1().Leases("kube-system").Get(context.Background(), "work", metav1.GetOptions{})
		if err != nil || *lease.Spec.LeaseDurationSeconds < 7 {
			t.Errorf("lease %v, error %v", lease, err)
		}
		renewed = true
		stop()
		return nil
	})
	if err != nil || !renewed {
		t.Errorf("error %v, renewed %t after %d terms", err, renewed, terms)
	}
}

// Others may have seen a shorter lease whose renewal failed for this candidate.
func TestAShorterLeaseCountsOnceItIsAsked(t *testing.T) {
	ended := make(chan struct{})
	b := &bid{renewals: &pace{}, won: true, lost: func() { close(ended) }}
	defer b.end()
	b.stopAt(time.Now().Add(time.Hour))
	began := time.Now()
	if err := b.write(context.Background(), resourcelock.LeaderElectionRecord{HolderIdentity: "one"}, func(context.Context, resourcelock.LeaderElectionRecord) error { return context.DeadlineExceeded }); err == nil {
		t.Fatal("the failure was not told")
	}
	await(t, "the end of the term", ended)
	if after := time.Since(began); after < shortestLease-stopBefore {
		t.Errorf("ended after %s", after)
	}
}
