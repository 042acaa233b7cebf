package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers"
	"clusterctl/controlplane/scheduler"
	"clusterctl/hostconfig"
)

// crashes is a control plane whose controllers and scheduler die at random
// moments, workloads that change meanwhile, and nodes that run their pods.
type crashes struct {
	*Cluster
	t         *testing.T
	namespace string
	unkind    bool
	random    *rand.Rand // of the test's own goroutine
	jobs      atomic.Int64
	crons     int
	acts      []int       // what to do next
	failing   atomic.Bool // pods of jobs fail now and then
}

// What the workloads are allowed; the judge goes by it.
const (
	guardedReplicas, guardedAvailable = 3, 2
	scaledLeast, scaledMost           = 2, 5 // by the autoscaler
	jobCompletions, jobParallelism    = 5, 3
)

// TestCrashes kills controllers and scheduler again and again, and has the
// history of the API judged: see judge. CLUSTERCTL_CRASHES says for how long
// ("5m"), CLUSTERCTL_SEED repeats a run's choices. With the former the test is
// also unkind: what watches tell arrives late, objects are touched all the time,
// leaders die right after a creation, and pods are evicted while nobody leads.
//
// So it was seen to catch, in one or two runs each, a job controller that forgets
// what it has created, that works with an old status, that takes finalizers off
// before it has written the count, that does not count pods that have just
// succeeded, that forgets which indexes are done, or that makes one pod too many; a
// stateful set controller that forgets what it has created and does not fix its
// pods' names, that deletes by force, or that knows no order; any controller that takes a pod on
// a node for ready; a deployment
// controller that allows one pod more than maxSurge, or one less than
// maxUnavailable; a budget that allows one disruption too many, and evictions that
// are not taken off their budget. A stateful set controller that only forgets what
// it has created makes no second pod of an ordinal: the name stands in its way.
func TestCrashes(t *testing.T) {
	long, seed := 15*time.Second, rand.Uint64()
	text, unkind := os.LookupEnv("CLUSTERCTL_CRASHES")
	if unkind {
		long = must(time.ParseDuration(text))(t)
	}
	if text := os.Getenv("CLUSTERCTL_SEED"); text != "" {
		seed = must(strconv.ParseUint(text, 10, 64))(t)
	}
	t.Logf("CLUSTERCTL_SEED=%d", seed)
	c := &crashes{Cluster: Start(t), t: t, unkind: unkind, random: rand.New(rand.NewPCG(seed, 0))}
	stop := c.run()
	c.namespace = freshNamespace(t, c.Client, "crashes")
	c.playNodes("crash-a", "crash-b", "crash-c")
	list := must(c.Client.CoreV1().Pods(c.namespace).List(t.Context(), metav1.ListOptions{}))(t)
	history, healthy := c.record(list.ResourceVersion), math.MaxInt
	// Once everything is as asked, or cannot come to be.
	report := sync.OnceFunc(func() {
		events := history.events(t)
		faults := judge(events, healthy)
		for _, fault := range faults {
			t.Error(fault)
		}
		if len(faults) > 0 {
			t.Log(account(events))
		}
	})
	defer report()
	c.createWorkloads()
	rest := func() {}
	if unkind {
		rest = c.nudge()
	}
	defer rest()
	eventually(t, "the first pods to be ready", c.settled)
	healthy = len(history.events(t))

	// Who waits for all to be done must not wait for one job to back off again and
	// again.
	c.failing.Store(true)
	// A slow machine takes longer until each kind of change came twice.
	least := 2 * c.kinds()
	lives, acts := 0, 0
	for end := time.Now().Add(long); time.Now().Before(end) || acts < least; lives++ {
		for life := time.Now().Add(time.Duration(300+c.random.IntN(1700)) * time.Millisecond); time.Now().Before(life); {
			c.act()
			acts++
			time.Sleep(time.Duration(c.random.IntN(150)) * time.Millisecond)
		}
		if unkind && lives%2 == 0 {
			// Its creator has just learnt of it, or dies before.
			history.awaitCreation()
		}
		stop()
		// The next leader starts two seconds after the last sign of the former:
		// requests of that are through.
		time.Sleep(time.Duration(300+c.random.IntN(300)) * time.Millisecond)
		if unkind && lives%2 == 1 {
			// Nobody counts anew what may be evicted.
			c.evict(t.Context(), func(*corev1.Pod) bool { return true })
		}
		stop = c.run()
	}
	c.failing.Store(false)
	c.suspendCrons()
	rest()
	eventually(t, "everything to be as asked", c.settled)
	events := history.events(t)
	t.Logf("%d lives, %d changes by the test, %d of pods and their makers, %d jobs, %d cron jobs", lives, acts, len(events), c.jobs.Load(), c.crons)
	if lives < 2 || len(events) < 20 {
		t.Error("too little happened to judge by")
	}
	report()
	for _, fault := range c.orphans() {
		t.Error(fault)
	}
	background := metav1.DeletePropagationBackground
	if err := c.Client.CoreV1().Namespaces().Delete(context.Background(), c.namespace, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Error(err)
	}
	eventually(t, "the pods to be gone with their namespace", func(ctx context.Context) (bool, error) {
		list, err := c.Client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
	stop()
}

// run starts controllers and a scheduler that know nothing; stop is their death.
// Those of an unkind test learn late of pods, of jobs, or of budgets, and so might
// act before they see what was done.
func (c *crashes) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	logger := slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	var parts sync.WaitGroup
	end := func(what string, err error) {
		if err != nil && ctx.Err() == nil {
			c.t.Errorf("%s ended: %v", what, err)
		}
	}
	config := c.Server.ClientConfig(user.KubeControllerManager)
	if c.unkind {
		late := []string{"/api/v1/pods", "/apis/batch/v1/jobs", "/apis/policy/v1/poddisruptionbudgets"}[c.random.IntN(3)]
		lags := map[string]time.Duration{late: time.Duration(1+c.random.IntN(3)) * 100 * time.Millisecond}
		config.Wrap(func(next http.RoundTripper) http.RoundTripper { return lateWatches{next, lags} })
	}
	parts.Go(func() {
		end("controllers", controllers.Run(ctx, controllers.Config{
			REST: config, Cluster: c.Config.Cluster, PKI: hostconfig.PKI(c.Config.PKIDir), Logger: logger,
		}))
	})
	parts.Go(func() {
		end("scheduler", scheduler.Run(ctx, scheduler.Config{Client: clients(c.t, c.Server.ClientConfig(user.KubeScheduler)), Logger: logger}))
	})
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); parts.Wait() }) }
	c.t.Cleanup(stop)
	return stop
}

func crashTemplate(app, version string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}, Annotations: map[string]string{"version": version}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.org/c:1"}}},
	}
}

func selects(app string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
}

func (c *crashes) deployment(name string, replicas, surge, unavailable int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: selects(name), Template: crashTemplate(name, "0"),
			Strategy: appsv1.DeploymentStrategy{RollingUpdate: &appsv1.RollingUpdateDeployment{
				MaxSurge: ptr.To(intstr.FromInt32(surge)), MaxUnavailable: ptr.To(intstr.FromInt32(unavailable)),
			}},
		},
	}
}

// createCron makes a CronJob that is due: it last ran minutes ago.
func (c *crashes) createCron() {
	crons, ctx := c.Client.BatchV1().CronJobs(c.namespace), c.t.Context()
	cron, err := crons.Create(ctx, &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("cron-", c.crons)},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", SuccessfulJobsHistoryLimit: ptr.To[int32](100),
			JobTemplate: batchv1.JobTemplateSpec{Spec: crashJob(batchv1.IndexedCompletion)},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return
	}
	c.crons++
	last, _ := json.Marshal(map[string]any{"status": map[string]any{"lastScheduleTime": metav1.NewTime(cron.CreationTimestamp.Add(-3 * time.Minute))}})
	must(crons.Patch(ctx, cron.Name, types.MergePatchType, last, metav1.PatchOptions{}, "status"))(c.t)
}

func (c *crashes) suspendCrons() {
	for i := range c.crons {
		must(c.Client.BatchV1().CronJobs(c.namespace).Patch(c.t.Context(), fmt.Sprint("cron-", i), types.MergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{}))(c.t)
	}
}

func (c *crashes) createWorkloads() {
	t, apps, ctx := c.t, c.Client.AppsV1(), c.t.Context()
	for _, d := range []*appsv1.Deployment{
		c.deployment("web", 4, 1, 1), c.deployment("guarded", guardedReplicas, 1, 1), c.deployment("scaled", 3, 1, 0),
	} {
		must(apps.Deployments(c.namespace).Create(ctx, d, metav1.CreateOptions{}))(t)
	}
	// There are no metrics: it keeps to its bounds.
	must(c.Client.AutoscalingV2().HorizontalPodAutoscalers(c.namespace).Create(ctx, &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "scaled"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "scaled"},
			MinReplicas:    ptr.To[int32](scaledLeast), MaxReplicas: scaledMost,
		},
	}, metav1.CreateOptions{}))(t)
	c.createCron()
	must(c.Client.PolicyV1().PodDisruptionBudgets(c.namespace).Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "guarded"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(guardedAvailable)), Selector: selects("guarded")},
	}, metav1.CreateOptions{}))(t)
	must(apps.StatefulSets(c.namespace).Create(ctx, &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec:       appsv1.StatefulSetSpec{Replicas: ptr.To[int32](2), Selector: selects("db"), Template: crashTemplate("db", "0"), ServiceName: "db"},
	}, metav1.CreateOptions{}))(t)
	must(apps.DaemonSets(c.namespace).Create(ctx, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec:       appsv1.DaemonSetSpec{Selector: selects("agent"), Template: crashTemplate("agent", "0")},
	}, metav1.CreateOptions{}))(t)
}

// nudge touches, until rest is called, what has its controller look at its pods
// again, be they seen or not.
func (c *crashes) nudge() (rest func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ctx.Err() == nil; n++ {
			touch := fmt.Appendf(nil, `{"metadata":{"annotations":{"touched":"%d"}}}`, n)
			_, _ = c.Client.AppsV1().StatefulSets(c.namespace).Patch(ctx, "db", types.MergePatchType, touch, metav1.PatchOptions{})
			_, _ = c.Client.AppsV1().DaemonSets(c.namespace).Patch(ctx, "agent", types.MergePatchType, touch, metav1.PatchOptions{})
			_, _ = c.Client.BatchV1().Jobs(c.namespace).Patch(ctx, fmt.Sprint("job-", c.jobs.Load()-1), types.MergePatchType, touch, metav1.PatchOptions{})
			time.Sleep(100 * time.Millisecond)
		}
	}()
	return sync.OnceFunc(func() { cancel(); <-ended })
}

// kinds is how many things act may do next. An unkind test makes Jobs more often.
func (c *crashes) kinds() int {
	if c.unkind {
		return 11
	}
	return 9
}

// act changes one thing, each as often as any other, in random order. What is refused is done some other time.
func (c *crashes) act() {
	ctx, apps := c.t.Context(), c.Client.AppsV1()
	version := []byte(fmt.Sprintf(`{"spec":{"template":{"metadata":{"annotations":{"version":"%d"}}}}}`, c.random.IntN(1000)))
	options := metav1.PatchOptions{}
	if len(c.acts) == 0 {
		c.acts = c.random.Perm(c.kinds())
	}
	next := c.acts[0]
	c.acts = c.acts[1:]
	switch next {
	case 0:
		_, _ = apps.Deployments(c.namespace).Patch(ctx, "web", types.MergePatchType, version, options)
	case 1:
		_, _ = apps.DaemonSets(c.namespace).Patch(ctx, "agent", types.MergePatchType, version, options)
	case 2:
		if c.random.IntN(2) == 0 {
			version = []byte(fmt.Sprintf(`{"spec":{"replicas":%d,"template":{"metadata":{"annotations":{"version":"%d"}}}}}`, 1+c.random.IntN(4), c.random.IntN(1000)))
		}
		_, _ = apps.StatefulSets(c.namespace).Patch(ctx, "db", types.MergePatchType, version, options)
	case 3, 9, 10:
		number := c.jobs.Load()
		if number >= 40 {
			return
		}
		job, err := c.Client.BatchV1().Jobs(c.namespace).Create(ctx, &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("job-", number)},
			Spec:       crashJob([]batchv1.CompletionMode{batchv1.IndexedCompletion, batchv1.NonIndexedCompletion}[number%2]),
		}, metav1.CreateOptions{})
		if err != nil {
			return
		}
		c.jobs.Add(1)
		_, _ = c.Client.CoreV1().ConfigMaps(c.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Name:            job.Name,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: job.UID}},
		}}, metav1.CreateOptions{})
	case 4:
		if number := c.jobs.Load(); number > 0 && c.random.IntN(3) == 0 {
			policy := []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground}[c.random.IntN(2)]
			_ = c.Client.BatchV1().Jobs(c.namespace).Delete(ctx, fmt.Sprint("job-", c.random.Int64N(number)), metav1.DeleteOptions{PropagationPolicy: &policy})
		}
	case 5:
		c.evict(ctx, func(*corev1.Pod) bool { return true })
	case 6:
		c.drain(ctx)
	case 7:
		if c.random.IntN(2) == 0 {
			version = []byte(fmt.Sprintf(`{"spec":{"replicas":%d}}`, 1+c.random.IntN(scaledMost+3)))
		}
		_, _ = apps.Deployments(c.namespace).Patch(ctx, "scaled", types.MergePatchType, version, options)
	case 8:
		if c.crons < 6 {
			c.createCron()
		}
	}
}

func crashJob(mode batchv1.CompletionMode) batchv1.JobSpec {
	template := crashTemplate("job", "0")
	template.Spec.RestartPolicy = corev1.RestartPolicyNever
	return batchv1.JobSpec{
		Completions: ptr.To[int32](jobCompletions), Parallelism: ptr.To[int32](jobParallelism), BackoffLimit: ptr.To[int32](100),
		CompletionMode: &mode, Template: template,
	}
}

// drain keeps pods off one of the nodes, instead of any other, and evicts those of
// the guarded ones that it has, all at once. What is refused stays.
func (c *crashes) drain(ctx context.Context) {
	nodes, err := c.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil || len(nodes.Items) == 0 {
		return
	}
	drained := nodes.Items[c.random.IntN(len(nodes.Items))].Name
	for _, node := range nodes.Items {
		patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, node.Name == drained)
		_, _ = c.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	}
	c.evict(ctx, func(pod *corev1.Pod) bool { return pod.Spec.NodeName == drained })
}

// evict evicts guarded pods, all at once, and asks again for those that are refused.
func (c *crashes) evict(ctx context.Context, chosen func(*corev1.Pod) bool) {
	pods, err := c.Client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=guarded"})
	if err != nil {
		return
	}
	var evictions sync.WaitGroup
	for _, pod := range pods.Items {
		if chosen(&pod) {
			evictions.Go(func() {
				for range 5 {
					err := c.Client.PolicyV1().Evictions(c.namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Name: pod.Name}})
					if !apierrors.IsTooManyRequests(err) {
						return
					}
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
	}
	evictions.Wait()
}

// playNodes runs the pods of nodes until the test ends: they run after a while and
// are ready after another, those of jobs may fail, and the deleted ones go.
func (c *crashes) playNodes(names ...string) {
	client := c.Client
	for _, name := range names {
		must(client.CoreV1().Nodes().Create(c.t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(c.t)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, beats := make(chan struct{}), make(chan struct{})
	// Apart from the pods, which may take long: who is not heard of loses them.
	go func() {
		defer close(beats)
		for ctx.Err() == nil {
			for _, name := range names {
				beatNode(ctx, client, name)
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Second):
			}
		}
	}()
	random := rand.New(rand.NewPCG(c.random.Uint64(), 1))
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			pods, err := client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{})
			for i := 0; err == nil && i < len(pods.Items); i++ {
				if pod := &pods.Items[i]; pod.Spec.NodeName != "" && random.IntN(4) == 0 {
					c.playPod(ctx, pod, random)
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	c.t.Cleanup(func() {
		cancel()
		<-done
		<-beats
		for _, name := range names {
			if err := client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
				c.t.Error(err)
			}
		}
	})
}

// beatNode says that a node is there; what fails is done again.
func beatNode(ctx context.Context, client kubernetes.Interface, name string) {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return
	}
	now := metav1.Now()
	node.Status.Capacity = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("100"),
	}
	node.Status.Allocatable = node.Status.Capacity
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	_, _ = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
}

// playPod takes a pod one step further; what fails is done again.
func (c *crashes) playPod(ctx context.Context, pod *corev1.Pod, random *rand.Rand) {
	pods := c.Client.CoreV1().Pods(pod.Namespace)
	job := pod.Labels["app"] == "job"
	terminal := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	switch {
	case pod.DeletionTimestamp != nil:
		_ = pods.Delete(ctx, pod.Name, *metav1.NewDeleteOptions(0))
		return
	case terminal || isReady(pod) && !job:
		return
	}
	now := metav1.Now()
	state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}
	ready := corev1.ConditionTrue
	if pod.Status.Phase == corev1.PodRunning && job {
		code := int32(0)
		if c.failing.Load() {
			code = int32(random.IntN(5) / 4)
		}
		pod.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			pod.Status.Phase = corev1.PodFailed
		}
		ready, state = corev1.ConditionFalse, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, StartedAt: now, FinishedAt: now}}
	} else if pod.Status.Phase != corev1.PodRunning {
		pod.Status.Phase = corev1.PodRunning
		if !job {
			ready = corev1.ConditionFalse
		}
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Ready: ready == corev1.ConditionTrue, State: state}}
	var conditions []corev1.PodCondition
	for _, condition := range pod.Status.Conditions {
		if condition.Type != corev1.PodReady {
			conditions = append(conditions, condition)
		}
	}
	pod.Status.Conditions = append(conditions, corev1.PodCondition{Type: corev1.PodReady, Status: ready, LastTransitionTime: now})
	_, _ = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
}

// settled says whether all is as it was asked for.
func (c *crashes) settled(ctx context.Context) (bool, error) {
	deployments, err := c.Client.AppsV1().Deployments(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, d := range deployments.Items {
		if s, want := d.Status, *d.Spec.Replicas; s.ObservedGeneration != d.Generation || s.Replicas != want || s.UpdatedReplicas != want || s.AvailableReplicas != want {
			return false, fmt.Errorf("deployment %s: %+v", d.Name, s)
		}
		if size := *d.Spec.Replicas; d.Name == "scaled" && (size < scaledLeast || size > scaledMost) {
			return false, fmt.Errorf("deployment %s has a size of %d", d.Name, size)
		}
	}
	sets, err := c.Client.AppsV1().StatefulSets(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, d := range sets.Items {
		if s, want := d.Status, *d.Spec.Replicas; s.ObservedGeneration != d.Generation || s.Replicas != want || s.ReadyReplicas != want || s.CurrentRevision != s.UpdateRevision {
			return false, fmt.Errorf("stateful set %s: %+v", d.Name, s)
		}
	}
	daemons, err := c.Client.AppsV1().DaemonSets(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, d := range daemons.Items {
		if s := d.Status; s.ObservedGeneration != d.Generation || s.DesiredNumberScheduled < 3 || s.UpdatedNumberScheduled != s.DesiredNumberScheduled || s.NumberAvailable != s.DesiredNumberScheduled {
			return false, fmt.Errorf("daemon set %s: %+v", d.Name, s)
		}
	}
	jobs, err := c.Client.BatchV1().Jobs(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, j := range jobs.Items {
		if j.DeletionTimestamp != nil || j.Status.Succeeded != jobCompletions || j.Status.CompletionTime == nil {
			return false, fmt.Errorf("job %s: %+v", j.Name, j.Status)
		}
	}
	crons, err := c.Client.BatchV1().CronJobs(c.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, cj := range crons.Items {
		ran := cj.Status.LastScheduleTime != nil && cj.Status.LastScheduleTime.After(cj.CreationTimestamp.Add(-2*time.Minute))
		if !ptr.Deref(cj.Spec.Suspend, false) && !ran || len(cj.Status.Active) > 0 {
			return false, fmt.Errorf("cron job %s: %+v", cj.Name, cj.Status)
		}
	}
	if faults := c.orphans(); len(faults) > 0 {
		return false, fmt.Errorf("orphans: %v", faults)
	}
	return true, nil
}

// orphans are the objects whose owner is no more.
func (c *crashes) orphans() (faults []string) {
	ctx, owners := c.t.Context(), map[types.UID]bool{}
	check := func(o metav1.Object) {
		for _, ref := range o.GetOwnerReferences() {
			if !owners[ref.UID] {
				faults = append(faults, fmt.Sprintf("%s is left, and its %s %s is gone", o.GetName(), ref.Kind, ref.Name))
			}
		}
	}
	note := func(o metav1.Object) { owners[o.GetUID()] = true }
	apps := c.Client.AppsV1()
	deployments := must(apps.Deployments(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range deployments.Items {
		note(&deployments.Items[i])
	}
	replicas := must(apps.ReplicaSets(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range replicas.Items {
		note(&replicas.Items[i])
	}
	sets := must(apps.StatefulSets(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range sets.Items {
		note(&sets.Items[i])
	}
	daemons := must(apps.DaemonSets(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range daemons.Items {
		note(&daemons.Items[i])
	}
	crons := must(c.Client.BatchV1().CronJobs(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range crons.Items {
		note(&crons.Items[i])
	}
	jobs := must(c.Client.BatchV1().Jobs(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range jobs.Items {
		note(&jobs.Items[i])
		check(&jobs.Items[i])
	}
	pods := must(c.Client.CoreV1().Pods(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range pods.Items {
		check(&pods.Items[i])
	}
	maps := must(c.Client.CoreV1().ConfigMaps(c.namespace).List(ctx, metav1.ListOptions{}))(c.t)
	for i := range maps.Items {
		check(&maps.Items[i])
	}
	return faults
}
