// Package server answers on the node agent's port (10250): container logs,
// exec, attach and port-forward (handed on to the container runtime's
// streaming server), checkpoints of containers, the list of pods, health, statistics,
// metrics and the agent's settings.
//
// auth.go decides who may: client certificates of the cluster CA and bearer
// tokens say who asks, the API server's SubjectAccessReview says whether.
package server
