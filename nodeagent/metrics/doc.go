// Package metrics counts what the node agent does, under the names that
// dashboards know the kubelet's by. What the host and its containers use is
// measured in nodeagent/stats, and the results of probes are counted where they
// are made, in nodeagent/probes.
package metrics
