// Package nodelifecycle watches over the nodes' heartbeats:
//
//	health.go  judges a node by its lease and its reported status (pure)
//	taints.go  turns conditions into taints (pure)
//	pace.go    how fast unreachable nodes may be emptied (pure)
//	nodelifecycle.go  looks at every node every few seconds and writes
//
// A node that is silent for the grace period gets Unknown conditions, taints
// that keep new pods away at once, and pods that count as not ready; then, at
// a bounded pace, the NoExecute taint by which tainteviction empties it.
package nodelifecycle
