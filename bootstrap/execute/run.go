package execute

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"clusterctl/bootstrap/pki"
	"clusterctl/bootstrap/plan"
)

// Defaults of Options.
const (
	DefaultParallel = 64
	DefaultGrace    = 15 * time.Second
)

// Options configures Run.
type Options struct {
	// Authorities signs what the plan's certificates ask for.
	Authorities pki.Bundle
	// Encryption is what a control plane without encryption keys gets.
	Encryption []byte
	// Payload opens a compressed file of the payload by its digest.
	Payload func(digest string) (io.ReadCloser, error)
	// Events takes what happens; nil: nobody wants to know.
	Events Sink
	// Parallel bounds the steps under way at once; 0: DefaultParallel.
	Parallel int
	// Grace is how long steps under way may take to come to an end after a
	// cancellation, before they are told to stop; 0: DefaultGrace.
	Grace time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Errors of Run; it joins them with what failed.
var (
	ErrCancelled  = errors.New("cancelled; what was done stays, and another run goes on from there")
	ErrIncomplete = errors.New("not every step could be done")
)

var errStop = errors.New("cancelled")

// Run carries a plan out. A step starts when what it needs is done, its host's
// hand is free and its exclusive lock too; the plan's order decides between
// several. After a failure the host's other steps and whatever needs them are
// skipped, and everything else goes on.
//
// When ctx ends no further step starts, those under way get Options.Grace to
// come to an end, and Run returns ErrCancelled. The Summary is never nil.
func Run(ctx context.Context, p *plan.Plan, hands Hands, o Options) (*Summary, error) {
	if o.Parallel <= 0 {
		o.Parallel = DefaultParallel
	}
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Events == nil {
		o.Events = func(Event) {}
	}
	if err := p.Validate(); err != nil {
		return &Summary{}, fmt.Errorf("carry out the plan: %w", err)
	}
	r := &run{plan: p, hands: hands, options: o, begun: o.Now(), states: make([]progress, len(p.Steps)), index: map[string]int{}}
	for i, step := range p.Steps {
		r.index[step.ID] = i
	}
	r.emit(Event{Kind: KindRun, Total: len(p.Steps)})
	r.loop(ctx)
	summary := r.summarize()
	r.emit(Event{Kind: KindSummary, Elapsed: summary.Elapsed, Summary: summary, Total: len(p.Steps), Done: r.over})
	switch {
	case summary.Cancelled:
		return summary, ErrCancelled
	case len(summary.Failed) > 0 || len(summary.Skipped) > 0:
		faults := []error{ErrIncomplete}
		for _, failed := range summary.Failed {
			faults = append(faults, fmt.Errorf("%s: %s: %s", failed.Host, failed.Title, failed.Error))
		}
		return summary, errors.Join(faults...)
	}
	return summary, nil
}

// Where a step stands.
type state int

const (
	waiting state = iota
	running
	done
	failed
	skipped
)

type progress struct {
	state      state
	changed    bool
	why        string // failed, skipped
	begin, end time.Time
}

type run struct {
	plan    *plan.Plan
	hands   Hands
	options Options
	begun   time.Time
	index   map[string]int

	// Only loop touches these.
	states    []progress
	cancelled bool

	mu   sync.Mutex // held while an event is told
	over int        // steps that are over
}

// emit tells an event.
func (r *run) emit(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.Time = r.options.Now()
	switch e.Kind {
	case KindDone, KindFailed, KindSkipped:
		r.over++
	}
	if e.Step != "" {
		e.Done, e.Total = r.over, len(r.plan.Steps)
	}
	r.options.Events(e)
}

func about(step plan.Step, e Event) Event {
	e.Host, e.Step, e.Phase, e.Title = step.Host, step.ID, step.Phase, step.Title
	return e
}

// result is how a step under way ended.
type result struct {
	step    int
	changed bool
	err     error
}

func (r *run) loop(ctx context.Context) {
	// Steps under way outlive ctx by the grace.
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	results := make(chan result)
	cancelled := ctx.Done()
	var grace <-chan time.Time
	for under := 0; ; {
		if ctx.Err() == nil {
			r.skipHopeless()
			for _, i := range r.startable(r.options.Parallel - under) {
				r.states[i].state, r.states[i].begin = running, r.options.Now()
				r.emit(about(r.plan.Steps[i], Event{Kind: KindStart}))
				under++
				go func() {
					changed, err := r.perform(ctx, work, r.plan.Steps[i])
					results <- result{i, changed, err}
				}()
			}
		}
		if under == 0 {
			break
		}
		select {
		case ended := <-results:
			under--
			r.finish(ended)
		case <-cancelled:
			cancelled = nil
			r.emit(Event{Kind: KindStopping, Detail: fmt.Sprintf("%d steps are under way", under)})
			timer := time.NewTimer(r.options.Grace)
			defer timer.Stop()
			grace = timer.C
		case <-grace:
			stop(errStop)
		}
	}
	for i := range r.states {
		if r.states[i].state == waiting {
			r.cancelled = true
			r.skip(i, "the run was cancelled")
		}
	}
}

// startable lists the steps to start now, at most so many.
func (r *run) startable(most int) []int {
	busy, held := map[string]bool{}, map[string]bool{}
	for i, step := range r.plan.Steps {
		if r.states[i].state == running {
			busy[step.Hand()], held[step.Exclusive] = true, true
		}
	}
	var start []int
	for i, step := range r.plan.Steps {
		if len(start) >= most {
			break
		}
		if r.states[i].state != waiting || busy[step.Hand()] || step.Exclusive != "" && held[step.Exclusive] || !r.met(step) {
			continue
		}
		busy[step.Hand()], held[step.Exclusive] = true, true
		start = append(start, i)
	}
	return start
}

// met says whether everything that a step needs is done.
func (r *run) met(step plan.Step) bool {
	return !slices.ContainsFunc(step.Needs, func(need string) bool {
		i, ok := r.index[need]
		return ok && r.states[i].state != done
	})
}

// skipHopeless skips the steps that cannot be done any more.
func (r *run) skipHopeless() {
	stuck := map[string]string{} // host: the title of the step it failed at
	for i, step := range r.plan.Steps {
		if r.states[i].state == failed {
			stuck[step.Host] = step.Title
		}
	}
	for again := true; again; {
		again = false
		for i, step := range r.plan.Steps {
			if r.states[i].state != waiting {
				continue
			}
			why := ""
			if title, ok := stuck[step.Host]; ok {
				why = "after this host's failure at: " + title
			}
			for _, need := range step.Needs {
				j, ok := r.index[need]
				if ok && (r.states[j].state == failed || r.states[j].state == skipped) && why == "" {
					why = fmt.Sprintf("needs %s of %s", r.plan.Steps[j].Title, r.plan.Steps[j].Host)
				}
			}
			if why != "" {
				r.skip(i, why)
				again = true
			}
		}
	}
}

func (r *run) skip(i int, why string) {
	r.states[i].state, r.states[i].why = skipped, why
	r.emit(about(r.plan.Steps[i], Event{Kind: KindSkipped, Error: why}))
}

func (r *run) finish(ended result) {
	p := &r.states[ended.step]
	p.end, p.changed = r.options.Now(), ended.changed
	e := Event{Kind: KindDone, Changed: ended.changed, Elapsed: p.end.Sub(p.begin)}
	p.state = done
	switch {
	case errors.Is(ended.err, errStop):
		r.cancelled = true
		p.state, p.why = skipped, "stopped on the way: the run was cancelled"
		e.Kind, e.Error = KindSkipped, p.why
	case ended.err != nil:
		p.state, p.why = failed, ended.err.Error()
		e.Kind, e.Error = KindFailed, p.why
	}
	r.emit(about(r.plan.Steps[ended.step], e))
}

func (r *run) summarize() *Summary {
	s := &Summary{Cancelled: r.cancelled, Elapsed: r.options.Now().Sub(r.begun)}
	times := map[string]*PhaseTime{}
	for i, step := range r.plan.Steps {
		p := r.states[i]
		entry := StepError{Step: step.ID, Host: step.Host, Title: step.Title, Error: p.why}
		switch {
		case p.state == failed:
			s.Failed = append(s.Failed, entry)
		case p.state == skipped:
			s.Skipped = append(s.Skipped, entry)
			continue
		case p.changed:
			s.Changed++
		default:
			s.InPlace++
		}
		begin, end := p.begin.Sub(r.begun), p.end.Sub(r.begun)
		t := times[step.Phase]
		if t == nil {
			t = &PhaseTime{Phase: step.Phase, Begin: begin}
			times[step.Phase] = t
		}
		t.Begin, t.End, t.Work = min(t.Begin, begin), max(t.End, end), t.Work+end-begin
	}
	for _, phase := range plan.Phases() {
		if t := times[phase]; t != nil {
			s.Phases = append(s.Phases, *t)
		}
	}
	return s
}
