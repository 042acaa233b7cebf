package scheduler

import (
	"fmt"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"context"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
)

// instantBinder binds without an API server.
type instantBinder struct{}

func (instantBinder) Name() string                                { return "instant" }
func (instantBinder) Bind(context.Context, *v1.Pod, string) error { return nil }

// BenchmarkSchedule measures one pod from the queue to its node, without an
// API server: ours to decide is all that is measured. An unschedulable pod
// counts when it is refused, a preemptor when its victims are chosen.
func BenchmarkSchedule(b *testing.B) {
	app := func(name string) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Labels = map[string]string{"app": name} }
	}
	selector := func(name string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
	}
	constraint := func(key string, skew int32) v1.TopologySpreadConstraint {
		return v1.TopologySpreadConstraint{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: v1.DoNotSchedule, LabelSelector: selector("s")}
	}
	for _, load := range []struct {
		name   string
		filled bool // nodes have no room left
		pod    func(i int) *v1.Pod
	}{
		{name: "plain", pod: func(i int) *v1.Pod { return newPod(fmt.Sprint("p", i), requests("10m", "16Mi")) }},
		{name: "kinds", pod: func(i int) *v1.Pod { // a hundred workloads at once
			return newPod(fmt.Sprint("p", i), requests("10m", "16Mi"), app(fmt.Sprint("a", i%100)))
		}},
		{name: "spread", pod: func(i int) *v1.Pod {
			return newPod(fmt.Sprint("p", i), requests("10m", "16Mi"), app("s"), func(p *v1.Pod) {
				p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{constraint(zone, 1), constraint(v1.LabelHostname, 1)}
			})
		}},
		{name: "affinity", pod: func(i int) *v1.Pod { // near its group's zone, away from its group's hosts
			group := fmt.Sprint("g", i/50)
			return newPod(fmt.Sprint("p", i), requests("10m", "16Mi"), app(group), func(p *v1.Pod) {
				p.Spec.Affinity = &v1.Affinity{
					PodAffinity:     &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{LabelSelector: selector(group), TopologyKey: zone}}},
					PodAntiAffinity: &v1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: v1.PodAffinityTerm{LabelSelector: selector(group), TopologyKey: v1.LabelHostname}}}},
				}
			})
		}},
		{name: "preemption", filled: true, pod: func(i int) *v1.Pod {
			return newPod(fmt.Sprint("p", i), requests("1", "16Mi"), func(p *v1.Pod) { p.Spec.Priority = new(int32(10)) })
		}},
		{name: "unschedulable", filled: true, pod: func(i int) *v1.Pod { return newPod(fmt.Sprint("p", i), requests("1", "16Mi")) }},
	} {
		for _, nodes := range []int{100, 1000, 5000} {
			b.Run(fmt.Sprintf("%s/nodes=%d", load.name, nodes), func(b *testing.B) {
				s := benchCluster(nodes, load.filled)
				pods := make([]*v1.Pod, b.N)
				for i := range pods {
					pods[i] = load.pod(i)
				}
				profile := s.profiles[v1.DefaultSchedulerName]
				placed := 0
				b.ReportAllocs()
				b.ResetTimer()
				before, start := cpuTime(), time.Now()
				for _, p := range pods {
					s.queue.Add(p)
				}
				for range pods {
					item, err := s.queue.Pop(b.Context())
					if err != nil {
						b.Fatal(err)
					}
					if !load.filled {
						s.schedule(b.Context(), item)
						placed++
						continue
					}
					pod := picture.NewPod(item.Pod)
					node, refusals, remedy := s.decide(profile, pod)
					if node != nil {
						b.Fatal("a full node has room")
					}
					s.nominate(pod, remedy)
					for _, victim := range remedy.Victims {
						s.picture.RemovePod(victim.UID)
					}
					s.queue.Park(item, refusals.Plugins, nil)
				}
				s.done.Wait()
				cpu, wall := cpuTime()-before, time.Since(start)
				b.ReportMetric(float64(b.N)/wall.Seconds(), "pods/s")
				b.ReportMetric(float64(cpu.Microseconds())/float64(b.N), "cpu-µs/pod")
				if got := len(pods) - s.queue.Len(); got != placed {
					b.Fatalf("%d pods placed, want %d", got, placed)
				}
			})
		}
	}
}

// benchCluster has nodes in ten zones; filled ones run one pod of low priority
// on each of their CPUs.
func benchCluster(nodes int, filled bool) *scheduler {
	profile := plugins.Default(nil)
	profile.Bind = instantBinder{}
	s := newScheduler(profile)
	s.logger, s.recorder = slog.New(slog.DiscardHandler), &events.FakeRecorder{}
	for i := range nodes {
		name := fmt.Sprint("n", i)
		s.picture.SetNode(node(name, func(n *v1.Node) {
			n.Labels[zone] = fmt.Sprint("z", i%10)
			n.Status.Allocatable = v1.ResourceList{
				v1.ResourceCPU: resource.MustParse("32"), v1.ResourceMemory: resource.MustParse("256Gi"), v1.ResourcePods: resource.MustParse("1000000"),
			}
			if !filled {
				n.Status.Allocatable[v1.ResourceCPU] = resource.MustParse("10000")
				n.Status.Allocatable[v1.ResourceMemory] = resource.MustParse("100Ti")
			}
		}))
		for j := range 32 {
			if filled {
				s.picture.SetPod(newPod(fmt.Sprint("low", i, "-", j), requests("1", "16Mi"), func(p *v1.Pod) {
					p.UID = types.UID(p.Name)
					p.Spec.NodeName, p.Spec.Priority = name, new(int32(0))
				}))
			}
		}
	}
	return s
}

var _ framework.BindPlugin = instantBinder{}

// cpuTime is what the process has used.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
