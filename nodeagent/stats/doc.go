// Package stats measures: what the host has (Host), what it and its pods use
// (Source, from control groups; Disks, from files and the runtime), and the same
// as Prometheus metrics. What is on disks is kept for some seconds; all else is
// read when it is asked for.
package stats
