package pods

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// annotationHash tells one version of a static pod from the next.
const annotationHash = "kubernetes.io/config.hash"

func isStatic(pod *v1.Pod) bool { return pod.Annotations[annotationSource] == "file" && !isMirror(pod) }

// isMirror says that a pod of the API only shows a static one.
func isMirror(pod *v1.Pod) bool { _, ok := pod.Annotations[v1.MirrorPodAnnotationKey]; return ok }

func mirrors(mirror, static *v1.Pod) bool {
	return mirror.Annotations[v1.MirrorPodAnnotationKey] == static.Annotations[annotationHash]
}

func fullName(pod *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// SetStatic makes the static pods of this host those given, and no others.
func (a *Agent) SetStatic(pods []*v1.Pod) {
	var leaving []*worker // told below: a worker may be waiting for a.mu
	a.mu.Lock()
	a.statics = map[types.NamespacedName]*v1.Pod{}
	for _, pod := range pods {
		a.statics[fullName(pod)] = pod
	}
	for _, w := range a.workers {
		if w.static && (a.statics[w.name] == nil || a.statics[w.name].UID != w.uid) {
			leaving = append(leaving, w)
		}
	}
	for name := range a.statics {
		a.hireStatic(name)
	}
	a.mu.Unlock()
	for _, w := range leaving {
		w.leave()
	}
}

// hireStatic starts the static pod of that name, once nothing is left of the
// one that it follows. a.mu is held.
func (a *Agent) hireStatic(name types.NamespacedName) {
	pod := a.statics[name]
	if pod == nil || a.ctx == nil || a.ctx.Err() != nil {
		return
	}
	for _, w := range a.workers {
		if w.static && w.name == name {
			return
		}
	}
	a.hire(pod, false)
}

// staticWorker is the worker of the static pod that mirror shows. a.mu is held.
func (a *Agent) staticWorker(mirror *v1.Pod) *worker {
	for _, w := range a.workers {
		if w.static && w.name == fullName(mirror) {
			return w
		}
	}
	return nil
}

// followStatic starts following the static pods, and returns once it knows
// them: what is on the host of others will be taken away.
func (a *Agent) followStatic(ctx context.Context) {
	if a.Static == nil {
		return
	}
	known := make(chan struct{})
	var once sync.Once
	a.wg.Go(func() {
		a.Static.Watch(ctx, func(pods []*v1.Pod) {
			a.SetStatic(pods)
			once.Do(func() { close(known) })
		})
	})
	select {
	case <-known:
	case <-ctx.Done():
	}
}

// left is called when nothing is left of a worker's pod: a static one makes
// room for its successor, and its mirror goes if it has none. a.mu is held.
func (a *Agent) left(w *worker) {
	if !w.static || a.ctx.Err() != nil {
		return
	}
	a.hireStatic(w.name)
	w.mu.Lock()
	mirror := w.mirror
	w.mu.Unlock()
	if mirror != nil && a.statics[w.name] == nil {
		a.wg.Go(func() { a.removeMirror(a.ctx, mirror) })
	}
}

// shown is the pod that a pod of the API shows: itself, or the static one that
// it mirrors, with its status.
func (a *Agent) shown(pod *v1.Pod) *v1.Pod {
	if !isMirror(pod) {
		return pod
	}
	a.mu.Lock()
	w := a.staticWorker(pod)
	a.mu.Unlock()
	if w == nil {
		return pod
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// mirrored takes news of a mirror pod. One that mirrors nothing is removed.
func (a *Agent) mirrored(mirror *v1.Pod, gone bool) {
	a.mu.Lock()
	w := a.staticWorker(mirror)
	wanted := a.statics[fullName(mirror)] != nil
	ctx := a.ctx
	a.mu.Unlock()
	switch {
	case w != nil:
		w.mirrored(mirror, gone)
	case !wanted && !gone:
		a.wg.Go(func() { a.removeMirror(ctx, mirror) })
	}
}

// removeMirror removes a mirror pod that shows nothing any more.
func (a *Agent) removeMirror(ctx context.Context, mirror *v1.Pod) {
	for delay := time.Second; ; delay = min(2*delay, time.Minute) {
		err := a.deleteMirror(ctx, mirror)
		if err == nil || ctx.Err() != nil {
			return
		}
		a.Logger.Warn("cannot remove the mirror of a static pod that is gone", "pod", fullName(mirror).String(), "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
	}
}

func (a *Agent) deleteMirror(ctx context.Context, mirror *v1.Pod) error {
	now := int64(0)
	err := a.Client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &mirror.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mirror pod: %w", err)
	}
	return nil
}

// leave takes the worker's pod off the host.
func (w *worker) leave() {
	w.mu.Lock()
	w.gone = true
	w.mu.Unlock()
	w.poke()
}

// mirrored takes a newer version of the mirror of a static pod: its status is
// where the pod's own is kept.
func (w *worker) mirrored(mirror *v1.Pod, gone bool) {
	w.mu.Lock()
	switch {
	case gone:
		if w.mirror != nil && w.mirror.UID == mirror.UID {
			w.mirror = nil
		}
	case w.mirror == nil || w.mirror.UID != mirror.UID || !older(mirror, w.mirror):
		w.mirror = mirror
		if mirrors(mirror, w.pod) && !w.outdated(mirror) {
			pod := w.pod.DeepCopy()
			pod.Status = *mirror.Status.DeepCopy()
			w.pod = pod
		}
	}
	w.mu.Unlock()
	w.poke()
}

// outdated says that the mirror tells of an end that the pod has left behind:
// it was ended with its host, and runs again. w.mu is held.
func (w *worker) outdated(mirror *v1.Pod) bool { return finished(mirror.Status.Phase) && w.end == nil }

// reportStatic shows a static pod to the API: a mirror that is not its own, or
// that somebody deletes, is replaced. w.mu is held.
func (w *worker) reportStatic(ctx context.Context, status v1.PodStatus, told bool) {
	if w.mirror == nil || w.mirror.DeletionTimestamp != nil || !mirrors(w.mirror, w.pod) || w.outdated(w.mirror) {
		if !told {
			pod := w.pod.DeepCopy()
			pod.Status = status
			w.pod = pod // kept until there is a mirror to tell it to
		}
		if node := w.agent.Config.Node(); node != nil && node.UID != "" {
			mirror, pod := w.mirror, w.pod
			w.background(ctx, "mirror", func(ctx context.Context) error { return w.replaceMirror(ctx, node, mirror, pod) })
		}
		return
	}
	if mirror := w.mirror; !told {
		w.background(ctx, statusKey, func(ctx context.Context) error { return w.patchStatus(ctx, mirror, status) })
	}
}

func (w *worker) replaceMirror(ctx context.Context, node *v1.Node, old, pod *v1.Pod) error {
	if old != nil {
		if err := w.agent.deleteMirror(ctx, old); err != nil {
			return err
		}
		w.mirrored(old, true)
	}
	mirror := &v1.Pod{ObjectMeta: *pod.ObjectMeta.DeepCopy(), Spec: *pod.Spec.DeepCopy()}
	mirror.UID, mirror.ResourceVersion = "", ""
	mirror.Annotations = maps.Clone(pod.Annotations)
	mirror.Annotations[v1.MirrorPodAnnotationKey] = pod.Annotations[annotationHash]
	controller := true
	mirror.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &controller}}
	made, err := w.agent.Client.CoreV1().Pods(mirror.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create mirror pod: %w", err)
	}
	made.ManagedFields = nil
	w.mirrored(made, false)
	return nil
}
