package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
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

func (r *results) markdown(exceptions []exception) string {
	var b strings.Builder
	var newest time.Time
	commits := map[string]bool{}
	for _, t := range r.Tests {
		commits[t.Commit] = true
		if t.Ended.After(newest) {
			newest = t.Ended
		}
	}
	rows, all := tallies(r.Tests)
	fmt.Fprintf(&b, "\nLast run %s, at commit %s.\n\n", newest.Format(time.DateOnly), strings.Join(slices.Sorted(maps.Keys(commits)), ", "))
	b.WriteString("| sig | passed | failed | skipped |\n| --- | ---: | ---: | ---: |\n")
	for _, t := range append(rows, all) {
		fmt.Fprintf(&b, "| %s | %d | %d | %d |\n", t.sig, t.passed, t.failed, t.skipped)
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
