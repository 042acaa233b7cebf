package node

import (
	"bufio"
	"context"
	"net"
	"os"
	goruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/images"
	"clusterctl/nodeagent/stats"
)

// Version is what the node reports as its version: that of the API it keeps
// to, and whose it is.
const Version = hostconfig.KubernetesVersion + "-clusterctl"

// What the node's status has at most.
const (
	MaxImages   = 50
	DefaultPods = 110 // where the configuration does not say
)

// declaredFeatures are what a pod can ask for that not every node agent of a
// cluster may have yet, in order: the scheduler keeps away from nodes without.
var declaredFeatures = nodedeclaredfeatures.DefaultFramework.DiscoverNodeFeatures(&nodedeclaredfeatures.NodeConfiguration{
	FeatureGates: featureGates{
		"ExtendWebSocketsToKubelet":               true,
		"InPlacePodLevelResourcesVerticalScaling": true,
		"InPlacePodVerticalScalingInitContainers": true,
		"RestartAllContainersOnContainerExits":    true,
	},
	Version: utilversion.MustParse(Version),
})

type featureGates map[string]bool

func (g featureGates) Enabled(name string) bool { return g[name] }

func hostLabels(name string) map[string]string {
	return map[string]string{
		v1.LabelHostname:          name,
		v1.LabelOSStable:          goruntime.GOOS,
		v1.LabelArchStable:        goruntime.GOARCH,
		"beta.kubernetes.io/os":   goruntime.GOOS,
		"beta.kubernetes.io/arch": goruntime.GOARCH,
	}
}

// describe brings status up to date with the host.
func (n *Node) describe(ctx context.Context, status *v1.NodeStatus) {
	status.Addresses = n.addresses()
	status.DaemonEndpoints.KubeletEndpoint.Port = hostconfig.PortNodeAgent
	memory, _ := stats.ReadMemory()
	disk, _ := stats.ReadDisk(n.Agent.StateDir)
	before := status.Capacity
	n.capacity(status, memory, disk)
	n.extend(status, before)
	version, versionErr := n.Runtime.Version(ctx, "v1")
	status.NodeInfo = systemInfo()
	status.DeclaredFeatures = declaredFeatures
	if versionErr == nil {
		status.NodeInfo.ContainerRuntimeVersion = version.RuntimeName + "://" + strings.TrimPrefix(version.RuntimeVersion, "v")
	}
	if list, err := images.List(ctx, n.Runtime.Images, MaxImages); err == nil {
		status.Images = list
	}
	state, err := n.Runtime.Status(ctx, false)
	ready, message := judge(state, err)
	n.networkReady.Store(err == nil && condition(state, criv1.NetworkReady) == "")
	if err == nil {
		features(status, state)
	}

	set := func(kind v1.NodeConditionType, on bool, reason, message string) {
		setCondition(status, kind, on, reason, message, metav1.Now().Rfc3339Copy())
	}
	var pressures []v1.NodeConditionType
	if n.VolumesInUse != nil {
		// Unknown is not none: what was reported before stays.
		if names, err := n.VolumesInUse(); err == nil {
			slices.Sort(names)
			status.VolumesInUse = names
		}
	}
	if n.Pressures != nil {
		pressures = n.Pressures()
	}
	if slices.Contains(pressures, v1.NodeMemoryPressure) {
		set(v1.NodeMemoryPressure, true, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
	} else {
		set(v1.NodeMemoryPressure, false, "KubeletHasSufficientMemory", "kubelet has sufficient memory available")
	}
	if slices.Contains(pressures, v1.NodeDiskPressure) {
		set(v1.NodeDiskPressure, true, "KubeletHasDiskPressure", "kubelet has disk pressure")
	} else {
		set(v1.NodeDiskPressure, false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure")
	}
	if slices.Contains(pressures, v1.NodePIDPressure) {
		set(v1.NodePIDPressure, true, "KubeletHasInsufficientPID", "kubelet has insufficient PID available")
	} else {
		set(v1.NodePIDPressure, false, "KubeletHasSufficientPID", "kubelet has sufficient PID available")
	}
	if ready && n.Leaving != nil && n.Leaving() {
		ready, message = false, "node is shutting down"
	}
	if ready {
		set(v1.NodeReady, true, "KubeletReady", "kubelet is posting ready status")
	} else {
		set(v1.NodeReady, false, "KubeletNotReady", message)
	}
}

// judge says whether the runtime can run pods, and what is in the way.
func judge(state *criv1.StatusResponse, err error) (ready bool, message string) {
	if err != nil {
		return false, "container runtime is down: " + err.Error()
	}
	var faults []string
	for _, kind := range []string{criv1.RuntimeReady, criv1.NetworkReady} {
		if fault := condition(state, kind); fault != "" {
			faults = append(faults, fault)
		}
	}
	return len(faults) == 0, strings.Join(faults, ", ")
}

// condition is empty if the runtime fulfils it.
func condition(state *criv1.StatusResponse, kind string) string {
	prefix := map[string]string{criv1.RuntimeReady: "container runtime not ready: ", criv1.NetworkReady: "container runtime network not ready: "}[kind]
	for _, c := range state.GetStatus().GetConditions() {
		if c.Type != kind {
			continue
		}
		if c.Status {
			return ""
		}
		return prefix + kind + "=false reason:" + c.Reason + " message:" + c.Message
	}
	return prefix + kind + " is not reported"
}

func features(status *v1.NodeStatus, state *criv1.StatusResponse) {
	status.RuntimeHandlers = nil
	for _, h := range state.RuntimeHandlers {
		handler := v1.NodeRuntimeHandler{Name: h.Name}
		if f := h.Features; f != nil {
			handler.Features = &v1.NodeRuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: &f.RecursiveReadOnlyMounts, UserNamespaces: &f.UserNamespaces}
		}
		status.RuntimeHandlers = append(status.RuntimeHandlers, handler)
	}
	slices.SortFunc(status.RuntimeHandlers, func(a, b v1.NodeRuntimeHandler) int { return strings.Compare(a.Name, b.Name) })
	if f := state.Features; f != nil {
		status.Features = &v1.NodeFeatures{SupplementalGroupsPolicy: &f.SupplementalGroupsPolicy}
	}
}

func (n *Node) capacity(status *v1.NodeStatus, memory stats.Memory, disk stats.Disk) {
	pods := int64(n.Agent.MaxPods)
	if pods == 0 {
		pods = DefaultPods
	}
	binary := func(n uint64) resource.Quantity { return *resource.NewQuantity(int64(n), resource.BinarySI) }
	status.Capacity = v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(stats.CPUs()), resource.DecimalSI),
		v1.ResourceMemory:           binary(memory.Total),
		v1.ResourceEphemeralStorage: binary(disk.Total),
		v1.ResourcePods:             *resource.NewQuantity(pods, resource.DecimalSI),
	}
	huge := int64(0)
	for size, bytes := range cgroups.HugePages() {
		status.Capacity[cgroups.HugePageResource(size)] = binary(uint64(bytes))
		huge += bytes
	}
	status.Allocatable = status.Capacity.DeepCopy()
	take := func(name v1.ResourceName, q resource.Quantity) {
		left := status.Allocatable[name]
		left.Sub(q)
		if left.Sign() < 0 {
			left.Set(0)
		}
		status.Allocatable[name] = left
	}
	reserved, _ := Reserved(n.Agent) // judged when the agent started
	for name, q := range reserved {
		if _, ok := status.Allocatable[name]; ok {
			take(name, q)
		}
	}
	held := func(s eviction.Signal, capacity uint64) uint64 { return uint64(n.Evictions.Held(s, int64(capacity))) }
	take(v1.ResourceMemory, binary(held(eviction.Memory, memory.Total)+uint64(huge)))
	take(v1.ResourceEphemeralStorage, binary(held(eviction.NodeDisk, disk.Total)))
}

// addresses are the node's, that of the primary family first.
func (n *Node) addresses() []v1.NodeAddress {
	var list []v1.NodeAddress
	if net.ParseIP(n.Agent.Address) != nil {
		list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: n.Agent.Address})
	}
	if n.SecondAddress != nil {
		if second, ok := n.SecondAddress(); ok {
			list = append(list, v1.NodeAddress{Type: v1.NodeInternalIP, Address: second.String()})
		}
	}
	return append(list, v1.NodeAddress{Type: v1.NodeHostName, Address: n.Agent.NodeName})
}

func systemInfo() v1.NodeSystemInfo {
	info := v1.NodeSystemInfo{
		MachineID:       firstLine("/etc/machine-id"),
		BootID:          firstLine("/proc/sys/kernel/random/boot_id"),
		SystemUUID:      firstLine("/sys/class/dmi/id/product_uuid"),
		OSImage:         osImage(),
		OperatingSystem: goruntime.GOOS,
		Architecture:    goruntime.GOARCH,
		KubeletVersion:  Version,
	}
	if info.SystemUUID == "" {
		info.SystemUUID = info.MachineID
	}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		info.KernelVersion = unix.ByteSliceToString(uts.Release[:])
	}
	return info
}

func firstLine(name string) string {
	raw, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	return strings.TrimSpace(line)
}

func osImage() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "Linux"
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}

// setCondition replaces a condition; its transition time changes only with
// its status.
func setCondition(status *v1.NodeStatus, kind v1.NodeConditionType, on bool, reason, message string, now metav1.Time) {
	c := v1.NodeCondition{Type: kind, Status: v1.ConditionFalse, Reason: reason, Message: message, LastHeartbeatTime: now, LastTransitionTime: now}
	if on {
		c.Status = v1.ConditionTrue
	}
	for i := range status.Conditions {
		if old := &status.Conditions[i]; old.Type == kind {
			if old.Status == c.Status {
				c.LastTransitionTime = old.LastTransitionTime
			}
			*old = c
			return
		}
	}
	status.Conditions = append(status.Conditions, c)
}
