package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"clusterctl/bootstrap/execute"
)

// Lines writes a line for each step that is over, and the summary. Every line
// tells the time since the run began. Write errors are ignored: a broken pipe
// must not stop a run halfway.
func Lines(w io.Writer) execute.Sink {
	var begun time.Time
	return func(e execute.Event) {
		if e.Kind == execute.KindRun {
			begun = e.Time
		}
		text := line(e)
		if text == "" {
			return
		}
		fmt.Fprintf(w, "%7.1fs  %s\n", e.Time.Sub(begun).Seconds(), text)
	}
}

func line(e execute.Event) string {
	step := fmt.Sprintf("[%d/%d] %s: %s", e.Done, e.Total, e.Host, e.Title)
	switch e.Kind {
	case execute.KindRun:
		return fmt.Sprintf("%d steps", e.Total)
	case execute.KindDone:
		if !e.Changed {
			return step + ": was in place"
		}
		return fmt.Sprintf("%s: done in %s", step, seconds(e.Elapsed))
	case execute.KindFailed:
		return fmt.Sprintf("%s: FAILED after %s: %s", step, seconds(e.Elapsed), e.Error)
	case execute.KindSkipped:
		return fmt.Sprintf("%s: skipped: %s", step, e.Error)
	case execute.KindStopping:
		return "stopping; " + e.Detail
	case execute.KindSummary:
		return Summary(e.Summary)
	}
	return ""
}

// Summary says in a few lines how a run ended.
func Summary(s *execute.Summary) string {
	var b strings.Builder
	switch {
	case s.Cancelled:
		b.WriteString("Cancelled")
	case len(s.Failed)+len(s.Skipped) > 0:
		b.WriteString("Incomplete")
	default:
		b.WriteString("Done")
	}
	fmt.Fprintf(&b, " after %s: %d steps changed something, %d were in place", seconds(s.Elapsed), s.Changed, s.InPlace)
	if n := len(s.Failed); n > 0 {
		fmt.Fprintf(&b, ", %d failed", n)
	}
	if n := len(s.Skipped); n > 0 {
		fmt.Fprintf(&b, ", %d were not done", n)
	}
	b.WriteByte('.')
	for _, f := range s.Failed {
		fmt.Fprintf(&b, "\n  failed: %s: %s: %s", f.Host, f.Title, f.Error)
	}
	for _, f := range s.Skipped {
		fmt.Fprintf(&b, "\n  not done: %s: %s: %s", f.Host, f.Title, f.Error)
	}
	return b.String()
}

// Phases is a table of where the time of a run went.
func Phases(s *execute.Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-14s %8s %8s %8s\n", "PHASE", "BEGIN", "END", "WORK")
	for _, p := range s.Phases {
		fmt.Fprintf(&b, "%-14s %8s %8s %8s\n", p.Phase, seconds(p.Begin), seconds(p.End), seconds(p.Work))
	}
	return b.String()
}

// JSON writes each event as one line of JSON.
func JSON(w io.Writer) execute.Sink {
	encoder := json.NewEncoder(w)
	return func(e execute.Event) { _ = encoder.Encode(e) }
}

// Tee hands each event to every sink, in order; a nil one is left out.
func Tee(sinks ...execute.Sink) execute.Sink {
	return func(e execute.Event) {
		for _, sink := range sinks {
			if sink != nil {
				sink(e)
			}
		}
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
