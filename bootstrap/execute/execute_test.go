package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"clusterctl/bootstrap/encryption"
	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/pki"
	"clusterctl/bootstrap/plan"
	"clusterctl/bootstrap/preflight"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

func openPayload(digest string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(digest)), nil
}

// up goes the whole way of an `up` and returns the plan that was carried out.
func up(t *testing.T, ctx context.Context, inv *inventory.Inventory, hands Hands, events Sink) (*plan.Plan, *Summary, error) {
	t.Helper()
	seen, err := Observe(ctx, hands)
	if err != nil {
		t.Fatal(err)
	}
	authorities, _, err := Authorities(ctx, inv, seen.Facts, hands, now)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := Encryption(ctx, inv, seen.Facts, hands)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := plan.Build(inv, seen.Facts, manifest())
	if err != nil {
		t.Fatal(err)
	}
	results, err := Check(ctx, whole, hands)
	if err != nil {
		t.Fatal(err)
	}
	p := whole.Prune(results)
	summary, err := Run(ctx, p, hands, Options{
		Authorities: authorities, Encryption: keys, Payload: openPayload, Events: events, Grace: time.Minute,
		Now: func() time.Time { return now },
	})
	return p, summary, err
}

func TestUpTwice(t *testing.T) {
	inv, hosts, hands := newCluster(t)
	first, summary, err := up(t, t.Context(), inv, hands, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The add-on's second step waits for what the first applied.
	if summary.Changed != len(first.Steps)-1 || summary.InPlace != 1 {
		t.Errorf("%d of %d steps changed something, %d were in place", summary.Changed, len(first.Steps), summary.InPlace)
	}
	if len(hosts["cp1"].keys) == 0 || !bytes.Equal(hosts["cp1"].keys, hosts["cp2"].keys) || !bytes.Equal(hosts["cp1"].keys, hosts["cp3"].keys) || hosts["w1"].keys != nil {
		t.Error("the control planes, and they alone, are to have the same encryption keys")
	}
	for name, h := range hosts {
		if h.overlap {
			t.Errorf("%s had two requests at once", name)
		}
		if h.puts == 0 {
			t.Errorf("%s got no payload", name)
		}
		if control := strings.HasPrefix(name, "cp"); control != (len(h.files) > 0) {
			t.Errorf("%s has %d authority files", name, len(h.files))
		}
		h.puts, h.applies = 0, 0
	}
	again, summary, err := up(t, t.Context(), inv, hands, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Steps) != 0 || summary.Changed != 0 {
		t.Errorf("the second run has %d steps: %v", len(again.Steps), again.Steps)
	}
	for name, h := range hosts {
		if h.applies+h.puts != 0 {
			t.Errorf("the second run did %d applies and %d uploads on %s", h.applies, h.puts, name)
		}
	}
}

// Certificates that an earlier cluster left are replaced, although they bear
// the right names: with the authorities gone nobody can tell whose they are.
func TestLeftCertificatesAreReplaced(t *testing.T) {
	inv, hosts, hands := newCluster(t)
	if _, _, err := up(t, t.Context(), inv, hands, nil); err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		h.files, h.facts.Authorities, h.facts.EtcdData = nil, nil, false
		delete(h.applied, (&hostop.Authorities{PKIDir: hostconfig.PKIDir}).Describe())
	}
	p, _, err := up(t, t.Context(), inv, hands, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"cp1/authorities", "cp3/api-certificates", "w2/node-certificates"} {
		if _, ok := p.Step(id); !ok {
			t.Errorf("%s is not done anew", id)
		}
	}
}

func TestEventsTellTheRun(t *testing.T) {
	inv, _, hands := newCluster(t)
	var events []Event
	p, _, err := up(t, t.Context(), inv, hands, func(e Event) { events = append(events, e) })
	if err != nil {
		t.Fatal(err)
	}
	if events[0].Kind != KindRun || events[0].Total != len(p.Steps) || events[len(events)-1].Kind != KindSummary {
		t.Errorf("the run begins with %v and ends with %v", events[0], events[len(events)-1])
	}
	counts := map[Kind]int{}
	begun := map[string]bool{}
	for _, e := range events {
		counts[e.Kind]++
		switch e.Kind {
		case KindStart:
			begun[e.Step] = true
			step, _ := p.Step(e.Step)
			if e.Host != step.Host || e.Title != step.Title || e.Phase != step.Phase {
				t.Errorf("event %v is not about step %v", e, step)
			}
		case KindDone, KindProgress, KindUpload:
			if !begun[e.Step] {
				t.Errorf("%s of %s before its start", e.Kind, e.Step)
			}
		}
		if raw, _ := json.Marshal(e); strings.Contains(string(raw), "PRIVATE KEY") {
			t.Errorf("a key in an event: %s", raw)
		}
	}
	if counts[KindStart] != len(p.Steps) || counts[KindDone] != len(p.Steps) || counts[KindUpload] == 0 || counts[KindProgress] == 0 {
		t.Errorf("%d steps, and these events: %v", len(p.Steps), counts)
	}
	if last := events[len(events)-2]; last.Done != len(p.Steps) {
		t.Errorf("the last step is number %d of %d", last.Done, len(p.Steps))
	}
	if raw, err := json.Marshal(p); err != nil || strings.Contains(string(raw), "PRIVATE KEY") {
		t.Errorf("a key stays in the plan (%v)", err)
	}
}

func TestFailureStaysWithItsHost(t *testing.T) {
	inv, hosts, hands := newCluster(t)
	hosts["w1"].fail = func(op hostop.Op) error {
		if service, ok := op.(*hostop.Service); ok {
			return fmt.Errorf("%s will not start", service.Name)
		}
		return nil
	}
	p, summary, err := up(t, t.Context(), inv, hands, nil)
	if !errors.Is(err, ErrIncomplete) || !strings.Contains(err.Error(), "w1: containerd: service clusterctl-containerd running: clusterctl-containerd will not start") {
		t.Errorf("Run: %v", err)
	}
	if len(summary.Failed) != 1 || summary.Failed[0].Step != "w1/containerd" {
		t.Errorf("failed: %v", summary.Failed)
	}
	for _, s := range summary.Skipped {
		if s.Host != "w1" {
			t.Errorf("skipped for w1's failure: %v", s)
		}
	}
	if done := summary.Changed + summary.InPlace + len(summary.Failed) + len(summary.Skipped); done != len(p.Steps) {
		t.Errorf("%d steps accounted for, of %d", done, len(p.Steps))
	}
	// Mended, another run does what is left and no more.
	hosts["w1"].fail = nil
	rest, _, err := up(t, t.Context(), inv, hands, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := 1 + len(summary.Skipped); len(rest.Steps) != want {
		t.Errorf("%d steps left, want %d", len(rest.Steps), want)
	}
}

func TestFailureReachesWhatNeedsIt(t *testing.T) {
	inv, hosts, hands := newCluster(t)
	hosts["cp1"].fail = func(op hostop.Op) error {
		if _, ok := op.(*hostop.EtcdMember); ok {
			return errors.New("no space")
		}
		return nil
	}
	_, summary, err := up(t, t.Context(), inv, hands, nil)
	if !errors.Is(err, ErrIncomplete) {
		t.Fatalf("Run: %v", err)
	}
	why := map[string]string{}
	for _, s := range summary.Skipped {
		why[s.Step] = s.Error
	}
	for step, want := range map[string]string{
		"cp1/control-plane": "after this host's failure at: etcd member",
		"cp2/etcd":          "needs etcd member of cp1",
		"cp2/control-plane": "needs etcd member of cp2",
		"w2/ready":          "needs",
	} {
		if !strings.Contains(why[step], want) {
			t.Errorf("%s is skipped because of %q, want %q", step, why[step], want)
		}
	}
	if _, ok := why["w2/containerd"]; ok {
		t.Error("w2's runtime does not need etcd")
	}
}

func TestInterruptionAnywhereResumes(t *testing.T) {
	for stopAt := 1; stopAt <= 60; stopAt += 3 {
		t.Run(fmt.Sprint(stopAt), func(t *testing.T) {
			inv, hosts, hands := newCluster(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			over, started := 0, 0
			_, summary, err := up(t, ctx, inv, hands, func(e Event) {
				switch e.Kind {
				case KindStart:
					started++
				case KindDone:
					if over++; over == stopAt {
						cancel()
					}
				}
			})
			if !errors.Is(err, ErrCancelled) || !summary.Cancelled {
				t.Fatalf("Run: %v", err)
			}
			if started > stopAt+len(hosts) {
				t.Errorf("%d steps started, and the run was cancelled after %d", started, stopAt)
			}
			keys := hosts["cp1"].files["cluster.key"]
			if _, _, err := up(t, t.Context(), inv, hands, nil); err != nil {
				t.Fatal(err)
			}
			if left, _, err := up(t, t.Context(), inv, hands, nil); err != nil || len(left.Steps) > 0 {
				t.Errorf("after another run %d steps are left (%v)", len(left.Steps), err)
			}
			for _, name := range []string{"cp1", "cp2", "cp3"} {
				if keys != nil && string(hosts[name].files["cluster.key"]) != string(keys) {
					t.Errorf("%s has another authority than before the interruption", name)
				}
			}
		})
	}
}

// An upload ends at once with a cancellation: nothing has been changed yet.
func TestUploadIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := step("a", "one", "")
	s.Ops = append(s.Ops, &hostop.Blob{Path: "/p", Digest: "sha256:p", Size: 1 << 30})
	open := func(string) (io.ReadCloser, error) {
		return io.NopCloser(readerFunc(func(p []byte) (int, error) {
			cancel()
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return len(p), nil
		})), nil
	}
	h := newHost("a")
	summary, err := Run(ctx, &plan.Plan{Steps: []plan.Step{s}}, Hands{"a": h}, Options{Payload: open, Grace: time.Hour})
	if !errors.Is(err, ErrCancelled) || len(summary.Skipped) != 1 || h.applies != 0 {
		t.Errorf("Run: %v, %d applied", err, h.applies)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestFaultyPlanIsRefused(t *testing.T) {
	h := newHost("a")
	circle := &plan.Plan{Steps: []plan.Step{step("a", "one", "", "two"), step("a", "two", "", "one")}}
	if _, err := Run(t.Context(), circle, Hands{"a": h}, Options{}); err == nil || h.calls > 0 {
		t.Errorf("Run: %v after %d calls", err, h.calls)
	}
}

// Ctrl-C lets what is under way come to its end, and stops it only when that
// takes too long.
func TestGrace(t *testing.T) {
	for _, test := range []struct {
		name   string
		grace  time.Duration
		ends   bool // by itself
		failed bool
	}{{"ends by itself", time.Minute, true, false}, {"has to be stopped", time.Millisecond, false, true}} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			h := newHost("a")
			h.pause = func(ctx context.Context, _ hostop.Ops) error {
				cancel()
				if test.ends {
					return nil
				}
				<-ctx.Done()
				return ctx.Err()
			}
			p := &plan.Plan{Steps: []plan.Step{step("a", "one", ""), step("a", "two", "")}}
			var kinds []Kind
			summary, err := Run(ctx, p, Hands{"a": h}, Options{Grace: test.grace, Events: func(e Event) { kinds = append(kinds, e.Kind) }})
			if !errors.Is(err, ErrCancelled) || !summary.Cancelled {
				t.Errorf("Run: %v", err)
			}
			if _, applied := h.applied["directory /one"]; applied == test.failed {
				t.Errorf("the step under way: applied %t", applied)
			}
			if _, applied := h.applied["directory /two"]; applied {
				t.Error("a step began after the cancellation")
			}
			if !slices.Contains(kinds, KindSummary) {
				t.Errorf("events: %v", kinds)
			}
		})
	}
}

func step(host, name, exclusive string, needs ...string) plan.Step {
	return plan.Step{
		ID: name, Host: host, Phase: plan.PhasePrepare, Title: name, Exclusive: exclusive, Needs: needs,
		Ops: hostop.Ops{&hostop.Directory{Path: "/" + name}},
	}
}

func TestAuthoritiesRule(t *testing.T) {
	one, err := pki.NewBundle("one", now)
	if err != nil {
		t.Fatal(err)
	}
	two, err := pki.NewBundle("two", now)
	if err != nil {
		t.Fatal(err)
	}
	holds := func(h *host, b pki.Bundle) {
		h.files = b
		if h.facts.Authorities, err = b.Fingerprints(); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name    string
		prepare func(hosts map[string]*host)
		want    pki.Bundle // nil: any
		fresh   bool
		err     error
		says    string
	}{
		{"a new cluster", func(map[string]*host) {}, nil, true, nil, ""},
		{"one control plane has them", func(hosts map[string]*host) { holds(hosts["cp3"], one) }, one, false, nil, ""},
		{"two have the same", func(hosts map[string]*host) { holds(hosts["cp1"], one); holds(hosts["cp3"], one) }, one, false, nil, ""},
		{"two differ", func(hosts map[string]*host) { holds(hosts["cp1"], one); holds(hosts["cp3"], two) }, nil, false, ErrAuthoritiesDiffer, "cp1 and cp3; remove /etc/clusterctl/pki/ca"},
		{"lost", func(hosts map[string]*host) { hosts["cp2"].facts.EtcdData = true }, nil, false, ErrAuthoritiesLost, "on cp2; put /etc/clusterctl/pki/ca back"},
		{"torn", func(hosts map[string]*host) {
			holds(hosts["cp1"], one)
			hosts["cp1"].files = pki.Bundle{"cluster.crt": one["cluster.crt"]}
		}, nil, false, errAny, "certificate authorities lack"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inv, hosts, hands := newCluster(t)
			test.prepare(hosts)
			seen, err := Observe(t.Context(), hands)
			if err != nil {
				t.Fatal(err)
			}
			bundle, fresh, err := Authorities(t.Context(), inv, seen.Facts, hands, now)
			if test.err != nil {
				if err == nil || test.err != errAny && !errors.Is(err, test.err) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("Authorities: %v, want %v", err, test.says)
				}
				return
			}
			if err != nil || fresh != test.fresh || test.want != nil && !cmp.Equal(bundle, test.want) {
				t.Errorf("Authorities: fresh %t, %v", fresh, err)
			}
		})
	}
}

func TestEncryptionRule(t *testing.T) {
	marshal := func(keys encryption.Keys) []byte {
		raw, err := keys.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	one, two := encryption.New(false), encryption.New(false)
	two.List[0].Number = 2
	both := marshal(encryption.Keys{List: append(two.List, one.List...)})
	foreign := []byte("kind: EncryptionConfiguration")
	tests := []struct {
		name    string
		prepare func(hosts map[string]*host)
		want    []byte // nil: new ones
		plain   bool   // of new ones
		fails   string
	}{
		{"a new cluster", func(map[string]*host) {}, nil, false, ""},
		{"one that encrypts nothing yet", func(hosts map[string]*host) { hosts["cp1"].facts.EtcdData = true }, nil, true, ""},
		{"one control plane has them", func(hosts map[string]*host) { hosts["cp2"].keys = marshal(one) }, marshal(one), false, ""},
		{"in a rotation", func(hosts map[string]*host) { hosts["cp2"].keys, hosts["cp3"].keys = both, marshal(two) }, both, false, ""},
		{"the operator's own", func(hosts map[string]*host) { hosts["cp2"].keys, hosts["cp3"].keys = foreign, foreign }, foreign, false, ""},
		{"the operator's own, differing", func(hosts map[string]*host) { hosts["cp2"].keys, hosts["cp3"].keys = foreign, both }, nil, false, "cp2: the encryption configuration is not one"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			inv, hosts, hands := newCluster(t)
			test.prepare(hosts)
			seen, err := Observe(t.Context(), hands)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Encryption(t.Context(), inv, seen.Facts, hands)
			if test.fails != "" {
				if err == nil || !strings.Contains(err.Error(), test.fails) {
					t.Errorf("got %v, want %s", err, test.fails)
				}
				return
			}
			if err != nil || test.want != nil && !bytes.Equal(got, test.want) {
				t.Errorf("got %s, %v; want %s", got, err, test.want)
			}
			if keys, err := encryption.Parse(got); test.want == nil && (err != nil || keys.WritePlain != test.plain) {
				t.Errorf("new keys: written in plain text %t, %v; want %t", keys.WritePlain, err, test.plain)
			}
		})
	}
}

func TestLock(t *testing.T) {
	_, hosts, hands := newCluster(t)
	hosts["cp2"].lock = "mallory@elsewhere"
	hosts["w1"].lock = "mallory@elsewhere"
	err := Lock(t.Context(), hands, "alice@here")
	want := "cp2: held by mallory@elsewhere\nw1: held by mallory@elsewhere"
	if err == nil || err.Error() != want {
		t.Errorf("Lock: %v, want %s", err, want)
	}
	if hosts["cp1"].lock != "alice@here" {
		t.Errorf("cp1 is held by %q", hosts["cp1"].lock)
	}
}

func TestObserveReportsEveryHost(t *testing.T) {
	_, _, hands := newCluster(t)
	hands["cp1"], hands["w2"] = gone{}, gone{}
	seen, err := Observe(t.Context(), hands)
	want := "cp1: gather facts: connection lost\nw2: gather facts: connection lost"
	if err == nil || err.Error() != want {
		t.Errorf("Observe: %v, want %s", err, want)
	}
	if got := slices.Sorted(maps.Keys(seen.Facts)); !slices.Equal(got, []string{"cp2", "cp3", "w1"}) {
		t.Errorf("facts of %v", got)
	}
}

type gone struct{}

func (gone) Call(context.Context, hostop.Request, io.Reader, func(hostop.Event)) (json.RawMessage, error) {
	return nil, errors.New("connection lost")
}
func (gone) Close() error { return nil }

func TestReach(t *testing.T) {
	inv, hosts, hands := newCluster(t)
	hosts["w1"].deaf = map[string]string{"10.0.0.2:6443": "no answer within 3s", "10.0.0.12:8472": "no answer within 3s"}
	var mu sync.Mutex
	opened := map[string]int{}
	for name, h := range hosts {
		hands[name] = spy{h, func(req hostop.Request) {
			if req.Method == hostop.MethodDial {
				mu.Lock()
				defer mu.Unlock()
				opened[name] = len(h.listening)
			}
		}}
	}
	unreachable, err := Reach(t.Context(), preflight.Matrix(inv), hands)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range unreachable {
		got = append(got, fmt.Sprintf("%s->%s %s %s", u.From, u.To, u.Port, u.Error))
	}
	want := []string{"w1->cp2 tcp 6443 no answer within 3s", "w1->w2 udp 8472 no answer within 3s"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	// 6443, 10250, 2379, 2380 and 8472 on control planes; 10250 and 8472 on workers.
	if diff := cmp.Diff(map[string]int{"cp1": 5, "cp2": 5, "cp3": 5, "w1": 2, "w2": 2}, opened); diff != "" {
		t.Error(diff)
	}
	for name, h := range hosts {
		if len(h.listening) > 0 {
			t.Errorf("%s is left listening on %v", name, h.listening)
		}
	}
}

type spy struct {
	Hand
	see func(hostop.Request)
}

func (s spy) Call(ctx context.Context, req hostop.Request, body io.Reader, onEvent func(hostop.Event)) (json.RawMessage, error) {
	s.see(req)
	return s.Hand.Call(ctx, req, body, onEvent)
}

var errAny = errors.New("any")
