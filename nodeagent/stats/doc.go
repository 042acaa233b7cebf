// Package stats measures: what the host has (Host), what its pods use
// (Summary), and the same as Prometheus metrics.
package stats
