package main

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/metrics"
	"clusterctl/nodeagent/pods"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/stats"
)

// shownMetrics are what the server shows, by path.
func shownMetrics(counters *metrics.Agent, agent *pods.Agent, claimed *stats.Volumes, cri *runtime.Runtime, logger *slog.Logger) map[string]prometheus.Gatherer {
	counters.Registry.MustRegister(claimed, &stats.VolumeCount{Count: agent.Volumes.Count}, &stats.Running{Runtime: cri, Logger: logger})
	containers, probes := prometheus.NewRegistry(), prometheus.NewRegistry()
	containers.MustRegister(&stats.Containers{
		Runtime: cri, Cgroups: cgroupRoot, Disks: []string{"/", hostconfig.VarDir, hostconfig.CtrRoot}, Logger: logger})
	probes.MustRegister(agent.ProbeMetrics())
	return map[string]prometheus.Gatherer{
		"/metrics": counters.Registry, "/metrics/cadvisor": containers, "/metrics/probes": probes,
	}
}
