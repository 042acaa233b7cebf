package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// report prints a Markdown table of medians for each question.
func report(w io.Writer, results []result) error {
	var names []string // of contestants
	var rows []result  // the first of each workload and size
	for _, r := range results {
		if !slices.Contains(names, r.contestant) {
			names = append(names, r.contestant)
		}
		if !slices.ContainsFunc(rows, func(o result) bool { return o.workload == r.workload && o.nodes == r.nodes }) {
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return order(a) - order(b) })
	perPod := func(r result, seconds float64) float64 { return seconds * 1e3 / float64(r.pods) }
	for _, table := range []struct {
		title, format string
		more          bool // more is better: the ratio is to stock, else of stock
		alone         bool // says nothing of the one in the API server's process
		of            func(result) float64
	}{
		{"pods bound per second, of pods that wait", "%.0f", true, true, func(r result) float64 { return r.drain }},
		{"pods made and bound per second", "%.0f", true, false, func(r result) float64 { return r.stream }},
		{"CPU ms of the scheduler for each pod", "%.2f", false, true, func(r result) float64 { return perPod(r, r.scheduler.Seconds()) }},
		{"CPU ms of all servers for each pod", "%.2f", false, false, func(r result) float64 {
			return perPod(r, (r.scheduler + r.servers + r.etcd).Seconds())
		}},
		{"of that etcd", "%.2f", false, false, func(r result) float64 { return perPod(r, r.etcd.Seconds()) }},
		{"ms from the request to the decision, median", "%.0f", false, false, func(r result) float64 { return r.p50.Seconds() * 1e3 }},
		{"the same, 99th percentile", "%.0f", false, false, func(r result) float64 { return r.p99.Seconds() * 1e3 }},
		{"RSS of the scheduler, MB", "%.0f", false, true, func(r result) float64 { return float64(r.memory.Resident) / 1e6 }},
		{"RSS of the scheduler at most, MB", "%.0f", false, true, func(r result) float64 { return float64(r.memory.Peak) / 1e6 }},
	} {
		cells, rule := []string{table.title}, []string{"---"}
		for _, name := range names {
			if table.alone && name == "in process" {
				continue
			}
			cells, rule = append(cells, name), append(rule, "---:")
			if name != "stock" {
				cells, rule = append(cells, "times as good"), append(rule, "---:")
			}
		}
		lines := []string{strings.Join(cells, " | "), strings.Join(rule, " | ")}
		for _, row := range rows {
			cells := []string{fmt.Sprintf("%s, %d nodes", row.workload, row.nodes)}
			var stock float64
			for _, name := range names {
				if table.alone && name == "in process" {
					continue
				}
				value := median(results, row, name, table.of)
				cells = append(cells, fmt.Sprintf(table.format, value))
				switch {
				case name == "stock":
					stock = value
				case stock == 0 || value == 0:
					cells = append(cells, "")
				case table.more:
					cells = append(cells, fmt.Sprintf("%.1f", value/stock))
				default:
					cells = append(cells, fmt.Sprintf("%.1f", stock/value))
				}
			}
			lines = append(lines, strings.Join(cells, " | "))
		}
		for _, line := range lines {
			if _, err := fmt.Fprintf(w, "| %s |\n", line); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

// order has stock come first.
func order(name string) int { return slices.Index([]string{"stock", "ours", "in process"}, name) }

// median is that of one contestant's turns on a row's workload.
func median(results []result, row result, contestant string, of func(result) float64) float64 {
	var values []float64
	for _, r := range results {
		if r.contestant == contestant && r.workload == row.workload && r.nodes == row.nodes {
			values = append(values, of(r))
		}
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
