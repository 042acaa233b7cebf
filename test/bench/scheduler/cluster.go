package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"clusterctl/test/bench/host"
	"clusterctl/test/fixture"
)

// workers is how many connections the pods are made over at once.
const workers = 16

// bench is one size of cluster: its etcd, its API server and controllers, its nodes.
type bench struct {
	nodes, pods  int
	controlplane string // our program
	host         *host.Host
	etcd         *host.Process
	servers      []*host.Process        // the API server, then what else serves the cluster
	clients      []kubernetes.Interface // of an administrator, a connection each
	rest         func()                 // ends the nodes' heartbeats
}

// newBench starts etcd and an API server below dir, and makes the nodes.
func newBench(ctx context.Context, dir, controlplane string, nodes, pods int) (b *bench, err error) {
	b = &bench{nodes: nodes, pods: pods, controlplane: controlplane}
	defer func() {
		if err != nil {
			b.stop()
		}
	}()
	if b.host, err = host.New(dir); err != nil {
		return nil, err
	}
	b.host.Config.Cluster.PodCIDR = "100.64.0.0/10"
	if b.etcd, err = b.host.Start(b.host.Etcd(controlplane)); err != nil {
		return nil, err
	}
	if err := b.start(ctx, "apiserver"); err != nil {
		return nil, err
	}
	config, err := fixture.Certificate(b.host.Keys, b.host.Ports[0], "admin", "system:masters")
	if err != nil {
		return nil, err
	}
	for range workers {
		own := rest.CopyConfig(config)
		own.Dial = (&net.Dialer{}).DialContext // transports are shared by equal configurations
		// The watch that tells what was decided is to cost the server as little as others.
		own.ContentType, own.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf
		client, err := kubernetes.NewForConfig(own)
		if err != nil {
			return nil, fmt.Errorf("make client: %w", err)
		}
		b.clients = append(b.clients, client)
	}
	return b, b.prepare(ctx)
}

// warm is how long a control plane is left alone after its start: controllers fill
// their caches, and the server collects garbage as it does when it starts.
const warm = 35 * time.Second

// serve starts the control plane anew, as one contestant needs it, and has it warm.
func (b *bench) serve(ctx context.Context, one contestant) error {
	b.halt()
	if one.command == nil {
		if err := b.start(ctx, "run"); err != nil {
			return err
		}
	} else {
		if err := b.start(ctx, "apiserver"); err != nil {
			return err
		}
		kubeconfig, err := b.kubeconfig("controllers", user.KubeControllerManager)
		if err != nil {
			return err
		}
		command, err := b.host.Configured(b.controlplane, "controllers", b.host.Config)
		if err == nil {
			command.Args = append(command.Args, "--kubeconfig", kubeconfig)
		}
		controllers, err := b.host.Start(command, err)
		if err != nil {
			return err
		}
		b.servers = append(b.servers, controllers)
	}
	beating, stop := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		b.beat(beating)
	}()
	b.rest = func() {
		stop()
		<-stopped
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(warm):
		return nil
	}
}

// start has command of our program be the API server.
func (b *bench) start(ctx context.Context, command string) error {
	process, err := b.host.Start(b.host.Configured(b.controlplane, command, b.host.Config))
	if err != nil {
		return err
	}
	b.servers = append(b.servers, process)
	if err := b.host.AwaitReady(ctx, process); err != nil {
		return explain(err, process)
	}
	return nil
}

// halt ends the control plane but for etcd.
func (b *bench) halt() {
	if b.rest != nil {
		b.rest()
		b.rest = nil
	}
	for _, process := range slices.Backward(b.servers) {
		process.Stop()
	}
	b.servers = nil
}

// explain adds the end of a process's log to err.
func explain(err error, process *host.Process) error {
	log, readErr := os.ReadFile(process.Log)
	if readErr != nil {
		return err
	}
	return fmt.Errorf("%w; the end of its log:\n%s", err, log[max(0, len(log)-4000):])
}

func (b *bench) stop() {
	b.halt()
	if b.etcd != nil {
		b.etcd.Stop()
	}
}

func (b *bench) prepare(ctx context.Context) error {
	client := b.clients[0]
	for _, name := range []string{namespace, fillers} {
		if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
		// What a controller would make, without which no pod is admitted.
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		if _, err := client.CoreV1().ServiceAccounts(name).Create(ctx, account, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create service account: %w", err)
		}
	}
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: important}, Value: 1000}
	if _, err := client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create priority class: %w", err)
	}
	return b.each(ctx, b.nodes, func(ctx context.Context, client kubernetes.Interface, i int) error {
		node, err := client.CoreV1().Nodes().Create(ctx, newNode(i), metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // this is another try
			node, err = client.CoreV1().Nodes().Get(ctx, nodeName(i), metav1.GetOptions{})
		}
		if err != nil {
			return fmt.Errorf("create node: %w", err)
		}
		// New nodes are tainted until a controller has seen that they are ready.
		node.Spec.Taints = nil
		if _, err := client.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update node: %w", err)
		}
		return nil
	})
}

// heartbeat is how often a node renews its lease: less often than an agent does,
// and often enough for the controllers.
const heartbeat = 30 * time.Second

// beat renews the nodes' leases until ctx ends, evenly spread over the time. The
// controllers would take the nodes for dead otherwise.
// A renewal that fails is made good by the next.
func (b *bench) beat(ctx context.Context) {
	var group sync.WaitGroup
	for worker, client := range b.clients[:min(workers, b.nodes)] {
		group.Go(func() {
			leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
			ticker := time.NewTicker(heartbeat * workers / time.Duration(b.nodes))
			defer ticker.Stop()
			for i := worker; ; i += workers {
				if i >= b.nodes {
					i = worker
				}
				now, name := metav1.NowMicro(), nodeName(i)
				patch := fmt.Appendf(nil, `{"spec":{"renewTime":%q}}`, now.UTC().Format(metav1.RFC3339Micro))
				if _, err := leases.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); apierrors.IsNotFound(err) {
					lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: coordinationv1.LeaseSpec{HolderIdentity: &name, RenewTime: &now}}
					_, _ = leases.Create(ctx, lease, metav1.CreateOptions{})
				}
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
				}
			}
		})
	}
	group.Wait()
}

// tries is how often a call is made that servers were too busy for.
const tries = 5

// patiently makes a call anew, a little later each time, where etcd or the API
// server did not get round to it.
func patiently(ctx context.Context, call func() error) (err error) {
	for try := range tries {
		if err = call(); !apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err) && !apierrors.IsTooManyRequests(err) && !apierrors.IsInternalError(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second << try):
		}
	}
	return err
}

// each has the workers share n calls of one. The first error ends it.
func (b *bench) each(ctx context.Context, n int, one func(ctx context.Context, client kubernetes.Interface, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for _, client := range b.clients {
		group.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := patiently(ctx, func() error { return one(ctx, client, i) }); err != nil {
					cancel(err)
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}

// create makes the workload's pods, and tells when each was begun.
func (b *bench) create(ctx context.Context, w workload) ([]time.Time, error) {
	begun := make([]time.Time, b.pods)
	return begun, b.each(ctx, b.pods, func(ctx context.Context, client kubernetes.Interface, i int) error {
		if begun[i].IsZero() {
			begun[i] = time.Now()
		}
		if _, err := client.CoreV1().Pods(namespace).Create(ctx, w.pod(b, i), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create pod: %w", err)
		}
		return nil
	})
}

// clear deletes the workload's pods, and fills the nodes again where they are to
// be filled.
func (b *bench) clear(ctx context.Context, w workload) error {
	err := b.each(ctx, b.pods, func(ctx context.Context, client kubernetes.Interface, i int) error {
		if err := client.CoreV1().Pods(namespace).Delete(ctx, podName(i), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete pod: %w", err)
		}
		return nil
	})
	if err != nil || !w.filled {
		return err
	}
	return b.fill(ctx)
}

// fill makes those of the fillers that are missing.
func (b *bench) fill(ctx context.Context) error {
	there, err := b.clients[0].CoreV1().Pods(fillers).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list fillers: %w", err)
	}
	known := map[string]bool{}
	for i := range there.Items {
		known[there.Items[i].Name] = true
	}
	return b.each(ctx, b.nodes*b.fillersPerNode(), func(ctx context.Context, client kubernetes.Interface, i int) error {
		if known[podName(i)] {
			return nil
		}
		if _, err := client.CoreV1().Pods(fillers).Create(ctx, b.filler(i), metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create filler: %w", err)
		}
		return nil
	})
}

// empty removes the fillers.
func (b *bench) empty(ctx context.Context) error {
	return b.each(ctx, b.nodes*b.fillersPerNode(), func(ctx context.Context, client kubernetes.Interface, i int) error {
		if err := client.CoreV1().Pods(fillers).Delete(ctx, podName(i), metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete filler: %w", err)
		}
		return nil
	})
}

var errSlow = errors.New("not every pod was decided in time")
