// Package deployment rolls the pods of a Deployment over from the ReplicaSets
// of its former templates to that of its present one:
//
//	deployment.go  watches, and the order of decisions
//	revision.go    which ReplicaSet is the new one; its creation; revisions
//	sizes.go       the arithmetic of rolling and of proportional scaling (pure)
//	rollout.go     applies sizes, recreates, cleans up the history
//	status.go      counts, conditions, the progress deadline
//
// It never touches pods: sizes of replica sets are all it writes.
package deployment
