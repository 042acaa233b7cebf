// Package deployment rolls the pods of a Deployment over from the ReplicaSets
// of its former templates to that of its present one:
//
//	deployment.go  watches, and the order of decisions
//	revision.go    which ReplicaSet is the new one; its creation; revisions
//	sizes.go       the arithmetic of rolling and of proportional scaling (pure)
//	rollout.go     applies sizes, recreates, cleans up the history
//	status.go      counts, conditions, the progress deadline
//
// It differs from upstream in one thing: a replica set grows only when there is
// room beside the pods that others are still to remove. So maxSurge holds at any
// instant, and not only for the sizes asked for.
//
// It never touches pods: sizes of replica sets are all it writes.
package deployment
