package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"clusterctl/bootstrap/execute"
)

var begun = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func events() []execute.Event {
	at := func(seconds float64, e execute.Event) execute.Event {
		e.Time, e.Total = begun.Add(time.Duration(seconds*float64(time.Second))), 4
		return e
	}
	return []execute.Event{
		at(0, execute.Event{Kind: execute.KindRun}),
		at(0, execute.Event{Kind: execute.KindStart, Host: "cp1", Title: "directories"}),
		at(0.5, execute.Event{Kind: execute.KindDone, Host: "cp1", Title: "directories", Done: 1, Changed: true, Elapsed: 500 * time.Millisecond}),
		at(1, execute.Event{Kind: execute.KindDone, Host: "cp1", Title: "programs", Done: 2}),
		at(12, execute.Event{Kind: execute.KindFailed, Host: "cp1", Title: "etcd member", Done: 3, Elapsed: 10 * time.Second, Error: "disk full"}),
		at(12, execute.Event{Kind: execute.KindSkipped, Host: "cp1", Title: "node Ready", Done: 4, Error: "needs etcd member of cp1"}),
		at(12, execute.Event{Kind: execute.KindSummary, Summary: &execute.Summary{
			Changed: 1, InPlace: 1, Elapsed: 12 * time.Second,
			Failed:  []execute.StepError{{Host: "cp1", Title: "etcd member", Error: "disk full"}},
			Skipped: []execute.StepError{{Host: "cp1", Title: "node Ready", Error: "needs etcd member of cp1"}},
			Phases:  []execute.PhaseTime{{Phase: "etcd", Begin: time.Second, End: 12 * time.Second, Work: 10 * time.Second}},
		}}),
	}
}

func TestLines(t *testing.T) {
	var b strings.Builder
	sink := Tee(nil, Lines(&b))
	for _, e := range events() {
		sink(e)
	}
	want := `    0.0s  4 steps
    0.5s  [1/4] cp1: directories: done in 0.5 s
    1.0s  [2/4] cp1: programs: was in place
   12.0s  [3/4] cp1: etcd member: FAILED after 10.0 s: disk full
   12.0s  [4/4] cp1: node Ready: skipped: needs etcd member of cp1
   12.0s  Incomplete after 12.0 s: 1 steps changed something, 1 were in place, 1 failed, 1 were not done.
  failed: cp1: etcd member: disk full
  not done: cp1: node Ready: needs etcd member of cp1
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	sink := JSON(&b)
	for _, e := range events() {
		sink(e)
	}
	var got []execute.Event
	decoder := json.NewDecoder(&b)
	for decoder.More() {
		var e execute.Event
		if err := decoder.Decode(&e); err != nil {
			t.Fatal(err)
		}
		got = append(got, e)
	}
	if diff := cmp.Diff(events(), got); diff != "" {
		t.Error(diff)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestBrokenPipeDoesNotStop(t *testing.T) {
	seen := 0
	sink := Tee(Lines(brokenPipe{}), JSON(brokenPipe{}), func(execute.Event) { seen++ })
	for _, e := range events() {
		sink(e)
	}
	if seen != len(events()) {
		t.Errorf("%d events got past the broken sinks, want %d", seen, len(events()))
	}
}

func TestPhases(t *testing.T) {
	all := events()
	want := "PHASE             BEGIN      END     WORK\netcd              1.0 s   12.0 s   10.0 s\n"
	if diff := cmp.Diff(want, Phases(all[len(all)-1].Summary)); diff != "" {
		t.Error(diff)
	}
}
