package statefulset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/history"
	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 5

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

type controller struct {
	env       *reconcile.Environment
	client    kubernetes.Interface
	sets      appslisters.StatefulSetLister
	revisions history.Keeper
	recorder  record.EventRecorder
	loop      *reconcile.Loop
	expected  reconcile.Expectations
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	sets := env.Informers.Apps().V1().StatefulSets()
	revisions := env.Informers.Apps().V1().ControllerRevisions()
	revisions.Informer() // asks for it to be started
	c := &controller{
		env:       env,
		client:    env.Client,
		sets:      sets.Lister(),
		revisions: history.Keeper{Client: env.Client, Lister: revisions.Lister()},
		recorder:  env.Recorder("statefulset-controller"),
	}
	c.loop = reconcile.NewLoop(env, "statefulset", workers, c.reconcile)
	if err := reconcile.Each(env, sets.Informer(), func(set *appsv1.StatefulSet) { c.loop.AddObject(set) }); err != nil {
		return nil, err
	}
	err := reconcile.WatchPods(env, reconcile.Owned{Kind: kind, Expected: &c.expected, Add: c.loop.Add, Orphan: c.orphanChanged})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

// orphanChanged wakes the sets that may adopt pod.
func (c *controller) orphanChanged(pod *corev1.Pod) {
	sets, err := c.sets.StatefulSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list stateful sets for an orphaned pod", "pod", reconcile.Key(pod), "error", err)
		return
	}
	for _, set := range sets {
		if _, ok := ordinalOf(set.Name, pod); ok {
			c.loop.AddObject(set)
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expected.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		c.loop.Logger().Warn("stateful set has a selector that cannot be read", "key", key, "error", err)
		return nil
	}
	met := c.expected.Met(key)
	pods, err := c.pods(ctx, set, selector)
	if err != nil {
		return err
	}
	owner := history.Owner{
		Object: set, Kind: kind, Selector: selector, Template: &set.Spec.Template,
		Collisions: set.Status.CollisionCount, Limit: set.Spec.RevisionHistoryLimit, Fresh: c.fresh(set),
	}
	revisions, err := c.revisions.Resolve(ctx, owner)
	if err != nil {
		return err
	}
	current := revisions.Named(set.Status.CurrentRevision)
	if current == nil {
		current = revisions.Update
	}
	now := time.Now()
	next := decide(set, revisions.Update.Name, pods, now)
	var stepErr error
	if met && set.DeletionTimestamp == nil {
		stepErr = c.step(ctx, key, set, current, revisions.Update, pods, next)
	}
	if err := c.writeStatus(ctx, set, newStatus(set, current.Name, revisions, pods, now)); err != nil {
		return errors.Join(stepErr, err)
	}
	if stepErr != nil {
		return stepErr
	}
	if next.wait > 0 {
		c.loop.AddAfter(key, next.wait)
	}
	used := map[string]bool{current.Name: true}
	for _, pod := range pods {
		used[pod.Labels[appsv1.ControllerRevisionHashLabelKey]] = true
	}
	return c.revisions.Trim(ctx, owner, revisions, func(name string) bool { return used[name] })
}

func (c *controller) fresh(set *appsv1.StatefulSet) func(context.Context) (metav1.Object, error) {
	return func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(set.Namespace).Get(ctx, set.Name, metav1.GetOptions{})
	}
}

// pods returns the pods of set, those adopted now too. Only a pod with a name
// of the set's can be its.
func (c *controller) pods(ctx context.Context, set *appsv1.StatefulSet, selector labels.Selector) ([]*corev1.Pod, error) {
	all, err := c.env.PodsOf(set, true)
	if err != nil {
		return nil, err
	}
	var members []*corev1.Pod
	for _, pod := range all {
		if _, ok := ordinalOf(set.Name, pod); ok {
			members = append(members, pod)
		}
	}
	return reconcile.Claim[*corev1.Pod]{
		Owner: set, Kind: kind, Selector: selector, Fresh: c.fresh(set),
		Patch: func(ctx context.Context, pod *corev1.Pod, patch []byte) error {
			_, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}.Resolve(ctx, members)
}

// step carries a decision out.
func (c *controller) step(ctx context.Context, key string, set *appsv1.StatefulSet, current, update *appsv1.ControllerRevision, pods []*corev1.Pod, d decision) error {
	if err := c.retain(ctx, set, pods, d.condemned); err != nil {
		return err
	}
	for _, pod := range pods {
		if err := c.identify(ctx, set, pod); err != nil {
			return err
		}
	}
	_, err := reconcile.SlowStart(len(d.create), func(i int) error {
		revision := update
		if keepsCurrent(set, d.create[i]) {
			revision = current
		}
		return c.create(ctx, key, set, revision, d.create[i])
	})
	if err != nil {
		return err
	}
	for _, pod := range d.remove {
		if err := c.remove(ctx, key, set, pod); err != nil {
			return err
		}
	}
	return nil
}

// newPod is the pod of one ordinal after the template of a revision.
func newPod(set *appsv1.StatefulSet, revision *appsv1.ControllerRevision, ordinal int) (*corev1.Pod, error) {
	template, err := history.Template(revision)
	if err != nil {
		return nil, err
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:            fmt.Sprintf("%s-%d", set.Name, ordinal),
			Namespace:       set.Namespace,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)},
		},
		Spec: template.Spec,
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = revision.Name
	pod.Spec.Hostname = pod.Name
	pod.Spec.Subdomain = set.Spec.ServiceName
	mount(set, pod)
	return pod, nil
}

const failedCreate = "Create Pod %s in StatefulSet %s failed error: %v"

func (c *controller) create(ctx context.Context, key string, set *appsv1.StatefulSet, revision *appsv1.ControllerRevision, ordinal int) error {
	pod, err := newPod(set, revision, ordinal)
	if err != nil {
		return err
	}
	if err := c.ensureClaims(ctx, set, pod); err != nil {
		c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", failedCreate, pod.Name, set.Name, err)
		return err
	}
	c.expected.ExpectCreations(key, 1)
	_, err = c.client.CoreV1().Pods(set.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	switch {
	case err == nil:
		c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Pod %s in StatefulSet %s successful", pod.Name, set.Name)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		c.expected.Created(key)
		return nil
	}
	c.expected.Created(key)
	if !apierrors.IsAlreadyExists(err) {
		c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", failedCreate, pod.Name, set.Name, err)
	}
	return fmt.Errorf("create pod %s: %w", pod.Name, err)
}

func (c *controller) remove(ctx context.Context, key string, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	c.expected.ExpectDeletion(key, pod.UID)
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case err == nil:
		c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "Delete Pod %s in StatefulSet %s successful", pod.Name, set.Name)
		return nil
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		c.expected.Deleted(key, pod.UID)
		return nil
	}
	c.expected.Deleted(key, pod.UID)
	c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "Delete Pod %s in StatefulSet %s failed error: %v", pod.Name, set.Name, err)
	return fmt.Errorf("delete pod %s: %w", pod.Name, err)
}

// identify gives an adopted pod the labels of its ordinal, and a pending one
// the claims that it still lacks.
func (c *controller) identify(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		return nil
	}
	if pod.Status.Phase == corev1.PodPending && pod.Spec.NodeName == "" {
		if err := c.ensureClaims(ctx, set, pod); err != nil {
			return err
		}
	}
	ordinal, _ := ordinalOf(set.Name, pod)
	index := strconv.Itoa(ordinal)
	if pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name && pod.Labels[appsv1.PodIndexLabel] == index {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": map[string]string{
		appsv1.StatefulSetPodNameLabel: pod.Name, appsv1.PodIndexLabel: index}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedUpdate", "Update Pod %s in StatefulSet %s failed error: %v", pod.Name, set.Name, err)
		return fmt.Errorf("label pod %s: %w", pod.Name, err)
	}
	c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulUpdate", "Update Pod %s in StatefulSet %s successful", pod.Name, set.Name)
	return nil
}
