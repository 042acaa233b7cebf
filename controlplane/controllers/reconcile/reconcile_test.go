package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func quiet() *Environment { return &Environment{Logger: slog.New(slog.DiscardHandler)} }

func TestLoopRetriesAndSurvivesPanics(t *testing.T) {
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	var mu sync.Mutex
	calls := map[string]int{}
	loop := NewLoop(quiet(), "test", 2, func(_ context.Context, key string) error {
		mu.Lock()
		defer mu.Unlock()
		calls[key]++
		switch {
		case key == "fails" && calls[key] < 3:
			return errors.New("not yet")
		case key == "panics" && calls[key] == 1:
			panic("boom")
		}
		if calls["fails"] == 3 && calls["panics"] == 2 && calls["fine"] == 1 {
			stop()
		}
		return nil
	})
	for _, key := range []string{"fails", "panics", "fine"} {
		loop.Add(key)
	}
	if err := loop.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if calls["fails"] != 3 || calls["panics"] != 2 || calls["fine"] != 1 {
		t.Errorf("calls: %v", calls)
	}
}

func TestLoopNeverRunsAKeyTwiceAtOnce(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	var mu sync.Mutex
	running, done := false, 0
	var loop *Loop
	loop = NewLoop(quiet(), "test", 4, func(_ context.Context, key string) error {
		mu.Lock()
		if running {
			t.Error("the same key on two workers")
		}
		running = true
		mu.Unlock()
		loop.Add(key) // comes while it is worked on
		time.Sleep(time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		running = false
		if done++; done == 20 {
			stop()
		}
		return nil
	})
	loop.Add("key")
	if err := loop.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if done < 20 {
		t.Errorf("ran %d times", done)
	}
}

func TestTickerGoesOnAfterErrors(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	n := 0
	ticker := NewTicker(quiet(), "test", time.Millisecond, func(context.Context) error {
		if n++; n == 3 {
			stop()
		}
		return errors.New("no luck")
	})
	if err := ticker.Run(ctx); err != nil || n != 3 {
		t.Errorf("err %v, %d calls", err, n)
	}
}

type controllerFunc func(context.Context) error

func (f controllerFunc) Run(ctx context.Context) error { return f(ctx) }

func TestAllStopsTogether(t *testing.T) {
	boom := errors.New("boom")
	stopped := false
	err := All{
		controllerFunc(func(context.Context) error { return boom }),
		controllerFunc(func(ctx context.Context) error { <-ctx.Done(); stopped = true; return nil }),
	}.Run(context.Background())
	if !errors.Is(err, boom) || !stopped {
		t.Errorf("err %v, stopped %v", err, stopped)
	}
}

func TestExpectations(t *testing.T) {
	var e Expectations
	if !e.Met("a") {
		t.Error("nothing is expected at first")
	}
	e.ExpectCreations("a", 2)
	e.ExpectDeletion("a", "x")
	for i, observe := range []func(){func() { e.Created("a") }, func() { e.Created("b") }, func() { e.Deleted("a", "x") }, func() { e.Deleted("a", "y") }} {
		observe()
		if e.Met("a") {
			t.Fatalf("met after step %d", i)
		}
	}
	e.Created("a")
	if !e.Met("a") {
		t.Error("not met after all has been seen")
	}
	e.Created("a") // one too many must not count for the next
	e.ExpectCreations("a", 1)
	if e.Met("a") {
		t.Error("an early event met a later expectation")
	}
	e.expire = time.Nanosecond
	time.Sleep(time.Millisecond)
	if !e.Met("a") {
		t.Error("an expectation lasts for ever")
	}
}

func TestClaim(t *testing.T) {
	yes := true
	kind := schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "ReplicaSet"}
	owner := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "owner", Namespace: "ns", UID: "owner"}}
	pod := func(name, label string, controller types.UID) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), Labels: map[string]string{"app": label}}}
		if controller != "" {
			p.OwnerReferences = []metav1.OwnerReference{{UID: controller, Controller: &yes}}
		}
		return p
	}
	pods := []*corev1.Pod{
		pod("mine", "a", "owner"),
		pod("released", "b", "owner"),
		pod("adopted", "a", ""),
		pod("stranger", "b", ""),
		pod("theirs", "a", "other"),
		pod("gone", "a", ""),
	}
	for name, test := range map[string]struct {
		fresh     *corev1.Pod
		wantErr   bool
		claimed   []string
		patched   []string
		ownerGone bool
	}{
		"alive":         {fresh: owner, claimed: []string{"mine", "adopted"}, patched: []string{"released", "adopted", "gone"}},
		"another now":   {fresh: pod("owner2", "", ""), wantErr: true, claimed: []string{"mine"}, patched: []string{"released"}},
		"being deleted": {ownerGone: true, claimed: []string{"mine"}},
	} {
		t.Run(name, func(t *testing.T) {
			var patched []string
			me := owner.DeepCopy()
			if test.ownerGone {
				now := metav1.Now()
				me.DeletionTimestamp = &now
			}
			asked := 0
			claimed, err := Claim[*corev1.Pod]{
				Owner: me, Kind: kind, Selector: labels.SelectorFromSet(labels.Set{"app": "a"}),
				Fresh: func(context.Context) (metav1.Object, error) { asked++; return test.fresh, nil },
				Patch: func(_ context.Context, p *corev1.Pod, _ []byte) error {
					patched = append(patched, p.Name)
					if p.Name == "gone" {
						return apierrors.NewNotFound(schema.GroupResource{}, p.Name)
					}
					return nil
				},
			}.Resolve(context.Background(), pods)
			if (err != nil) != test.wantErr {
				t.Errorf("err: %v", err)
			}
			var names []string
			for _, p := range claimed {
				names = append(names, p.Name)
			}
			if !slices.Equal(names, test.claimed) || !slices.Equal(patched, test.patched) {
				t.Errorf("claimed %v, patched %v; want %v, %v", names, patched, test.claimed, test.patched)
			}
			if asked > 1 {
				t.Errorf("the owner was read %d times", asked)
			}
		})
	}
}
