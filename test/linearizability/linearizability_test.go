package linearizability

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/test/fixture"
)

const writers = 6

func TestServers(t *testing.T) {
	s := newSystem(t)
	t.Run("Linearizability", func(t *testing.T) { testLinearizability(t, s) })
	t.Run("Endpoints", func(t *testing.T) { testEndpoints(t, s) })
	t.Run("NodePorts", func(t *testing.T) { testNodePorts(t, s) })
}

func testLinearizability(t *testing.T, s *system) {
	length := 15 * time.Second
	if text := os.Getenv("CLUSTERCTL_LINEARIZABILITY"); text != "" {
		var err error
		if length, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.clients[0].CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	start, err := s.clients[0].CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(start.Items) > 0 {
		t.Fatalf("list a new namespace: %d objects, %v", len(start.Items), err)
	}
	h := &history{from: versionOf(start.ResourceVersion), refused: map[string]int{}}

	// Whoever sees has to see the last write in the end.
	seeing, giveUp := context.WithTimeout(t.Context(), length+10*time.Minute)
	defer giveUp()
	results := make(chan error, 1+members)
	go func() { results <- h.follow(seeing, s.etcd) }()
	watchers := make([]*watcher, members)
	for i := range watchers {
		watchers[i] = &watcher{system: s, server: i, from: h.from}
		go func() { results <- watchers[i].run(seeing) }()
	}
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var running sync.WaitGroup
	begin, values := time.Now(), &atomic.Int64{}
	for id := range writers {
		c := &client{id: id, system: s, history: h, begin: begin, values: values}
		running.Go(func() { c.run(writing) })
	}
	kills, err := s.faults(begin.Add(length), h)
	stop()
	running.Wait()
	if err != nil {
		giveUp()
		for range 1 + members {
			<-results
		}
		t.Fatal(err)
	}
	if err := await("the last write", func(ctx context.Context) bool {
		_, err := s.clients[0].CoreV1().ConfigMaps(namespace).Update(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: last}}, metav1.UpdateOptions{})
		if err != nil {
			_, err = s.clients[0].CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: last}}, metav1.CreateOptions{})
		}
		return err == nil
	}); err != nil {
		t.Fatal(err)
	}
	var errs []error
	for range 1 + members {
		errs = append(errs, <-results)
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	for _, w := range watchers {
		h.watchers = append(h.watchers, w.sights)
	}
	checking := time.Now()
	if err := h.check(2 * time.Minute); err != nil {
		t.Error(err)
	}
	h.report(t, kills, watchers)
	t.Logf("%s of faults, checked in %s", length, time.Since(checking).Round(time.Millisecond))
}

// faults kills and stops one server after another, the etcd member that leads
// first, until the time has come and the history tells something, and has
// everything run again in the end. It returns how many leaders it killed.
func (s *system) faults(until time.Time, h *history) (kills int, err error) {
	more := func() bool {
		now := time.Now()
		return now.Before(until) || h.lacks() != "" && now.Before(until.Add(patience))
	}
	for i := 0; kills == 0 || more(); i++ {
		server := i % members
		switch i % 5 {
		case 0, 3:
			leader, err := s.awaitLeader()
			if err == nil {
				err = s.restart(s.members[leader], syscall.SIGKILL)
			}
			if err != nil {
				return kills, err
			}
			kills++
		case 1:
			err = s.restart(s.servers[server], syscall.SIGKILL)
		case 2:
			// A leader that sleeps through its own succession.
			leader, found := s.awaitLeader()
			if err = found; err == nil {
				err = s.pause(s.members[leader], 3*time.Second)
			}
		case 4:
			err = s.restart(s.servers[server], syscall.SIGTERM)
		}
		if err == nil {
			err = s.awaitServer(server)
		}
		if err != nil {
			return kills, fmt.Errorf("fault %d: %w", i, err)
		}
		time.Sleep(500 * time.Millisecond)
	}
	_, err = s.awaitLeader()
	return kills, err
}

func (s *system) restart(p *fixture.Process, how os.Signal) error {
	if err := p.End(how); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	return p.Start()
}

func (s *system) pause(p *fixture.Process, length time.Duration) error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(length)
	return p.Signal(syscall.SIGCONT)
}

func (h *history) refuse(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refused[reason(err)]++
}

func reason(err error) string {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return "connection refused"
	}
	if known := apierrors.ReasonForError(err); known != metav1.StatusReasonUnknown {
		return string(known)
	}
	return err.Error()
}

// report tells what was checked, and fails where that was too little to mean
// anything.
func (h *history) report(t *testing.T, kills int, watchers []*watcher) {
	t.Helper()
	outcomes := map[string]int{}
	kinds := map[operation]int{}
	for _, c := range h.calls {
		outcomes[c.out.outcome.String()]++
		if c.out.outcome == done {
			kinds[c.in.kind]++
		}
	}
	anew, turns := 0, 0
	for _, w := range watchers {
		turns += w.turns
		for _, s := range w.sights {
			if s.anew != nil {
				anew++
			}
		}
	}
	t.Logf("%d leaders of etcd killed; calls %v, of which done %v; refused %v; %d lists; %d versions; %d watchers, which went on %d times and began anew %d times",
		kills, outcomes, kinds, h.refused, len(h.listings), len(h.truth), len(h.watchers), turns, anew)
	if lack := h.lacks(); lack != "" {
		t.Errorf("the run tells nothing of %s", lack)
	}
	if turns < len(watchers) {
		t.Errorf("%d reconnects tell nothing of watchers that go on", turns)
	}
}

// lacks says what is missing in a history that means something.
func (h *history) lacks() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var acknowledged [read + 1]int
	for _, c := range h.calls {
		if c.out.outcome == done {
			acknowledged[c.in.kind]++
		}
	}
	for kind, n := range acknowledged {
		if n < 5 {
			return operation(kind).String()
		}
	}
	if len(h.listings) == 0 {
		return "lists"
	}
	return ""
}
