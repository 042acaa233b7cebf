package policy

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// peers is what is watched while a policy selects a pod of this node: the
// whole cluster's pods and namespaces, as little of each as policies ask for.
type peers struct {
	stop       context.CancelFunc
	factory    informers.SharedInformerFactory
	pods       listers.PodLister
	namespaces listers.NamespaceLister
	synced     []cache.InformerSynced
}

// watchPeers starts watching, and calls wake on every change that may matter.
func watchPeers(ctx context.Context, client kubernetes.Interface, wake func()) (*peers, error) {
	ctx, stop := context.WithCancel(ctx)
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(slim))
	pods, namespaces := factory.Core().V1().Pods(), factory.Core().V1().Namespaces()
	p := &peers{stop: stop, factory: factory, pods: pods.Lister(), namespaces: namespaces.Lister()}
	for _, informer := range []cache.SharedIndexInformer{pods.Informer(), namespaces.Informer()} {
		registration, err := informer.AddEventHandler(waker(wake))
		if err != nil {
			stop()
			return nil, fmt.Errorf("watch pods and namespaces: %w", err)
		}
		p.synced = append(p.synced, registration.HasSynced)
	}
	factory.Start(ctx.Done())
	return p, nil
}

// close stops watching and waits for that.
func (p *peers) close() {
	p.stop()
	p.factory.Shutdown()
}

// waker wakes on changes of what slim keeps.
func waker(wake func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { wake() },
		UpdateFunc: func(old, new any) {
			if differs(old, new) {
				wake()
			}
		},
		DeleteFunc: func(any) { wake() },
	}
}

// differs tells whether an update matters to policies; most are of status.
func differs(old, new any) bool {
	switch before := old.(type) {
	case *corev1.Pod:
		after, ok := new.(*corev1.Pod)
		return !ok || !equality.Semantic.DeepEqual(slimPod(before), slimPod(after))
	case *corev1.Namespace:
		after, ok := new.(*corev1.Namespace)
		return !ok || !labels.Equals(before.Labels, after.Labels)
	case *networkingv1.NetworkPolicy:
		after, ok := new.(*networkingv1.NetworkPolicy)
		return !ok || !equality.Semantic.DeepEqual(before.Spec, after.Spec)
	}
	return true
}

// slim keeps of an object what policies ask for.
func slim(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Pod:
		pod := slimPod(o)
		pod.ResourceVersion = o.ResourceVersion
		return pod, nil
	case *corev1.Namespace:
		return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: o.Name, UID: o.UID, ResourceVersion: o.ResourceVersion, Labels: o.Labels}}, nil
	case *networkingv1.NetworkPolicy:
		o.ManagedFields = nil
	}
	return object, nil
}

func slimPod(o *corev1.Pod) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: o.Name, Namespace: o.Namespace, UID: o.UID, Labels: o.Labels},
		Spec:       corev1.PodSpec{NodeName: o.Spec.NodeName, HostNetwork: o.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: o.Status.Phase, PodIP: o.Status.PodIP, PodIPs: o.Status.PodIPs},
	}
	ports := func(containers []corev1.Container) (kept []corev1.Container) {
		for _, c := range containers {
			if len(c.Ports) > 0 {
				kept = append(kept, corev1.Container{Ports: c.Ports})
			}
		}
		return kept
	}
	pod.Spec.Containers, pod.Spec.InitContainers = ports(o.Spec.Containers), ports(o.Spec.InitContainers)
	return pod
}
