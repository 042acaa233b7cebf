package execute

import (
	"time"

	"clusterctl/hostop"
)

// Kind says what an Event tells.
type Kind string

// The kinds of events, in the order in which a step sees them.
const (
	KindRun      Kind = "run"      // the run begins; Total steps are to be done
	KindStart    Kind = "start"    // a step began
	KindUpload   Kind = "upload"   // Bytes of Size have travelled of the payload file that Op unpacks
	KindProgress Kind = "progress" // an operation (Op) reached State
	KindDone     Kind = "done"     // the step is done; Changed says whether it changed anything
	KindFailed   Kind = "failed"   // the step failed with Error
	KindSkipped  Kind = "skipped"  // the step is not done, because of Error
	KindStopping Kind = "stopping" // the run was cancelled; what is under way comes to a safe end
	KindSummary  Kind = "summary"  // the run is over
)

// Event is one thing that happened in a run. Those about a step carry its
// Host, Step, Phase and Title.
type Event struct {
	Time    time.Time     `json:"time"`
	Kind    Kind          `json:"kind"`
	Host    string        `json:"host,omitempty"`
	Step    string        `json:"step,omitempty"`
	Phase   string        `json:"phase,omitempty"`
	Title   string        `json:"title,omitempty"`
	Op      string        `json:"op,omitempty"` // what the operation makes true
	State   hostop.State  `json:"state,omitempty"`
	Detail  string        `json:"detail,omitempty"`
	Error   string        `json:"error,omitempty"`
	Changed bool          `json:"changed,omitempty"`
	Bytes   int64         `json:"bytes,omitempty"`
	Size    int64         `json:"size,omitempty"`
	Elapsed time.Duration `json:"elapsed,omitempty"` // nanoseconds; of the step, or of the run
	Done    int           `json:"done,omitempty"`    // steps over so far
	Total   int           `json:"total,omitempty"`
	Summary *Summary      `json:"summary,omitempty"`
}

// Sink takes events. Run calls it from one goroutine at a time, in order, and
// waits for it.
type Sink func(Event)

// Summary is how a run ended.
type Summary struct {
	Changed   int           `json:"changed"` // steps that changed something
	InPlace   int           `json:"inPlace"` // steps that found everything in place
	Failed    []StepError   `json:"failed,omitempty"`
	Skipped   []StepError   `json:"skipped,omitempty"`
	Cancelled bool          `json:"cancelled,omitempty"`
	Elapsed   time.Duration `json:"elapsed"` // nanoseconds
	Phases    []PhaseTime   `json:"phases,omitempty"`
}

// StepError is a step that failed or was skipped, and why.
type StepError struct {
	Step  string `json:"step"`
	Host  string `json:"host"`
	Title string `json:"title"`
	Error string `json:"error"`
}

// PhaseTime is when a phase's first step began and its last ended, counted from
// the run's start, in nanoseconds. Phases overlap.
type PhaseTime struct {
	Phase string        `json:"phase"`
	Begin time.Duration `json:"begin"`
	End   time.Duration `json:"end"`
	Work  time.Duration `json:"work"` // its steps' times added up
}
