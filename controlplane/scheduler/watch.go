package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// watch starts the informers, and returns once queue and picture hold what is
// there.
func (s *scheduler) watch(ctx context.Context) error {
	slim := informers.WithTransform(func(obj any) (any, error) {
		if o, ok := obj.(metav1.Object); ok {
			o.SetManagedFields(nil)
		}
		return obj, nil
	})
	others := informers.NewSharedInformerFactoryWithOptions(s.client, 0, slim)
	// Finished pods take no room: they are not even sent.
	pods := informers.NewSharedInformerFactoryWithOptions(s.client, 0, slim, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.AndSelectors(
			fields.OneTermNotEqualSelector("status.phase", string(v1.PodSucceeded)),
			fields.OneTermNotEqualSelector("status.phase", string(v1.PodFailed))).String()
	}))
	var synced []cache.InformerSynced
	for _, w := range []struct {
		what     string
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{"nodes", others.Core().V1().Nodes().Informer(), handler(s.nodeChanged, s.nodeGone)},
		{"namespaces", others.Core().V1().Namespaces().Informer(), handler(s.namespaceChanged, s.namespaceGone)},
		{"services", others.Core().V1().Services().Informer(), handler(s.serviceChanged, s.serviceGone)},
		{"disruption budgets", others.Policy().V1().PodDisruptionBudgets().Informer(), handler(s.budgetChanged, s.budgetGone)},
		{"claims", others.Core().V1().PersistentVolumeClaims().Informer(), handler(s.claimChanged, noting(s, (*picture.Storage).RemoveClaim))},
		{"volumes", others.Core().V1().PersistentVolumes().Informer(), handler(s.volumeChanged, noting(s, (*picture.Storage).RemoveVolume))},
		{"storage classes", others.Storage().V1().StorageClasses().Informer(), handler(s.classChanged, noting(s, (*picture.Storage).RemoveClass))},
		{"CSI nodes", others.Storage().V1().CSINodes().Informer(), handler(s.csiNodeChanged, noting(s, (*picture.Storage).RemoveCSINode))},
		{"CSI drivers", others.Storage().V1().CSIDrivers().Informer(), handler(s.driverChanged, noting(s, (*picture.Storage).RemoveDriver))},
		{"storage capacities", others.Storage().V1().CSIStorageCapacities().Informer(), handler(s.capacityChanged, noting(s, (*picture.Storage).RemoveCapacity))},
		{"volume attachments", others.Storage().V1().VolumeAttachments().Informer(), handler(s.attachmentChanged, s.attachmentGone)},
		{"device claims", others.Resource().V1().ResourceClaims().Informer(), handler(s.deviceClaimChanged, s.deviceClaimGone)},
		{"resource slices", others.Resource().V1().ResourceSlices().Informer(), handler(s.sliceChanged, devices(s, (*picture.Devices).RemoveSlice))},
		{"device classes", others.Resource().V1().DeviceClasses().Informer(), handler(s.deviceClassChanged, devices(s, (*picture.Devices).RemoveClass))},
		{"pods", pods.Core().V1().Pods().Informer(), handler(s.podChanged, s.podGone)},
	} {
		registration, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return fmt.Errorf("watch %s: %w", w.what, err)
		}
		synced = append(synced, registration.HasSynced)
	}
	others.Start(ctx.Done())
	pods.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return errors.Join(errors.New("scheduler stopped before its caches were filled"), ctx.Err())
	}
	return nil
}

// handler calls changed for what comes (old is nil then) or changes.
func handler[T any](changed func(old, object *T), gone func(*T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { changed(nil, object.(*T)) },
		UpdateFunc: func(old, object any) { changed(old.(*T), object.(*T)) },
		DeleteFunc: func(object any) {
			// The final state may have been missed.
			if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
				object = unknown.Obj
			}
			if o, ok := object.(*T); ok {
				gone(o)
			}
		},
	}
}

func (s *scheduler) nodeChanged(old, node *v1.Node) {
	s.mu.Lock()
	s.picture.SetNode(node)
	s.mu.Unlock()
	var kinds framework.EventKind
	if old == nil {
		kinds = framework.NodeAdded
	} else {
		if !equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
			kinds |= framework.NodeAllocatableChanged
		}
		if !maps.Equal(old.Labels, node.Labels) {
			kinds |= framework.NodeLabelsChanged
		}
		if old.Spec.Unschedulable != node.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
			kinds |= framework.NodeTaintsChanged
		}
		if !slices.Equal(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures) {
			kinds |= framework.NodeFeaturesChanged
		}
	}
	if kinds != 0 {
		s.queue.Notify(framework.Event{Kind: kinds, Node: node, ClassOf: s.picture.Devices().ClassOf})
	}
}

func (s *scheduler) nodeGone(node *v1.Node) {
	s.mu.Lock()
	s.picture.RemoveNode(node.Name)
	s.mu.Unlock()
	// It may have been the emptiest domain of a spread.
	s.queue.Notify(framework.Event{Kind: framework.NodeLabelsChanged})
}

func (s *scheduler) podChanged(old, pod *v1.Pod) {
	if old != nil && old.UID != pod.UID {
		s.podGone(old) // and another of its name came, while nobody watched
	}
	if pod.Spec.NodeName == "" {
		s.waits(old, pod)
		return
	}
	s.queue.Delete(pod.UID)
	s.mu.Lock()
	s.picture.Unnominate(pod.UID)
	kinds := s.picture.SetPod(pod)
	s.mu.Unlock()
	var events framework.EventKind
	if kinds.Added {
		events |= framework.PodAdded
	}
	if kinds.Freed {
		events |= framework.PodRemoved
	}
	if kinds.Relabelled {
		// Who was refused for its labels before is helped as well as who waits for
		// those that it has now: it is not said which pod it is.
		s.queue.Notify(framework.Event{Kind: framework.PodAdded})
	}
	if events != 0 {
		s.queue.Notify(framework.Event{Kind: events, Pod: pod})
	}
}

// waits takes note of a pod without a node.
func (s *scheduler) waits(old, pod *v1.Pod) {
	switch {
	case s.profiles[pod.Spec.SchedulerName] == nil:
		return
	case pod.DeletionTimestamp != nil:
		s.queue.Delete(pod.UID)
		s.mu.Lock()
		s.picture.Unnominate(pod.UID)
		s.mu.Unlock()
		return
	}
	s.mu.Lock()
	_, assumed := s.picture.HasPod(pod.UID)
	freed := !assumed && s.followNomination(old, pod)
	s.mu.Unlock()
	if freed {
		s.queue.Notify(framework.Event{Kind: framework.PodRemoved})
	}
	if !assumed && !awaitsClaims(pod) {
		s.queue.Add(pod)
	}
}

// followNomination has room kept for a pod where its status says so since this
// change: a scheduler before this one may have written it, or somebody else who
// makes room, as autoscalers do. It tells whether room elsewhere is free now.
// What this scheduler wrote itself comes by here too, and says nothing new. The
// picture is locked.
func (s *scheduler) followNomination(old, pod *v1.Pod) (freed bool) {
	was, node, kept := "", pod.Status.NominatedNodeName, s.picture.NominatedTo(pod.UID)
	if old != nil {
		was = old.Status.NominatedNodeName
	}
	if node == was || node == kept {
		return false
	}
	s.picture.Unnominate(pod.UID)
	if node != "" {
		s.picture.Nominate(picture.NewPod(pod), node)
	}
	return kept != ""
}

func (s *scheduler) podGone(pod *v1.Pod) {
	s.queue.Delete(pod.UID)
	s.mu.Lock()
	node, known := s.picture.HasPod(pod.UID)
	s.picture.RemovePod(pod.UID)
	kept := s.picture.NominatedTo(pod.UID) != ""
	s.picture.Unnominate(pod.UID)
	s.mu.Unlock()
	switch {
	case known && node != "":
		s.queue.Left(pod.UID)
		s.queue.Notify(framework.Event{Kind: framework.PodRemoved, Pod: pod})
	case kept:
		s.queue.Notify(framework.Event{Kind: framework.PodRemoved})
	}
}

func (s *scheduler) namespaceChanged(old, namespace *v1.Namespace) {
	s.mu.Lock()
	s.picture.SetNamespace(namespace.Name, namespace.Labels)
	s.mu.Unlock()
	if old != nil && !maps.Equal(old.Labels, namespace.Labels) {
		s.queue.Notify(framework.Event{Kind: framework.Surroundings})
	}
}

func (s *scheduler) namespaceGone(namespace *v1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture.RemoveNamespace(namespace.Name)
}

func (s *scheduler) serviceChanged(_, service *v1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture.SetService(service.Namespace, service.Name, service.Spec.Selector)
}

func (s *scheduler) serviceGone(service *v1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture.RemoveService(service.Namespace, service.Name)
}

func (s *scheduler) budgetChanged(_, budget *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture.SetBudget(budget)
}

func (s *scheduler) budgetGone(budget *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.picture.RemoveBudget(budget.Namespace, budget.Name)
}
