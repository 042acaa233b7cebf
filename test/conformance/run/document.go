package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Between these two lines the document is written anew.
const (
	tableStart = "<!-- results: written by make conformance -->"
	tableEnd   = "<!-- end of results -->"
)

// exception names why tests do not pass.
type exception struct {
	Tests string `json:"tests"` // regular expression on full names
	Cause string `json:"cause"`
}

func readExceptions(path string) ([]exception, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	var list []exception
	if err := yaml.UnmarshalStrict(content, &list); err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	for _, e := range list {
		if _, err := regexp.Compile(e.Tests); err != nil || e.Cause == "" {
			return nil, fmt.Errorf("exception %q: a regular expression and a cause are needed: %w", e.Tests, errors.Join(err))
		}
	}
	return list, nil
}

// document writes the results of all runs into path, between the markers.
func (r *results) document(path, exceptionsPath string) error {
	exceptions, err := readExceptions(exceptionsPath)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read document: %w", err)
	}
	before, rest, ok := bytes.Cut(content, []byte(tableStart))
	_, after, okEnd := bytes.Cut(rest, []byte(tableEnd))
	if !ok || !okEnd {
		return fmt.Errorf("%s does not hold the lines %q and %q", path, tableStart, tableEnd)
	}
	var out bytes.Buffer
	out.Write(before)
	out.WriteString(tableStart + "\n")
	out.WriteString(r.markdown(exceptions))
	out.WriteString(tableEnd)
	out.Write(after)
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	return nil
}

// past is a run that results which stand come from.
type past struct {
	day, commit, command string
	tests                int
}

// runs are those that the results come from, oldest first.
func (r *results) runs() []past {
	counts := map[past]int{}
	for _, t := range r.Tests {
		counts[past{day: t.Ended.Format(time.DateOnly), commit: t.Commit, command: t.Command}]++
	}
	var list []past
	for run, n := range counts {
		run.tests = n
		list = append(list, run)
	}
	slices.SortFunc(list, func(a, b past) int {
		return cmp.Or(cmp.Compare(a.day, b.day), cmp.Compare(b.tests, a.tests), cmp.Compare(a.commit+a.command, b.commit+b.command))
	})
	return list
}

// abridged is a command that a table has room for: a focus may name many tests.
func abridged(command string) string {
	const begin, end = 280, 20
	if r := []rune(command); len(r) > begin+end {
		return string(r[:begin]) + "…" + string(r[len(r)-end:])
	}
	return command
}

func (r *results) markdown(exceptions []exception) string {
	var b strings.Builder
	rows, all := tallies(r.Tests)
	of := map[string]int{}
	for sig, n := range r.Suite {
		of[sig] = n
		of[all.sig] += n
	}
	b.WriteString("\n| sig | passed | failed | skipped | of |\n| --- | ---: | ---: | ---: | ---: |\n")
	for _, t := range append(rows, all) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", t.sig, t.passed, t.failed, t.skipped, of[t.sig])
	}
	b.WriteString("\nEach test counts as it last ran:\n\n| date | commit | command | tests |\n| --- | --- | --- | ---: |\n")
	for _, run := range r.runs() {
		fmt.Fprintf(&b, "| %s | %s | `%s` | %d |\n", run.day, run.commit, strings.ReplaceAll(abridged(run.command), "|", `\|`), run.tests)
	}
	if all.failed == 0 {
		b.WriteString("\n")
		return b.String()
	}
	b.WriteString("\n### Exceptions\n")
	left := map[string]bool{}
	for name, t := range r.Tests {
		if t.State == failed {
			left[name] = true
		}
	}
	section := func(cause string, match func(string) bool) {
		var names []string
		for name := range left {
			if match(name) {
				names = append(names, name)
				delete(left, name)
			}
		}
		if len(names) == 0 {
			return
		}
		slices.Sort(names)
		fmt.Fprintf(&b, "\n**%s** (%d)\n\n", cause, len(names))
		for _, name := range names {
			fmt.Fprintf(&b, "- %s\n", strings.TrimSuffix(name, " [Conformance]"))
		}
	}
	for _, e := range exceptions {
		section(e.Cause, regexp.MustCompile(e.Tests).MatchString)
	}
	section("Not looked into yet", func(string) bool { return true })
	b.WriteString("\n")
	return b.String()
}
