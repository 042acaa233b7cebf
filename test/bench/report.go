package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// median of what f says of each.
func median[T any](all []T, f func(T) float64) float64 {
	var values []float64
	for _, one := range all {
		values = append(values, f(one))
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

// report prints medians, and ratios where there is stock.
func report(w io.Writer, ours, stock []result) error {
	p := &printer{w: w, both: len(stock) > 0}
	p.row("", "ours", "stock", "ratio")
	p.row("---", "---:", "---:", "---:")
	whole := []struct {
		name string
		unit string
		of   func(result) float64
	}{
		{"start to ready", "%.2f s", func(r result) float64 { return r.ready.Seconds() }},
		{"CPU, start to ready", "%.2f s", func(r result) float64 { return r.readyCPU.Seconds() }},
		{"RSS, idle", "%.0f MB", func(r result) float64 { return float64(r.idle) / 1e6 }},
		{"of that anonymous", "%.0f MB", func(r result) float64 { return float64(r.anonymous) / 1e6 }},
		{"RSS, peak of all steps", "%.0f MB", func(r result) float64 { return float64(r.peak) / 1e6 }},
		{"CPU, sum of all steps", "%.1f s", func(r result) float64 {
			var sum float64
			for i := range r.steps {
				sum += r.middle(i, func(s stepResult) float64 { return s.cpu.Seconds() })
			}
			return sum
		}},
	}
	for _, line := range whole {
		p.compare(line.name, line.unit, ours, stock, line.of)
	}
	fmt.Fprintln(w)
	p.row("", "CPU ms each, ours", "stock", "ratio", "clock each, ours", "stock", "ratio", "KB each, ours", "stock", "ratio")
	p.row("---", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:", "---:")
	for i, turns := range ours[0].steps {
		step := turns[0]
		each := func(f func(stepResult) time.Duration) func(result) float64 {
			return func(r result) float64 {
				return r.middle(i, func(s stepResult) float64 { return f(s).Seconds() * 1e3 / float64(step.n) })
			}
		}
		cells := append([]string{step.name},
			p.cells("%.3f", ours, stock, each(func(s stepResult) time.Duration { return s.cpu }))...)
		cells = append(cells, p.cells("%.3f ms", ours, stock, each(func(s stepResult) time.Duration { return s.clock }))...)
		p.row(append(cells, p.cells("%.1f", ours, stock, func(r result) float64 {
			return r.middle(i, func(s stepResult) float64 { return s.allocated / 1e3 / float64(step.n) })
		})...)...)
	}
	return p.err
}

type printer struct {
	w    io.Writer
	both bool
	err  error
}

func (p *printer) row(cells ...string) {
	line := "|"
	for _, cell := range cells {
		line += " " + cell + " |"
	}
	if _, err := fmt.Fprintln(p.w, line); err != nil && p.err == nil {
		p.err = err
	}
}

func (p *printer) cells(format string, ours, stock []result, of func(result) float64) []string {
	own := median(ours, of)
	if !p.both {
		return []string{fmt.Sprintf(format, own), "", ""}
	}
	other := median(stock, of)
	return []string{fmt.Sprintf(format, own), fmt.Sprintf(format, other), fmt.Sprintf("%.2f", own/other)}
}

func (p *printer) compare(name, format string, ours, stock []result, of func(result) float64) {
	p.row(append([]string{name}, p.cells(format, ours, stock, of)...)...)
}
