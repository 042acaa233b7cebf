package main

import (
	"fmt"
	"io"
	"time"
)

func header(out io.Writer) {
	fmt.Fprintln(out, "| services | proxy | cold | CPU, cold | one change p50 | p95 | CPU, one change | first packet p50 | p95 | RSS |")
	fmt.Fprintln(out, "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
}

func row(out io.Writer, services int, name string, r result) {
	fmt.Fprintf(out, "| %d | %s | %s | %s | %s | %s | %s | %s | %s | %d MiB |\n", services, name,
		round(r.cold), round(r.coldCPU), round(percentile(r.changes, 50)), round(percentile(r.changes, 95)), round(r.changeIn),
		round(percentile(r.first, 50)), round(percentile(r.first, 95)), r.memory.Resident>>20)
}

// round keeps three digits.
func round(d time.Duration) time.Duration {
	unit := time.Nanosecond
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
