// Package report tells the events of a run: in plain lines for people whose
// output is no terminal, as JSON for programs, or to several sinks at once.
package report
