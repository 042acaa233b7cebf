// Package metricsapi serves metrics.k8s.io: what nodes and pods use now, as
// `kubectl top` and HorizontalPodAutoscalers ask for it.
//
// Each API server measures for itself, and only when it is asked: collector.go
// reads the counters of all node agents and turns two readings into rates.
// Nothing is stored, and nothing runs while nobody asks.
package metricsapi
