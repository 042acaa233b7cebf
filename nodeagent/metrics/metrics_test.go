package metrics

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestCounters(t *testing.T) {
	a := New("w1")
	a.Operation("run_podsandbox", time.Second, nil)
	a.Operation("run_podsandbox", time.Second, errors.New("no address"))
	a.ContainerStarted(Container, "")
	a.ContainerStarted(InitContainer, "RunContainerError")
	a.ContainerEnded(Container, 139, "Error")
	a.PodSandbox(true, nil)
	a.PodSandbox(false, errors.New("no address"))
	a.Evicted("memory.available")
	a.ImageRemoved("age")
	at := time.Unix(1000, 0)
	a.Relisted(at, time.Millisecond)
	a.Relisted(at.Add(30*time.Second), time.Millisecond)
	want := `
# HELP kubelet_evictions Cumulative number of pod evictions by eviction signal
# TYPE kubelet_evictions counter
kubelet_evictions{eviction_signal="memory.available"} 1
# HELP kubelet_image_garbage_collected_total Total number of images garbage collected by the kubelet, whether through disk usage or image age.
# TYPE kubelet_image_garbage_collected_total counter
kubelet_image_garbage_collected_total{reason="age"} 1
# HELP kubelet_node_name The node's name. The count is always 1.
# TYPE kubelet_node_name gauge
kubelet_node_name{node="w1"} 1
# HELP kubelet_pleg_last_seen_seconds Timestamp in seconds when PLEG was last seen active.
# TYPE kubelet_pleg_last_seen_seconds gauge
kubelet_pleg_last_seen_seconds 1030
# HELP kubelet_runtime_operations_errors_total Cumulative number of runtime operation errors by operation type.
# TYPE kubelet_runtime_operations_errors_total counter
kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1
# HELP kubelet_runtime_operations_total Cumulative number of runtime operations by operation type.
# TYPE kubelet_runtime_operations_total counter
kubelet_runtime_operations_total{operation_type="run_podsandbox"} 2
# HELP kubelet_started_containers_errors_total Cumulative number of errors when starting containers
# TYPE kubelet_started_containers_errors_total counter
kubelet_started_containers_errors_total{code="RunContainerError",container_type="init_container"} 1
# HELP kubelet_started_containers_total Cumulative number of containers started
# TYPE kubelet_started_containers_total counter
kubelet_started_containers_total{container_type="container"} 1
kubelet_started_containers_total{container_type="init_container"} 1
# HELP kubelet_started_pods_total Cumulative number of pods started
# TYPE kubelet_started_pods_total counter
kubelet_started_pods_total 2
# HELP kubelet_started_user_namespaced_pods_errors_total Cumulative number of errors when starting pods with user namespaces.
# TYPE kubelet_started_user_namespaced_pods_errors_total counter
kubelet_started_user_namespaced_pods_errors_total 0
# HELP kubelet_started_user_namespaced_pods_total Cumulative number of pods with user namespaces started.
# TYPE kubelet_started_user_namespaced_pods_total counter
kubelet_started_user_namespaced_pods_total 1
# HELP kubelet_terminated_containers_total Cumulative number of container terminations.
# TYPE kubelet_terminated_containers_total counter
kubelet_terminated_containers_total{container_type="container",exit_code="139",reason="Error"} 1
`
	if err := testutil.GatherAndCompare(a.Registry, strings.NewReader(want), "kubelet_evictions", "kubelet_image_garbage_collected_total", "kubelet_node_name", "kubelet_pleg_last_seen_seconds",
		"kubelet_runtime_operations_total", "kubelet_runtime_operations_errors_total", "kubelet_started_containers_total",
		"kubelet_started_containers_errors_total", "kubelet_started_pods_total", "kubelet_started_user_namespaced_pods_total", "kubelet_started_user_namespaced_pods_errors_total", "kubelet_terminated_containers_total"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(a.interval); n != 1 {
		t.Errorf("%d intervals", n)
	}
}
