package stats

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/runtime"
)

// Running counts pods and containers when it is asked to. Safe for concurrent use.
type Running struct {
	Runtime *runtime.Runtime
	Logger  *slog.Logger
}

var (
	runningPods       = prometheus.NewDesc("kubelet_running_pods", "Number of pods that have a running pod sandbox", nil, nil)
	runningContainers = prometheus.NewDesc("kubelet_running_containers", "Number of containers currently running", []string{"container_state"}, nil)
)

// states are containers' as the metric spells them.
var states = map[criv1.ContainerState]string{
	criv1.ContainerState_CONTAINER_CREATED: "created", criv1.ContainerState_CONTAINER_RUNNING: "running",
	criv1.ContainerState_CONTAINER_EXITED: "exited", criv1.ContainerState_CONTAINER_UNKNOWN: "unknown",
}

// Describe says what Collect gives.
func (r *Running) Describe(out chan<- *prometheus.Desc) {
	out <- runningPods
	out <- runningContainers
}

// Collect asks the runtime.
func (r *Running) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	sandboxes, err := r.Runtime.ListPodSandbox(ctx, &criv1.PodSandboxFilter{
		State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY}})
	if err != nil {
		r.Logger.Warn("cannot count pods", "error", err)
		return
	}
	containers, err := r.Runtime.ListContainers(ctx, nil)
	if err != nil {
		r.Logger.Warn("cannot count containers", "error", err)
		return
	}
	out <- prometheus.MustNewConstMetric(runningPods, gauge, float64(len(sandboxes)))
	counts := map[string]int{}
	for _, c := range containers {
		counts[states[c.State]]++
	}
	for state, n := range counts {
		out <- prometheus.MustNewConstMetric(runningContainers, gauge, float64(n), state)
	}
}
