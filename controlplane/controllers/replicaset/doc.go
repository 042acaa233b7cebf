// Package replicaset keeps the wanted number of pods alive for each ReplicaSet:
// it adopts orphans that match, creates what is missing in growing batches,
// deletes what is too much in the order of rank.go, and reports status. It
// knows nothing of deployments beyond spreading deletions over the pods of
// replica sets with the same controller.
//
// It runs ReplicationControllers too, which are replica sets with another name:
// source.go is all that differs.
package replicaset
