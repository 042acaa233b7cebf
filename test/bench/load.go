package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"clusterctl/test/bench/host"
	"clusterctl/test/fixture"
)

const (
	workers    = 16
	configMaps = 10_000
	pods       = 1_000
	watchers   = 100
	watched    = 1_000
	namespace  = "bench"
	valueSize  = 700
)

// load does the work. Every worker has a connection of its own.
type load struct {
	protobuf, json []kubernetes.Interface
}

// listTurns is how often lists are measured in each round. They change nothing, and
// one turn of a second or two sees a collection of garbage more or less.
const listTurns = 5

// step is the same request n times over, or a whole of its own.
type step struct {
	name  string
	n     int
	turns int  // 0 and 1: one
	json  bool // instead of protobuf
	one   func(ctx context.Context, client kubernetes.Interface, i int) error
	all   func(ctx context.Context) error
}

func newLoad(ctx context.Context, h *host.Host) (*load, error) {
	config, err := fixture.Certificate(h.Keys, h.Ports[0], "admin", "system:masters")
	if err != nil {
		return nil, err
	}
	l := &load{}
	for range workers {
		for _, json := range []bool{false, true} {
			own := rest.CopyConfig(config)
			own.Dial = (&net.Dialer{}).DialContext // transports are shared by equal configurations
			// Clients that do not say what they want get protobuf.
			own.ContentType, own.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
			if json {
				own.ContentType, own.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
			}
			client, err := kubernetes.NewForConfig(own)
			if err != nil {
				return nil, fmt.Errorf("make client: %w", err)
			}
			if json {
				l.json = append(l.json, client)
			} else {
				l.protobuf = append(l.protobuf, client)
			}
		}
	}
	core := l.protobuf[0].CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create namespace: %w", err)
	}
	// What a controller would make, without which no pod is admitted.
	if _, err := core.ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create service account: %w", err)
	}
	return l, nil
}

// run does a step and tells what it cost process.
func (l *load) run(ctx context.Context, process *host.Process, s step) (stepResult, error) {
	got := stepResult{name: s.name, n: s.n}
	// Asking allocates too, and each time about the same.
	first, err := l.heap(ctx)
	if err != nil {
		return got, err
	}
	second, err := l.heap(ctx)
	if err != nil {
		return got, err
	}
	before, err := process.CPU()
	if err != nil {
		return got, err
	}
	began := time.Now()
	if s.all != nil {
		err = s.all(ctx)
	} else {
		var waits []time.Duration
		if waits, err = l.repeat(ctx, s); err == nil {
			slices.Sort(waits)
			got.p50, got.p99 = waits[len(waits)/2], waits[len(waits)*99/100]
		}
	}
	if err != nil {
		return got, err
	}
	got.clock = time.Since(began)
	after, err := process.CPU()
	if err != nil {
		return got, err
	}
	got.cpu = after - before
	third, err := l.heap(ctx)
	got.allocated = (third.allocated - second.allocated) - (second.allocated - first.allocated)
	got.collections = third.collections - second.collections
	return got, err
}

// heap is what a server tells of its heap: how many bytes it has ever given out,
// and how often it has collected garbage.
type heap struct{ allocated, collections float64 }

func (l *load) heap(ctx context.Context) (heap, error) {
	metrics, err := l.json[0].CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return heap{}, fmt.Errorf("get metrics: %w", err)
	}
	var h heap
	found := 0
	for line := range strings.Lines(string(metrics)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		into := map[string]*float64{"go_memstats_alloc_bytes_total": &h.allocated, "go_gc_duration_seconds_count": &h.collections}[name]
		if into == nil {
			continue
		}
		if *into, err = strconv.ParseFloat(value, 64); err != nil {
			return heap{}, fmt.Errorf("read %s: %w", name, err)
		}
		found++
	}
	if found != 2 {
		return heap{}, errors.New("the server's metrics do not tell of its heap")
	}
	return h, nil
}

// repeat has the workers share n requests. All have to succeed.
func (l *load) repeat(ctx context.Context, s step) ([]time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	clients := l.protobuf
	if s.json {
		clients = l.json
	}
	waits := make([]time.Duration, s.n)
	var next atomic.Int64
	var group sync.WaitGroup
	for _, client := range clients {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= s.n || ctx.Err() != nil {
					return
				}
				began := time.Now()
				if err := s.one(ctx, client, i); err != nil {
					cancel(err)
				}
				waits[i] = time.Since(began)
			}
		})
	}
	group.Wait()
	return waits, context.Cause(ctx)
}

func name(i int) string { return fmt.Sprintf("c-%06d", i) }

func configMap(i int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"tenth": strconv.Itoa(i % 10)}},
		Data:       map[string]string{"v": strings.Repeat("v", valueSize)},
	}
}

func pod(i int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name(i), Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "c", Image: "registry.k8s.io/pause:3.10",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
				}},
			}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		},
	}
}

// patch is a step that patches config maps or, at its status, pods.
func patch(what string, n int, kind types.PatchType, body func(i int) string, options metav1.PatchOptions, status bool) step {
	return step{name: what, n: n, json: true, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
		if status {
			_, err := client.CoreV1().Pods(namespace).Patch(ctx, name(i), kind, []byte(body(i)), options, "status")
			return err
		}
		_, err := client.CoreV1().ConfigMaps(namespace).Patch(ctx, name(i), kind, []byte(body(i)), options)
		return err
	}}
}

func (l *load) steps() []step {
	all := metav1.ListOptions{}
	list := func(what string, n, want int, json bool, options metav1.ListOptions) step {
		return step{name: what, n: n, turns: listTurns, json: json, one: func(ctx context.Context, client kubernetes.Interface, _ int) error {
			found, err := client.CoreV1().ConfigMaps(namespace).List(ctx, options)
			if err == nil && len(found.Items) != want {
				err = fmt.Errorf("listed %d objects, want %d", len(found.Items), want)
			}
			return err
		}}
	}
	listPods := func(what string, json bool) step {
		return step{name: what, n: 50, turns: listTurns, json: json, one: func(ctx context.Context, client kubernetes.Interface, _ int) error {
			found, err := client.CoreV1().Pods(namespace).List(ctx, all)
			if err == nil && len(found.Items) != pods {
				err = fmt.Errorf("listed %d pods, want %d", len(found.Items), pods)
			}
			return err
		}}
	}
	force := true
	return []step{
		{name: "create config maps", n: configMaps, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
			_, err := client.CoreV1().ConfigMaps(namespace).Create(ctx, configMap(i), metav1.CreateOptions{})
			return err
		}},
		{name: "create pods", n: pods, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
			_, err := client.CoreV1().Pods(namespace).Create(ctx, pod(i), metav1.CreateOptions{})
			return err
		}},
		{name: "get config maps", n: configMaps, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
			_, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, name(i), metav1.GetOptions{})
			return err
		}},
		{name: "update config maps", n: configMaps / 4, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
			changed := configMap(i)
			changed.Data["w"] = "1"
			_, err := client.CoreV1().ConfigMaps(namespace).Update(ctx, changed, metav1.UpdateOptions{})
			return err
		}},
		patch("merge patch config maps", configMaps/4, types.MergePatchType, func(int) string { return `{"data":{"x":"1"}}` }, metav1.PatchOptions{}, false),
		patch("apply config maps", configMaps/4, types.ApplyPatchType, func(i int) string {
			return `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name(i) + `"},"data":{"y":"1"}}`
		}, metav1.PatchOptions{FieldManager: "bench", Force: &force}, false),
		patch("strategic patch pods' status", pods, types.StrategicMergePatchType, func(int) string {
			return `{"status":{"phase":"Running","podIP":"10.244.0.9","podIPs":[{"ip":"10.244.0.9"}],"conditions":[{"type":"Ready","status":"True"}]}}`
		}, metav1.PatchOptions{}, true),
		listPods("list 1,000 pods", false),
		listPods("list 1,000 pods, JSON", true),
		list("list 10,000 config maps", 16, configMaps, false, all),
		list("list 10,000 config maps, JSON", 16, configMaps, true, all),
		list("list a tenth by label", 80, configMaps/10, false, metav1.ListOptions{LabelSelector: "tenth=3"}),
		list("list the first 500", 160, 500, false, metav1.ListOptions{Limit: 500}),
		{name: "watch, 100 watchers", n: watchers * watched, all: l.watch},
		{name: "delete config maps", n: configMaps / 4, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
			return client.CoreV1().ConfigMaps(namespace).Delete(ctx, name(i), metav1.DeleteOptions{})
		}},
	}
}

// watch opens all watches, creates secrets, and waits until every watcher has
// seen each.
func (l *load) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	failed := make(chan error, watchers)
	var open, seen sync.WaitGroup
	open.Add(watchers)
	for i := range watchers {
		secrets, opened := l.protobuf[i%workers].CoreV1().Secrets(namespace), sync.OnceFunc(open.Done)
		seen.Go(func() {
			// A server may close a watch that does not keep up: then the client
			// goes on from where it was, as informers do.
			for count, version := 0, ""; count < watched; {
				watch, err := secrets.Watch(ctx, metav1.ListOptions{ResourceVersion: version})
				opened()
				if err != nil {
					failed <- err
					return
				}
				for event := range watch.ResultChan() {
					secret, ok := event.Object.(*corev1.Secret)
					if !ok {
						break
					}
					version = secret.ResourceVersion
					if count++; count == watched {
						break
					}
				}
				watch.Stop()
			}
		})
	}
	open.Wait()
	_, err := l.repeat(ctx, step{n: watched, one: func(ctx context.Context, client kubernetes.Interface, i int) error {
		_, err := client.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name(i)}, StringData: map[string]string{"v": strings.Repeat("v", valueSize)},
		}, metav1.CreateOptions{})
		return err
	}})
	if err != nil {
		return err
	}
	seen.Wait()
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// profile takes a CPU profile of the server for as long as a step lasts, at
// most: stop waits for it and writes file.
func (l *load) profile(ctx context.Context, file string) (stop func() error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	content := make(chan []byte, 1)
	var failed error
	go func() {
		var data []byte
		data, failed = l.json[0].CoreV1().RESTClient().Get().AbsPath("/debug/pprof/profile").Param("seconds", "5").DoRaw(ctx)
		content <- data
	}()
	return func() error {
		defer cancel()
		data := <-content
		if failed != nil {
			return failed
		}
		return os.WriteFile(file, data, 0o644)
	}
}
