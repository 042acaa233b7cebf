// Package scheduler places pods on nodes.
//
// One loop takes pods from the queue (package queue), asks the profile's
// plugins (package plugins, behind the extension points of package framework)
// which nodes of the picture (package picture) are feasible and which of those
// is best, assumes the pod there, and binds it off the critical path. The
// picture is kept up to date by informer events and never cloned: a cycle
// holds its lock, and a cycle is short.
//
// Deciding is in cycle.go. What node-local plugins said of a node is remembered
// for identical pods (kind.go) until that node changes; only plugins that look
// at the whole cluster are asked anew. Status, events and preemption
// (refuse.go) are off the critical path, as bindings are.
//
// What a pod waits for is decided in queue; what fits is decided in plugins;
// here is only the flow between them and the API server.
package scheduler
