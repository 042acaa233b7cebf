package core

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestDefaultPod(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		HostNetwork:              true,
		DeprecatedServiceAccount: "robot",
		Containers: []corev1.Container{{
			Name: "c", Image: "nginx", Ports: []corev1.ContainerPort{{ContainerPort: 80}},
			Resources:     corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("100u")}},
			LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{}}},
			Env:           []corev1.EnvVar{{Name: "N", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
		}},
		InitContainers: []corev1.Container{{Name: "i", Image: "repo:5000/x@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}},
		Volumes:        []corev1.Volume{{Name: "e"}, {Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}},
	}}
	pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](-5)
	pod.Status.PodIP = "10.0.0.1"
	defaultPod(pod)
	once := pod.DeepCopy()
	defaultPod(pod)
	if diff := cmp.Diff(once, pod); diff != "" {
		t.Errorf("defaulting twice differs:\n%s", diff)
	}
	c := pod.Spec.Containers[0]
	cpu := c.Resources.Requests[corev1.ResourceCPU]
	for name, pair := range map[string][2]any{
		"pull policy of latest":    {c.ImagePullPolicy, corev1.PullAlways},
		"pull policy of a digest":  {pod.Spec.InitContainers[0].ImagePullPolicy, corev1.PullIfNotPresent},
		"host port":                {c.Ports[0].HostPort, int32(80)},
		"protocol":                 {c.Ports[0].Protocol, corev1.ProtocolTCP},
		"request from limit":       {cpu.String(), "1m"},
		"probe period":             {c.LivenessProbe.PeriodSeconds, int32(10)},
		"probe path":               {c.LivenessProbe.HTTPGet.Path, "/"},
		"field version":            {c.Env[0].ValueFrom.FieldRef.APIVersion, "v1"},
		"empty volume":             {pod.Spec.Volumes[0].EmptyDir != nil, true},
		"secret mode":              {*pod.Spec.Volumes[1].Secret.DefaultMode, int32(0644)},
		"account":                  {pod.Spec.ServiceAccountName, "robot"},
		"grace period":             {*pod.Spec.TerminationGracePeriodSeconds, int64(1)},
		"service links":            {*pod.Spec.EnableServiceLinks, true},
		"addresses":                {pod.Status.PodIPs[0].IP, "10.0.0.1"},
		"dns policy":               {pod.Spec.DNSPolicy, corev1.DNSClusterFirst},
		"termination message path": {c.TerminationMessagePath, "/dev/termination-log"},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v, want %v", name, pair[0], pair[1])
		}
	}
}

func TestQOSClass(t *testing.T) {
	both := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	}
	for _, c := range []struct {
		name string
		edit func(*corev1.Pod)
		want corev1.PodQOSClass
	}{
		{"nothing", nil, corev1.PodQOSBestEffort},
		{"limits", func(p *corev1.Pod) { first(p).Resources.Limits = both("1", "1Gi") }, corev1.PodQOSGuaranteed},
		{"cpu only", func(p *corev1.Pod) {
			first(p).Resources.Limits = corev1.ResourceList{"cpu": resource.MustParse("1")}
		}, corev1.PodQOSBurstable},
		{"less requested", func(p *corev1.Pod) {
			first(p).Resources = corev1.ResourceRequirements{Limits: both("1", "1Gi"), Requests: both("500m", "1Gi")}
		}, corev1.PodQOSBurstable},
		{"one container without", func(p *corev1.Pod) {
			first(p).Resources.Limits = both("1", "1Gi")
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x"}}
		}, corev1.PodQOSBurstable},
		{"pod level", func(p *corev1.Pod) { p.Spec.Resources = &corev1.ResourceRequirements{Limits: both("1", "1Gi")} }, corev1.PodQOSGuaranteed},
	} {
		if got := QOSClass(newPod(c.edit)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestPodGracePeriod(t *testing.T) {
	for _, c := range []struct {
		name string
		node string
		ask  *int64
		end  corev1.PodPhase
		want int64
	}{
		{"the pod's", "n", nil, "", 30},
		{"the client's", "n", ptr.To[int64](5), "", 5},
		{"negative", "n", ptr.To[int64](-1), "", 1},
		{"not scheduled", "", nil, "", 0},
		{"ended", "n", ptr.To[int64](5), corev1.PodSucceeded, 0},
	} {
		pod := newPod(func(p *corev1.Pod) { p.Spec.NodeName, p.Status.Phase = c.node, c.end })
		options := &metav1.DeleteOptions{GracePeriodSeconds: c.ask}
		if !podGracePeriod(context.Background(), pod, options) || *options.GracePeriodSeconds != c.want {
			t.Errorf("%s: %d s, want %d", c.name, *options.GracePeriodSeconds, c.want)
		}
	}
}

func TestPodRow(t *testing.T) {
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	ended := func(code int32, reason string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	one := func(s corev1.ContainerState, ready bool, restarts int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodRunning
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: s, Ready: ready, RestartCount: restarts}}
		}
	}
	inits := func(states ...corev1.ContainerState) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Status.Phase = corev1.PodPending
			for i, s := range states {
				name := string(rune('i' + i))
				p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: name, Image: "x"})
				p.Status.InitContainerStatuses = append(p.Status.InitContainerStatuses, corev1.ContainerStatus{Name: name, State: s, RestartCount: 1})
			}
		}
	}
	for _, c := range []struct {
		name                    string
		edit                    func(*corev1.Pod)
		ready, status, restarts string
	}{
		{"pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, "0/1", "Pending", "0"},
		{"creating", one(waiting("ContainerCreating"), false, 0), "0/1", "ContainerCreating", "0"},
		{"running", one(running, true, 2), "1/1", "Running", "2"},
		{"crashing", one(waiting("CrashLoopBackOff"), false, 3), "0/1", "CrashLoopBackOff", "3"},
		{"completed", one(ended(0, "Completed"), false, 0), "0/1", "Completed", "0"},
		{"killed", one(ended(137, ""), false, 0), "0/1", "ExitCode:137", "0"},
		{"first init", inits(running, waiting("PodInitializing")), "0/1", "Init:0/2", "1"},
		{"second init", inits(ended(0, "Completed"), running), "0/1", "Init:1/2", "2"},
		{"failing init", inits(waiting("CrashLoopBackOff")), "0/1", "Init:CrashLoopBackOff", "1"},
		{"failed init", inits(ended(1, "Error")), "0/1", "Init:Error", "1"},
		{"sidecar", func(p *corev1.Pod) {
			one(running, true, 0)(p)
			p.Spec.InitContainers = []corev1.Container{{Name: "s", Image: "x", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "s", State: running, Ready: true, Started: ptr.To(true), RestartCount: 4}}
		}, "2/2", "Running", "4"},
		{"one of two ended", func(p *corev1.Pod) {
			one(ended(0, "Completed"), false, 0)(p)
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x"})
			p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: "d", State: running, Ready: true})
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}, "1/2", "Running", "0"},
		{"evicted", func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = corev1.PodFailed, "Evicted" }, "0/1", "Evicted", "0"},
		{"terminating", func(p *corev1.Pod) {
			one(running, true, 0)(p)
			p.DeletionTimestamp = ptr.To(metav1.Now())
		}, "1/1", "Terminating", "0"},
		{"gated", func(p *corev1.Pod) {
			p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}}
			prepareNewPod(context.Background(), p)
		}, "0/1", "SchedulingGated", "0"},
		{"restarted a while ago", func(p *corev1.Pod) {
			one(running, true, 1)(p)
			p.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{FinishedAt: metav1.NewTime(time.Now().Add(-10 * time.Minute))}
		}, "1/1", "Running", "1 (10m ago)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			row := podRow(newPod(c.edit))
			if len(row) != len(podColumns) {
				t.Fatalf("%d cells for %d columns", len(row), len(podColumns))
			}
			if diff := cmp.Diff([]any{c.ready, c.status, c.restarts}, row[1:4]); diff != "" {
				t.Errorf("cells (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPreparePodStatus(t *testing.T) {
	old := newPod(nil)
	old.Status = corev1.PodStatus{QOSClass: corev1.PodQOSBurstable, ObservedGeneration: 3, Conditions: []corev1.PodCondition{{Type: "A", ObservedGeneration: 2}}}
	pod := old.DeepCopy()
	pod.Status = corev1.PodStatus{PodIP: "10.0.0.9", Conditions: []corev1.PodCondition{{Type: "A"}}}
	preparePodStatus(context.Background(), pod, old)
	s := pod.Status
	if s.QOSClass != corev1.PodQOSBurstable || s.ObservedGeneration != 3 || s.Conditions[0].ObservedGeneration != 2 || len(s.PodIPs) != 1 {
		t.Errorf("status %+v", s)
	}
}

func TestMergeLabelKeys(t *testing.T) {
	pod := newPod(func(p *corev1.Pod) {
		p.Labels = map[string]string{"hash": "1"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{LabelSelector: &metav1.LabelSelector{}, MatchLabelKeys: []string{"hash", "none"}}}
	})
	prepareNewPod(context.Background(), pod)
	want := []metav1.LabelSelectorRequirement{{Key: "hash", Operator: "In", Values: []string{"1"}}}
	if diff := cmp.Diff(want, pod.Spec.TopologySpreadConstraints[0].LabelSelector.MatchExpressions); diff != "" {
		t.Error(diff)
	}
}
