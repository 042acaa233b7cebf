package stats

import (
	"fmt"
	"io"
	"slices"
	"strings"

	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// WriteMetrics renders a summary in the text format of Prometheus, under the
// names that the resource metrics of a node have. Nil says that there is none.
func WriteMetrics(w io.Writer, s *stats.Summary) error {
	var b strings.Builder
	metric := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	cpu := func(name, labels string, c *stats.CPUStats) {
		if c != nil && c.UsageCoreNanoSeconds != nil {
			fmt.Fprintf(&b, "%s%s %g %d\n", name, labels, float64(*c.UsageCoreNanoSeconds)/1e9, c.Time.UnixMilli())
		}
	}
	memory := func(name, labels string, m *stats.MemoryStats) {
		if m != nil && m.WorkingSetBytes != nil {
			fmt.Fprintf(&b, "%s%s %d %d\n", name, labels, *m.WorkingSetBytes, m.Time.UnixMilli())
		}
	}
	swap := func(name, labels string, u *stats.SwapStats) {
		if u != nil && u.SwapUsageBytes != nil {
			fmt.Fprintf(&b, "%s%s %d %d\n", name, labels, *u.SwapUsageBytes, u.Time.UnixMilli())
		}
	}
	failed := 0
	if s == nil {
		s, failed = &stats.Summary{}, 1
	}
	pods := slices.Clone(s.Pods)
	slices.SortFunc(pods, func(a, b stats.PodStats) int {
		return strings.Compare(a.PodRef.Namespace+"/"+a.PodRef.Name, b.PodRef.Namespace+"/"+b.PodRef.Name)
	})
	each := func(do func(labels string, p *stats.PodStats)) {
		for i := range pods {
			do(fmt.Sprintf("{namespace=%q,pod=%q}", pods[i].PodRef.Namespace, pods[i].PodRef.Name), &pods[i])
		}
	}
	eachContainer := func(do func(labels string, c *stats.ContainerStats)) {
		for i := range pods {
			for j := range pods[i].Containers {
				c := &pods[i].Containers[j]
				do(fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.Name, pods[i].PodRef.Namespace, pods[i].PodRef.Name), c)
			}
		}
	}
	metric("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the container in core-seconds")
	eachContainer(func(l string, c *stats.ContainerStats) { cpu("container_cpu_usage_seconds_total", l, c.CPU) })
	metric("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes")
	eachContainer(func(l string, c *stats.ContainerStats) { memory("container_memory_working_set_bytes", l, c.Memory) })
	metric("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds")
	eachContainer(func(l string, c *stats.ContainerStats) {
		if c.StartTime.Unix() > 0 {
			fmt.Fprintf(&b, "container_start_time_seconds%s %.3f\n", l, float64(c.StartTime.UnixMilli())/1e3)
		}
	})
	metric("container_swap_limit_bytes", "gauge", "Current amount of the container swap limit in bytes. Reported only on non-windows systems")
	eachContainer(func(l string, c *stats.ContainerStats) {
		if c.Swap != nil && c.Swap.SwapAvailableBytes != nil {
			limit := *c.Swap.SwapAvailableBytes + *c.Swap.SwapUsageBytes
			swap("container_swap_limit_bytes", l, &stats.SwapStats{Time: c.Swap.Time, SwapUsageBytes: &limit})
		}
	})
	metric("container_swap_usage_bytes", "gauge", "Current amount of the container swap usage in bytes. Reported only on non-windows systems")
	eachContainer(func(l string, c *stats.ContainerStats) { swap("container_swap_usage_bytes", l, c.Swap) })
	metric("node_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the node in core-seconds")
	cpu("node_cpu_usage_seconds_total", "", s.Node.CPU)
	metric("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
	memory("node_memory_working_set_bytes", "", s.Node.Memory)
	metric("node_swap_usage_bytes", "gauge", "Current swap usage of the node in bytes. Reported only on non-windows systems")
	swap("node_swap_usage_bytes", "", s.Node.Swap)
	metric("pod_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed by the pod in core-seconds")
	each(func(l string, p *stats.PodStats) { cpu("pod_cpu_usage_seconds_total", l, p.CPU) })
	metric("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	each(func(l string, p *stats.PodStats) { memory("pod_memory_working_set_bytes", l, p.Memory) })
	metric("pod_swap_usage_bytes", "gauge", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems")
	each(func(l string, p *stats.PodStats) { swap("pod_swap_usage_bytes", l, p.Swap) })
	for _, name := range []string{"resource_scrape_error", "scrape_error"} {
		metric(name, "gauge", "1 if there was an error while getting container metrics, 0 otherwise")
		fmt.Fprintf(&b, "%s %d\n", name, failed)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
