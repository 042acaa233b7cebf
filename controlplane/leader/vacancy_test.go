package leader

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/utils/ptr"
)

// held is a lease as its holder leaves it at a renewal.
func held(by string, seconds int32) *coordinationv1.Lease {
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "work"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &by, LeaseDurationSeconds: &seconds, LeaseTransitions: ptr.To[int32](4),
			AcquireTime: ptr.To(metav1.NewMicroTime(time.Unix(1, 0))), RenewTime: ptr.To(metav1.NowMicro()),
		},
	}
}

func TestTheLeaseOfTheDeadIsTakenWhenItIsOut(t *testing.T) {
	synctest.Test(t, testTheLeaseOfTheDeadIsTakenWhenItIsOut)
}

func testTheLeaseOfTheDeadIsTakenWhenItIsOut(t *testing.T) {
	client := fake.NewClientset(held("dead", 2))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	leads, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Run(ctx, client, options("two"), func(ctx context.Context) error {
			close(leads)
			<-ctx.Done()
			return nil
		})
	}()
	var renewed time.Time
	for range 4 {
		time.Sleep(300 * time.Millisecond)
		renewed = time.Now()
		if _, err := client.CoordinationV1().Leases("kube-system").Update(ctx, held("dead", 2), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the successor", leads)
	if waited := time.Since(renewed); waited != 2*time.Second {
		t.Errorf("the lease was taken %s after its last renewal", waited)
	}
	lease, err := client.CoordinationV1().Leases("kube-system").Get(ctx, "work", metav1.GetOptions{})
	if err != nil || *lease.Spec.HolderIdentity != "two" || *lease.Spec.LeaseTransitions != 5 {
		t.Errorf("lease %v, error %v", lease, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestVacantAtOnce(t *testing.T) {
	for name, vacate := range map[string]func(context.Context, *fake.Clientset) error{
		"deleted": func(ctx context.Context, client *fake.Clientset) error {
			return client.CoordinationV1().Leases("kube-system").Delete(ctx, "work", metav1.DeleteOptions{})
		},
		"released": func(ctx context.Context, client *fake.Clientset) error {
			_, err := client.CoordinationV1().Leases("kube-system").Update(ctx, held("", 1), metav1.UpdateOptions{})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset(held("one", 3600))
				wait := &waiting{client: client.CoordinationV1().Leases("kube-system"), name: "work", logger: options("").Logger}
				found := make(chan struct{})
				go func() {
					defer close(found)
					if !wait.vacant(context.Background()) {
						t.Error("not vacant")
					}
				}()
				select {
				case <-found:
					t.Fatal("vacant while it is held")
				case <-time.After(200 * time.Millisecond):
				}
				if err := vacate(context.Background(), client); err != nil {
					t.Fatal(err)
				}
				await(t, "the vacancy", found)
			})
		})
	}
}

func TestBid(t *testing.T) {
	out := held("dead", 2)
	renewed := out.DeepCopy()
	renewed.Spec.RenewTime.Time = out.Spec.RenewTime.Add(time.Second)
	for name, test := range map[string]struct {
		now  *coordinationv1.Lease
		want error
	}{
		"as seen":         {out, nil},
		"renewed":         {renewed, errOutbid},
		"taken by others": {held("other", 2), errOutbid},
	} {
		t.Run(name, func(t *testing.T) {
			lost := false
			b := &bid{
				LeaseLock: &resourcelock.LeaseLock{
					LeaseMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "work"},
					Client:    fake.NewClientset(test.now).CoordinationV1(),
				},
				out:  resourcelock.LeaseSpecToLeaderElectionRecord(&out.Spec),
				lost: func() { lost = true },
			}
			record, _, err := b.Get(context.Background())
			if !errors.Is(err, test.want) || lost != (test.want != nil) {
				t.Errorf("error %v, lost %t", err, lost)
			}
			if err == nil && record.HolderIdentity != "" {
				t.Errorf("held by %q", record.HolderIdentity)
			}
		})
	}
}
