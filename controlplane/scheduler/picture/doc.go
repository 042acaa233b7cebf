// Package picture is the scheduler's compact, incremental view of the cluster:
// nodes with what they offer, what their pods ask for, and counts that plugins
// need often (matching pods by domain, affinity terms by domain). It is
// changed in place by events; nothing is cloned for a cycle.
//
// It holds facts only. What they mean for a pod is decided in plugins.
package picture
