package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/onsi/ginkgo/v2/types"
)

// What came of a test.
const (
	passed  = "passed"
	failed  = "failed"
	skipped = "skipped"
)

// result is what came of one test when it last ran.
type result struct {
	State   string    `json:"state"`
	Message string    `json:"message,omitempty"` // a failure's first words
	Seconds float64   `json:"seconds"`
	Ended   time.Time `json:"ended"`
	Commit  string    `json:"commit"`
	Command string    `json:"command"`
}

// results are those of every test by its full name, kept across runs.
type results struct {
	Tests map[string]result `json:"tests"`
	// Suite counts the conformance tests of each sig, run or not.
	Suite map[string]int `json:"suite,omitempty"`
	path  string
}

// keep takes in what a part of a run came to.
func (r *results) keep(commit, command string, tests map[string]result, suite map[string]int) {
	for name, t := range tests {
		t.Commit, t.Command = commit, command
		r.Tests[name] = t
	}
	r.Suite = suite
}

func openResults(path string) (*results, error) {
	r := &results{Tests: map[string]result{}, path: path}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read earlier results: %w", err)
	}
	if err := json.Unmarshal(content, r); err != nil {
		return nil, fmt.Errorf("read earlier results in %s: %w", path, err)
	}
	return r, nil
}

func (r *results) save() error {
	content, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("marshal results: %w", err)
	}
	if err := os.WriteFile(r.path+".new", content, 0o644); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	if err := os.Rename(r.path+".new", r.path); err != nil {
		return fmt.Errorf("keep results: %w", err)
	}
	return nil
}

// readReport returns what came of the tests that ginkgo's report names and
// that did run: what was filtered out, or not reached in time, is left out.
// suite counts the conformance tests of each sig, whether they ran or not.
func readReport(path string) (found map[string]result, suite map[string]int, err error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read report: %w", err)
	}
	var reports []types.Report
	if err := json.Unmarshal(content, &reports); err != nil {
		return nil, nil, fmt.Errorf("read report %s: %w", filepath.Base(path), err)
	}
	found, suite = make(map[string]result), make(map[string]int)
	for _, report := range reports {
		for _, spec := range report.SpecReports {
			if spec.LeafNodeType != types.NodeTypeIt {
				continue
			}
			if slices.Contains(spec.LeafNodeLabels, conformance) {
				suite[sigOf(spec.FullText())]++
			}
			if spec.NumAttempts > 0 && !cutShort(spec) {
				found[spec.FullText()] = resultOf(spec)
			}
		}
	}
	return found, suite, nil
}

// cutShort tells of tests that ran when the whole suite's time was over.
func cutShort(spec types.SpecReport) bool {
	return spec.State.Is(types.SpecStateInterrupted) ||
		spec.State.Is(types.SpecStateTimedout) && strings.HasPrefix(spec.Failure.Message, "A suite timeout occurred")
}

func resultOf(spec types.SpecReport) result {
	r := result{Seconds: spec.RunTime.Seconds(), Ended: spec.EndTime.UTC()}
	switch {
	case spec.State.Is(types.SpecStatePassed):
		r.State = passed
	case spec.State.Is(types.SpecStateSkipped | types.SpecStatePending):
		r.State, r.Message = skipped, oneLine(spec.Failure.Message)
	default:
		r.State, r.Message = failed, oneLine(spec.Failure.Message)
	}
	return r
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 400 {
		s = string(r[:400]) + "…"
	}
	return s
}

var sigPattern = regexp.MustCompile(`\[(sig-[a-z-]+)\]`)

// sigOf is the group that owns a test.
func sigOf(name string) string {
	if m := sigPattern.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return "other"
}

// tally is a row of the table.
type tally struct {
	sig                     string
	passed, failed, skipped int
}

// tallies counts tests by sig, in order, and in all.
func tallies(tests map[string]result) (rows []tally, all tally) {
	bySig := map[string]*tally{}
	all.sig = "all"
	for name, r := range tests {
		t := bySig[sigOf(name)]
		if t == nil {
			t = &tally{sig: sigOf(name)}
			bySig[t.sig] = t
		}
		for _, t := range []*tally{t, &all} {
			switch r.State {
			case passed:
				t.passed++
			case failed:
				t.failed++
			default:
				t.skipped++
			}
		}
	}
	for _, t := range bySig {
		rows = append(rows, *t)
	}
	slices.SortFunc(rows, func(a, b tally) int { return cmp.Compare(a.sig, b.sig) })
	return rows, all
}

// print writes the failures and the table, and returns how many failed.
func print(w io.Writer, tests map[string]result) int {
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if r := tests[name]; r.State == failed {
			fmt.Fprintf(w, "FAILED %s\n       %s\n", name, r.Message)
		}
	}
	rows, all := tallies(tests)
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "\tpassed\tfailed\tskipped\t")
	for _, t := range append(rows, all) {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t\n", t.sig, t.passed, t.failed, t.skipped)
	}
	table.Flush()
	return all.failed
}
