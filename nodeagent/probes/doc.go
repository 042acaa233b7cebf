// Package probes asks containers how they are: HTTP, TCP, exec and gRPC
// probes, each on its own clock, their results counted against thresholds.
//
// Results are read through Manager.Result; what follows from them is decided
// in nodeagent/pods.
package probes
