package eviction

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"clusterctl/hostconfig"
)

func testPod(name string, priority int32, memory string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: v1.PodSpec{
		Priority: &priority, Containers: []v1.Container{{Name: "c"}}}}
	if memory != "" {
		pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
	}
	return pod
}

// world is a host that a test runs short of things.
type world struct {
	seen    Observations
	pods    []*v1.Pod
	usage   map[string]Usage
	images  int64 // bytes that unused ones take
	layout  Layout
	evicted []string
	said    []string

	annotations map[string]string // of the pod evicted last
}

func (w *world) Observe(context.Context) Observations {
	copied := Observations{}
	for s, o := range w.seen {
		copied[s] = o
	}
	return copied
}
func (w *world) Pods() []*v1.Pod               { return w.pods }
func (w *world) Layout(context.Context) Layout { return w.layout }
func (w *world) Usage(_ context.Context, pod *v1.Pod) (Usage, error) {
	return w.usage[pod.Name], nil
}
func (w *world) FreeImages(context.Context) error {
	o := w.seen[ImageDisk]
	o.Available += w.images
	w.images, w.seen[ImageDisk] = 0, o
	return nil
}
func (w *world) Evict(pod *v1.Pod, grace time.Duration, cause Cause) bool {
	w.evicted, w.annotations = append(w.evicted, pod.Name+" "+grace.String()+" "+cause.Message), cause.Annotations
	w.pods = slices.DeleteFunc(slices.Clone(w.pods), func(p *v1.Pod) bool { return p == pod })
	return true
}
func (w *world) Warn(reason, message string) { w.said = append(w.said, reason+" "+message) }

func newManager(t *testing.T, c hostconfig.Eviction, w *world) *Manager {
	t.Helper()
	settings, err := Parse(c)
	if err != nil {
		t.Fatal(err)
	}
	return New(settings, w, slog.New(slog.DiscardHandler))
}

func TestSignalsAreThoseThatInventoriesMayName(t *testing.T) {
	var names []string
	for _, s := range order {
		if s != PodsMemory { // has the threshold of Memory
			names = append(names, string(s))
		}
	}
	if !slices.Equal(names, hostconfig.EvictionSignals) {
		t.Errorf("the host acts upon %v, inventories may name %v", names, hostconfig.EvictionSignals)
	}
}

func TestParse(t *testing.T) {
	s, err := Parse(hostconfig.Eviction{})
	if err != nil || len(s.Thresholds) != 6 || s.Transition != 5*time.Minute {
		t.Errorf("defaults: %+v %v", s, err)
	}
	for _, c := range []struct {
		e   hostconfig.Eviction
		say string
	}{
		{hostconfig.Eviction{Hard: map[string]string{"memory": "1"}}, "no such signal"},
		{hostconfig.Eviction{Hard: map[string]string{"memory.available": "101%"}}, "share"},
		{hostconfig.Eviction{Hard: map[string]string{"memory.available": "-1"}}, "negative"},
		{hostconfig.Eviction{Hard: map[string]string{"memory.available": "lots"}}, "parse"},
		{hostconfig.Eviction{Soft: map[string]string{"memory.available": "1Gi"}}, "softGraceSeconds"},
		{hostconfig.Eviction{MinimumReclaim: map[string]string{"memory.available": "x"}}, "minimum to reclaim"},
	} {
		if _, err := Parse(c.e); err == nil || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%+v: got %v, want %q", c.e, err, c.say)
		}
	}
	off, err := Parse(hostconfig.Eviction{Hard: map[string]string{"memory.available": "0"}})
	if err != nil || len(off.Thresholds) != 0 {
		t.Errorf("switched off: %+v %v", off, err)
	}
}

func TestHardThresholdEvictsTheGreediest(t *testing.T) {
	w := &world{
		seen: Observations{Memory: {Available: 50 << 20, Capacity: 1 << 30}},
		pods: []*v1.Pod{testPod("modest", 0, "64Mi"), testPod("greedy", 0, "64Mi"), testPod("dear", 10, ""), testPod("vital", systemCritical, "")},
		usage: map[string]Usage{
			"modest": {Memory: 10 << 20}, "dear": {Memory: 1 << 30}, "vital": {Memory: 1 << 30},
			"greedy": {Memory: 128 << 20, Containers: map[string]ContainerUsage{"c": {Memory: 128 << 20}}},
		},
	}
	m := newManager(t, hostconfig.Eviction{}, w)
	now := time.Unix(1000, 0)
	m.step(t.Context(), now)
	want := "greedy 1s The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " +
		"Container c was using 128Mi, request is 64Mi, has larger consumption of memory. "
	if len(w.evicted) != 1 || w.evicted[0] != want {
		t.Errorf("got %q, want %q", w.evicted, want)
	}
	if want := map[string]string{"starved_resource": "memory", "offending_containers": "c", "offending_containers_usage": "128Mi"}; !maps.Equal(w.annotations, want) {
		t.Errorf("annotated %v, want %v", w.annotations, want)
	}
	if len(w.said) != 1 || w.said[0] != "EvictionThresholdMet Attempting to reclaim memory" {
		t.Errorf("said %q", w.said)
	}
	if p := m.Pressures(); len(p) != 1 || p[0] != v1.NodeMemoryPressure {
		t.Errorf("pressures %v", p)
	}
	for i, want := range []string{"greedy", "dear", "modest"} {
		m.step(t.Context(), now.Add(time.Duration(i)*time.Minute))
		if i > 0 && !strings.HasPrefix(w.evicted[i], want) {
			t.Errorf("got %q, want %s next", w.evicted, want)
		}
	}
	m.step(t.Context(), now.Add(5*time.Minute))
	if len(w.evicted) != 3 || len(w.pods) != 1 {
		t.Errorf("evicted %q, left %d", w.evicted, len(w.pods))
	}
	// The pressure is reported for a while after it has gone.
	w.seen[Memory] = Observation{Available: 1 << 29, Capacity: 1 << 30}
	m.step(t.Context(), now.Add(9*time.Minute))
	if len(m.Pressures()) != 1 {
		t.Error("the pressure is gone at once")
	}
	m.step(t.Context(), now.Add(10*time.Minute))
	if len(m.Pressures()) != 0 {
		t.Error("the pressure never goes")
	}
}

func TestSoftThresholdWaitsAndReclaims(t *testing.T) {
	grace := int64(60)
	w := &world{seen: Observations{PIDs: {Available: 50, Capacity: 1000}}}
	for _, name := range []string{"a", "b"} {
		pod := testPod(name, 0, "")
		pod.Spec.TerminationGracePeriodSeconds = &grace
		w.pods = append(w.pods, pod)
	}
	w.usage = map[string]Usage{"a": {Processes: 2}, "b": {Processes: 1}}
	m := newManager(t, hostconfig.Eviction{
		Hard: map[string]string{}, Soft: map[string]string{"pid.available": "100"}, SoftGraceSeconds: map[string]int{"pid.available": 30},
		MinimumReclaim: map[string]string{"pid.available": "50"}, MaxPodGraceSeconds: 10,
	}, w)
	now := time.Unix(1000, 0)
	m.step(t.Context(), now)
	m.step(t.Context(), now.Add(29*time.Second))
	if len(w.evicted) != 0 || len(m.Pressures()) != 1 {
		t.Errorf("evicted %q, pressures %v", w.evicted, m.Pressures())
	}
	m.step(t.Context(), now.Add(30*time.Second))
	if len(w.evicted) != 1 || !strings.HasPrefix(w.evicted[0], "a 10s The node was low on resource: pids. Threshold quantity: 100, available: 50. ") {
		t.Errorf("evicted %q", w.evicted)
	}
	w.seen[PIDs] = Observation{Available: 149, Capacity: 1000} // enough, but not what has to be reclaimed
	m.step(t.Context(), now.Add(40*time.Second))
	if len(w.evicted) != 2 {
		t.Errorf("evicted %q: what has to be reclaimed is not", w.evicted)
	}
	w.seen[PIDs] = Observation{Available: 150, Capacity: 1000}
	m.step(t.Context(), now.Add(50*time.Second))
	w.seen[PIDs] = Observation{Available: 101, Capacity: 1000}
	w.pods = []*v1.Pod{testPod("c", 0, "")}
	m.step(t.Context(), now.Add(60*time.Second))
	if len(w.evicted) != 2 {
		t.Errorf("evicted %q without need", w.evicted)
	}
}

func TestDiskIsFreedOfImagesFirst(t *testing.T) {
	w := &world{
		seen:   Observations{ImageDisk: {Available: 10, Capacity: 100}},
		pods:   []*v1.Pod{testPod("a", 0, "")},
		images: 20,
	}
	m := newManager(t, hostconfig.Eviction{}, w)
	m.step(t.Context(), time.Unix(1000, 0))
	if len(w.evicted) != 0 || w.images != 0 {
		t.Errorf("evicted %q, images left %d", w.evicted, w.images)
	}
	w.seen[ImageDisk] = Observation{Available: 10, Capacity: 100}
	m.step(t.Context(), time.Unix(1010, 0))
	if len(w.evicted) != 1 || !strings.Contains(w.evicted[0], "low on resource: ephemeral-storage. Threshold quantity: 15, available: 10. ") {
		t.Errorf("evicted %q", w.evicted)
	}
}

// TestPodsAreKeptToWhatTheyMayHaveTogether: the host may have memory left that is
// kept from pods.
func TestPodsAreKeptToWhatTheyMayHaveTogether(t *testing.T) {
	w := &world{
		seen: Observations{Memory: {Available: 1 << 29, Capacity: 1 << 30}, PodsMemory: {Available: 50 << 20, Capacity: 1 << 29}},
		pods: []*v1.Pod{testPod("a", 0, "")},
	}
	m, counted := newManager(t, hostconfig.Eviction{Hard: map[string]string{"memory.available": "20%"}}, w), ""
	m.Evicted = func(signal string) { counted += signal }
	m.step(t.Context(), time.Unix(1000, 0))
	if len(w.evicted) != 1 || counted != "allocatableMemory.available" || !slices.Equal(m.Pressures(), []v1.NodeConditionType{v1.NodeMemoryPressure}) ||
		!strings.Contains(w.evicted[0], "low on resource: memory. Threshold quantity: 107374182, available: 50Mi. ") {
		t.Errorf("evicted %q, counted as %q, pressures %v", w.evicted, counted, m.Pressures())
	}
	soft, err := Parse(hostconfig.Eviction{Hard: map[string]string{}, Soft: map[string]string{"memory.available": "1Gi"}, SoftGraceSeconds: map[string]int{"memory.available": 1}})
	if err != nil || len(soft.Thresholds) != 1 {
		t.Errorf("a soft threshold is copied: %+v, %v", soft.Thresholds, err)
	}
}

// TestWhoGoesDependsOnTheDisk: nobody goes for what lies on a disk with room left, and
// images stay where removing them frees nothing.
func TestWhoGoesDependsOnTheDisk(t *testing.T) {
	one, apart, split := Layout{}, Layout{ImagesApart: true, LayersApart: true}, Layout{ImagesApart: true}
	for _, c := range []struct {
		layout Layout
		short  Signal
		first  string
		images bool // are freed
	}{
		{one, NodeDisk, "both", true},
		{one, ImageInodes, "both", true},
		{apart, NodeDisk, "logs", false},
		{apart, NodeInodes, "logs", false},
		{apart, ImageDisk, "writes", true},
		{apart, ImageInodes, "writes", true},
		{split, NodeDisk, "both", false},
		{split, ImageDisk, "idle", true}, // nobody has anything there: the lowest priority goes
	} {
		w := &world{
			seen: Observations{c.short: {Available: 1, Capacity: 1000}}, layout: c.layout,
			pods: []*v1.Pod{testPod("both", 1, ""), testPod("logs", 1, ""), testPod("writes", 1, ""), testPod("idle", 0, "")},
			usage: map[string]Usage{
				"both": {Local: Space{30, 30}, Layers: Space{30, 30}}, "logs": {Local: Space{40, 40}}, "writes": {Layers: Space{50, 50}},
			},
		}
		freed := &freed{world: w}
		settings, err := Parse(hostconfig.Eviction{})
		if err != nil {
			t.Fatal(err)
		}
		New(settings, freed, slog.New(slog.DiscardHandler)).step(t.Context(), time.Unix(1000, 0))
		if len(w.evicted) != 1 || !strings.HasPrefix(w.evicted[0], c.first+" ") || freed.images != c.images {
			t.Errorf("%+v, %s: evicted %q, freed images: %v, want %s, %v", c.layout, c.short, w.evicted, freed.images, c.first, c.images)
		}
	}
}

// freed is a world without images to free.
type freed struct {
	*world
	images bool // somebody tried
}

func (f *freed) FreeImages(context.Context) error {
	f.images = true
	return nil
}

func TestAdmitUnderPressure(t *testing.T) {
	tolerant := testPod("tolerant", 0, "")
	tolerant.Spec.Tolerations = []v1.Toleration{{Key: v1.TaintNodeMemoryPressure, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoSchedule}}
	for _, c := range []struct {
		short []Signal
		pod   *v1.Pod
		say   string
	}{
		{nil, testPod("best", 0, ""), ""},
		{[]Signal{Memory}, testPod("best", 0, ""), "The node had condition: [MemoryPressure]. "},
		{[]Signal{Memory}, testPod("burstable", 0, "1Mi"), ""},
		{[]Signal{Memory}, tolerant, ""},
		{[]Signal{Memory}, testPod("vital", systemCritical, ""), ""},
		{[]Signal{Memory, NodeDisk}, testPod("burstable", 0, "1Mi"), "The node had condition: [DiskPressure MemoryPressure]. "},
		{[]Signal{NodeInodes}, tolerant, "The node had condition: [DiskPressure]. "},
	} {
		w := &world{seen: Observations{}}
		for _, s := range c.short {
			w.seen[s] = Observation{Available: 1, Capacity: 1000}
		}
		m := newManager(t, hostconfig.Eviction{}, w)
		m.step(t.Context(), time.Unix(1000, 0))
		if reason, message := m.Admit(c.pod); message != c.say || (reason == "") != (c.say == "") {
			t.Errorf("%v, %s: got %q %q, want %q", c.short, c.pod.Name, reason, message, c.say)
		}
	}
}

func TestOutgrown(t *testing.T) {
	limit := resource.MustParse("1Mi")
	pod := testPod("p", 0, "")
	pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
	pod.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("2Mi")}
	for _, c := range []struct {
		usage      Usage
		limit, say string
	}{
		{Usage{EmptyDirs: map[string]int64{"v": 1 << 20}}, "", ""},
		{Usage{EmptyDirs: map[string]int64{"v": 1<<20 + 1}}, "emptydirfs.limit", `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `},
		{Usage{Layers: Space{Bytes: 1 << 20}, Local: Space{Bytes: 1<<20 + 1}}, "ephemeralpodfs.limit", "Pod ephemeral local storage usage exceeds the total limit of containers 2Mi. "},
		{Usage{Containers: map[string]ContainerUsage{"c": {Disk: 2<<20 + 1}}}, "ephemeralcontainerfs.limit", `Container c exceeded its local ephemeral storage limit "2Mi". `},
	} {
		if limit, got := Outgrown(Pod{pod, c.usage}); got != c.say || limit != c.limit {
			t.Errorf("got %s: %q, want %s: %q", limit, got, c.limit, c.say)
		}
	}
	if !HasStorageLimits(pod) || HasStorageLimits(testPod("q", 0, "1Mi")) {
		t.Error("which pods have limits of storage?")
	}
	w := &world{seen: Observations{}, pods: []*v1.Pod{pod}, usage: map[string]Usage{"p": {EmptyDirs: map[string]int64{"v": 2 << 20}}}}
	m, counted := newManager(t, hostconfig.Eviction{}, w), ""
	m.Evicted = func(signal string) { counted += signal }
	m.step(t.Context(), time.Unix(1000, 0))
	if len(w.evicted) != 1 || counted != "emptydirfs.limit" || w.annotations != nil {
		t.Errorf("evicted %q, counted as %q, annotated %v", w.evicted, counted, w.annotations)
	}
}

// TestPodsThatAskAsAWholeAreNamed: the message says by how much such a pod is
// beyond what it asked for, and each of its containers.
func TestPodsThatAskAsAWholeAreNamed(t *testing.T) {
	pod := testPod("p", 0, "")
	pod.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Mi")}}
	usage := Usage{Memory: 3 << 20, Containers: map[string]ContainerUsage{"c": {Memory: 2 << 20}}}
	threshold := Threshold{Signal: Memory, Least: Amount{Quantity: resource.MustParse("100Mi")}}
	want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. " +
		"Pod p was using 3Mi, request is 1Mi, has larger consumption of memory. " +
		"Container c was using 2Mi, request is 0, has larger consumption of memory. "
	got := explain(Pod{pod, usage}, threshold, Observations{Memory: {Available: 50 << 20, Capacity: 1 << 30}})
	if got.Message != want || !got.Disrupts {
		t.Errorf("got %+v, want %q", got, want)
	}
	annotations := map[string]string{"starved_resource": "memory", "offending_pod": "p", "offending_pod_usage": "3Mi",
		"offending_containers": "c", "offending_containers_usage": "2Mi"}
	if !maps.Equal(got.Annotations, annotations) {
		t.Errorf("annotated %v, want %v", got.Annotations, annotations)
	}
}

// TestRankSparesTheModest: whoever stays within what it asked for never goes
// before one of no higher priority that does not.
func TestRankSparesTheModest(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var pods []Pod
		for range rapid.IntRange(1, 8).Draw(r, "pods") {
			pod := testPod("p", int32(rapid.IntRange(0, 2).Draw(r, "priority")), []string{"", "1Mi", "8Mi"}[rapid.IntRange(0, 2).Draw(r, "request")])
			pods = append(pods, Pod{pod, Usage{Memory: int64(rapid.IntRange(0, 16<<20).Draw(r, "usage"))}})
		}
		Rank(pods, Memory, Layout{})
		exceeds := func(p Pod) bool {
			return p.Memory > p.Spec.Containers[0].Resources.Requests.Memory().Value()
		}
		for i := 1; i < len(pods); i++ {
			a, b := pods[i-1], pods[i]
			if exceeds(b) && !exceeds(a) || exceeds(a) == exceeds(b) && priority(a.Pod) > priority(b.Pod) {
				r.Fatalf("%+v goes before %+v", a, b)
			}
		}
	})
}
