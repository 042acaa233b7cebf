package devices

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

func TestPodResourcesAreTold(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	name := "claim"
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u"}, Spec: v1.PodSpec{
		InitContainers: []v1.Container{{Name: "init"}, {Name: "side", RestartPolicy: &always}},
		Containers:     []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "c"}}}}},
		ResourceClaims: []v1.PodResourceClaim{{Name: "c", ResourceClaimName: &name}, {Name: "other", ResourceClaimName: &name}},
	}}
	ended := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "ended", Namespace: "n"}, Status: v1.PodStatus{Phase: v1.PodFailed}}
	near := &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: 0}, {ID: 1}}}
	manager := &Manager{
		Plugins: &Plugins{
			resources: map[string]*pool{
				gpu: {plugin: &plugin{}, devices: map[string]*pluginapi.Device{
					"a": {ID: "a", Health: pluginapi.Healthy, Topology: near}, "b": {ID: "b", Health: pluginapi.Healthy}, "c": {ID: "c", Health: pluginapi.Unhealthy}}},
				"example.com/gone": {},
			},
			pods: map[types.UID]map[string]map[string]*grant{"u": {"main": {gpu: {IDs: []string{"a", "c"}}, "example.com/gone": {IDs: []string{"x"}}}}},
		},
		Claims: &Claims{claims: map[types.NamespacedName]*claim{}},
	}
	manager.Claims.claims[types.NamespacedName{Namespace: "n", Name: name}] = &claim{Namespace: "n", Name: name, Pods: []types.UID{"u"}, Prepared: true,
		Drivers: map[string][]*drav1.Device{"driver": {{PoolName: "pool", DeviceName: "d", CdiDeviceIds: []string{"example.com/d=1"}}}}}

	dir, err := os.MkdirTemp("", "pr") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	server := &PodResources{Socket: filepath.Join(dir, "pod-resources", "kubelet.sock"), Devices: manager,
		Pods: func() []*v1.Pod { return []*v1.Pod{pod, ended} },
		Pod: func(namespace, of string) *v1.Pod {
			if namespace == "n" && of == "p" {
				return pod
			}
			return nil
		}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+server.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	asking, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	client := podresources.NewPodResourcesListerClient(conn)
	list, err := client.List(asking, &podresources.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if len(list.PodResources) != 1 || list.PodResources[0].Name != "p" || list.PodResources[0].Namespace != "n" {
		t.Fatalf("pods: %v", list.PodResources)
	}
	containers := list.PodResources[0].Containers
	if len(containers) != 2 || containers[0].Name != "side" || containers[1].Name != "main" || len(containers[0].Devices) != 0 {
		t.Fatalf("containers: %v", containers)
	}
	var got []string
	for _, d := range containers[1].Devices {
		text := d.ResourceName + " " + strings.Join(d.DeviceIds, ",")
		for _, node := range d.Topology.GetNodes() {
			text += " " + string(rune('0'+node.ID))
		}
		got = append(got, text)
	}
	if text := strings.Join(got, "; "); text != "example.com/gone x; "+gpu+" a 0; "+gpu+" a 1; "+gpu+" c" {
		t.Errorf("devices: %s", text)
	}
	if r := containers[1].DynamicResources; len(r) != 1 || r[0].ClaimName != name || r[0].ClaimNamespace != "n" || len(r[0].ClaimResources) != 1 ||
		r[0].ClaimResources[0].DriverName != "driver" || r[0].ClaimResources[0].PoolName != "pool" || r[0].ClaimResources[0].CdiDevices[0].Name != "example.com/d=1" {
		t.Errorf("claims: %v", r)
	}
	all, err := client.GetAllocatableResources(asking, &podresources.AllocatableResourcesRequest{})
	if err != nil || len(all.Devices) != 3 || all.Devices[2].DeviceIds[0] != "b" {
		t.Errorf("allocatable: %v, %v", all, err)
	}
	one, err := client.Get(asking, &podresources.GetPodResourcesRequest{PodNamespace: "n", PodName: "p"})
	if err != nil || len(one.PodResources.GetContainers()) != 2 {
		t.Errorf("one pod: %v, %v", one, err)
	}
	if _, err := client.Get(asking, &podresources.GetPodResourcesRequest{PodNamespace: "n", PodName: "q"}); err == nil || !strings.Contains(err.Error(), "pod q in namespace n not found") {
		t.Errorf("a pod that is not there: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
