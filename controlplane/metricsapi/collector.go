package metricsapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"clusterctl/controlplane/api"
)

const (
	// fresh is how long a reading answers for: autoscalers ask every 15
	// seconds, and are to find a new one each time.
	fresh = 10 * time.Second
	// stale is the age at which a reading is no base for a rate any more: an
	// average over hours says nothing about now.
	stale = time.Minute
	// patience is how long one node agent may take to answer.
	patience = 5 * time.Second
	// atOnce is how many node agents are asked at the same time.
	atOnce = 16
	// largest is the most that a node agent's answer may be, in bytes.
	largest = 32 << 20
)

// counter is one reading of what a container or a node has used.
type counter struct {
	at     time.Time
	cpu    uint64 // nanoseconds since it began
	memory uint64 // working set, in bytes
}

// use is what two counters say.
type use struct {
	at     time.Time
	window time.Duration
	usage  corev1.ResourceList
}

// between is the use from one counter to the next. ok is false if they do not
// tell: it was one and the same reading, or a restart began again from zero.
func between(before, after counter) (u use, ok bool) {
	window := after.at.Sub(before.at)
	if window <= 0 || after.cpu < before.cpu || before.at.IsZero() {
		return use{}, false
	}
	rate := float64(after.cpu-before.cpu) / window.Seconds()
	return use{at: after.at, window: window, usage: corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(rate), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(after.memory), resource.BinarySI),
	}}, true
}

// subject is whose use is told: a container of a pod, or, without UID, a node.
type subject struct {
	pod  types.UID
	name string
}

// reading is the counters of a whole cluster.
type reading map[subject]counter

// uses compares two readings. A subject whose counter has not moved since
// before keeps what was known.
func uses(before, after reading, known map[subject]use) map[subject]use {
	all := make(map[subject]use, len(after))
	for s, c := range after {
		if u, ok := between(before[s], c); ok {
			all[s] = u
		} else if u, ok := known[s]; ok && c.at.Equal(before[s].at) {
			all[s] = u
		}
	}
	return all
}

// counters are those in a node agent's summary.
func counters(summary *stats.Summary) reading {
	read := reading{}
	add := func(s subject, cpu *stats.CPUStats, memory *stats.MemoryStats) {
		if cpu != nil && cpu.UsageCoreNanoSeconds != nil && memory != nil && memory.WorkingSetBytes != nil {
			read[s] = counter{at: cpu.Time.Time, cpu: *cpu.UsageCoreNanoSeconds, memory: *memory.WorkingSetBytes}
		}
	}
	add(subject{name: summary.Node.NodeName}, summary.Node.CPU, summary.Node.Memory)
	for i := range summary.Pods {
		pod := &summary.Pods[i]
		for j := range pod.Containers {
			c := &pod.Containers[j]
			add(subject{types.UID(pod.PodRef.UID), c.Name}, c.CPU, c.Memory)
		}
	}
	return read
}

// collector answers from one reading for as long as it is fresh. It is safe for
// concurrent use.
type collector struct {
	ask func(ctx context.Context, node types.NodeName) (*stats.Summary, error)
	now func() time.Time
	// apart is how long two readings are apart where there was none to begin
	// with.
	apart time.Duration

	// turn is held by whoever reads, and guards what follows; the others wait
	// for what it finds.
	turn  chan struct{}
	last  reading
	took  time.Time // when last was read
	known map[subject]use
}

func newCollector(nodes api.NodeConnector) *collector {
	return &collector{
		now: time.Now, apart: 2 * time.Second, turn: make(chan struct{}, 1),
		ask: func(ctx context.Context, node types.NodeName) (*stats.Summary, error) {
			base, transport, err := nodes.Connect(ctx, node)
			if err != nil {
				return nil, err
			}
			url := base.JoinPath("stats", "summary")
			url.RawQuery = "only_cpu_and_memory=true"
			began := time.Now()
			summary, err := fetch(ctx, url.String(), transport)
			if err == nil {
				refine(summary, began.Add(time.Since(began)/2))
			}
			return summary, err
		},
	}
}

// refine gives counters that have just been read the time of the question: an
// answer's own times are whole seconds, too coarse for a rate of two seconds.
func refine(summary *stats.Summary, asked time.Time) {
	one := func(c *stats.CPUStats) {
		if c != nil && c.Time.Sub(asked).Abs() < 2*time.Second {
			c.Time.Time = asked
		}
	}
	one(summary.Node.CPU)
	for i := range summary.Pods {
		for j := range summary.Pods[i].Containers {
			one(summary.Pods[i].Containers[j].CPU)
		}
	}
}

func fetch(ctx context.Context, url string, transport http.RoundTripper) (*stats.Summary, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the agent answers %s", response.Status)
	}
	var summary stats.Summary
	if err := json.NewDecoder(io.LimitReader(response.Body, largest)).Decode(&summary); err != nil {
		return nil, fmt.Errorf("decode summary: %w", err)
	}
	return &summary, nil
}

// uses returns what everything uses, measured on nodes. The map must not be
// changed.
func (c *collector) uses(ctx context.Context, nodes func(context.Context) ([]types.NodeName, error)) (map[subject]use, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	age := c.now().Sub(c.took)
	if age < fresh {
		return c.known, nil
	}
	names, err := nodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list nodes to measure: %w", err)
	}
	if age >= stale {
		c.last, c.known = c.read(ctx, names), nil
		select {
		case <-time.After(c.apart):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	read := c.read(ctx, names)
	if ctx.Err() != nil {
		return nil, ctx.Err() // half of a reading must not answer for others
	}
	c.known = uses(c.last, read, c.known)
	c.last, c.took = read, c.now()
	return c.known, nil
}

// read asks all nodes. Those that fail are left out, and logged.
func (c *collector) read(ctx context.Context, nodes []types.NodeName) reading {
	var mu sync.Mutex
	all := reading{}
	workqueue.ParallelizeUntil(ctx, atOnce, len(nodes), func(i int) {
		asking, done := context.WithTimeout(ctx, patience)
		defer done()
		found, err := c.ask(asking, nodes[i])
		if err != nil {
			slog.Warn("measure node", "node", nodes[i], "error", err)
			return
		}
		found.Node.NodeName = string(nodes[i])
		mu.Lock()
		defer mu.Unlock()
		for s, counter := range counters(found) {
			all[s] = counter
		}
	})
	return all
}
