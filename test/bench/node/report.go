package main

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// rows are what is compared.
func rows(only bool, r result) []row {
	ms := func(d time.Duration) float64 { return d.Seconds() * 1e3 }
	exits := []row{
		{"exit to status, median", "%.0f ms", ms(percentile(r.exits, 50))},
		{"exit to status, 90th percentile", "%.0f ms", ms(percentile(r.exits, 90))},
		{"of that after the runtime's event, median", "%.0f ms", ms(percentile(r.told, 50))},
		{fmt.Sprintf("CPU of the agent for %d exits", len(r.exits)), "%.2f s", r.exitCPU.Seconds()},
	}
	if only {
		return exits
	}
	out := append([]row{
		{fmt.Sprintf("%d pods at once, running per second", r.pods), "%.1f", float64(r.pods) / r.whole.Seconds()},
		{"create to running, median", "%.2f s", percentile(r.running, 50).Seconds()},
		{"create to running, 90th percentile", "%.2f s", percentile(r.running, 90).Seconds()},
		{"create to running, 99th percentile", "%.2f s", percentile(r.running, 99).Seconds()},
		{"CPU of the agent for them", "%.2f s", r.burstCPU.Seconds()},
		{"CPU of the whole host for them", "%.2f s", r.hostCPU.Seconds()},
	}, exits...)
	out = append(out,
		row{fmt.Sprintf("%d pods deleted to gone", r.fullPods), "%.1f s", r.gone.Seconds()},
		row{"CPU of the agent for that", "%.2f s", r.goneCPU.Seconds()},
		row{"CPU of the whole host for that", "%.2f s", r.goneHost.Seconds()})
	for _, one := range []struct {
		pods int
		idle
	}{{0, r.empty}, {r.fullPods, r.full}} {
		out = append(out,
			row{fmt.Sprintf("RSS, %d pods", one.pods), "%.0f MB", float64(one.Resident) / 1e6},
			row{fmt.Sprintf("of that anonymous, %d pods", one.pods), "%.0f MB", float64(one.Anonymous) / 1e6},
			row{fmt.Sprintf("idle CPU of one core, %d pods", one.pods), "%.2f %%", one.cpu * 100})
	}
	return append(out, row{"RSS, peak", "%.0f MB", float64(r.full.Peak) / 1e6})
}

type row struct {
	name, format string
	value        float64
}

// percentile of what is sorted.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}

// report prints medians over the rounds, and ratios where there is stock.
func report(w io.Writer, only bool, own, other []result) error {
	mine, theirs := medians(only, own), medians(only, other)
	if _, err := fmt.Fprintf(w, "| | ours | stock | ratio |\n| --- | ---: | ---: | ---: |\n"); err != nil {
		return err
	}
	for i, r := range mine {
		beside, ratio := "", ""
		if len(theirs) > 0 {
			beside = fmt.Sprintf(r.format, theirs[i].value)
			if theirs[i].value > 0 {
				ratio = fmt.Sprintf("%.2f", r.value/theirs[i].value)
			}
		}
		if _, err := fmt.Fprintf(w, "| %s | "+r.format+" | %s | %s |\n", r.name, r.value, beside, ratio); err != nil {
			return err
		}
	}
	return nil
}

func medians(only bool, results []result) []row {
	if len(results) == 0 {
		return nil
	}
	all := rows(only, results[0])
	for i := range all {
		var values []float64
		for _, r := range results {
			values = append(values, rows(only, r)[i].value)
		}
		slices.Sort(values)
		all[i].value = (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	}
	return all
}
