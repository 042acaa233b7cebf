// Package daemonset keeps one pod of each DaemonSet on every node that it fits.
// Which nodes those are stands in place.go, what is to be done next is a pure
// decision (decide.go), the rest carries it out and reports status. Pods are
// bound by the scheduler, which the controller tells the node by affinity.
// Former templates are kept by package history.
package daemonset
