// Package metrics is what the scheduler tells of itself, under the names that
// dashboards for Kubernetes' scheduler know. Points where ours asks plugins
// together count as one: Filter includes PreFilter, Score includes PreScore and
// normalization. Nothing here decides anything.
package metrics
