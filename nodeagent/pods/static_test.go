package pods

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// manifests are static pods that a test changes.
type manifests chan []*v1.Pod

func (m manifests) Watch(ctx context.Context, set func([]*v1.Pod)) {
	for {
		select {
		case pods := <-m:
			set(pods)
		case <-ctx.Done():
			return
		}
	}
}

func staticPod(uid types.UID) *v1.Pod {
	pod := testPod(v1.RestartPolicyAlways)
	pod.UID, pod.Generation = uid, 0
	pod.Annotations = map[string]string{annotationSource: "file", annotationHash: string(uid)}
	pod.Spec.Containers = pod.Spec.Containers[:1]
	pod.Spec.NodeName = "here"
	return pod
}

func TestStaticPodIsMirroredReplacedAndRemoved(t *testing.T) {
	b := newBench(t)
	b.node = sizedNode("1")
	b.node.Name, b.node.UID = "here", "node"
	b.static = make(manifests, 10)
	b.static <- nil
	b.start()
	b.watching()
	b.static <- []*v1.Pod{staticPod("one")}
	mirrorOf := func(uid string) func(*v1.Pod) bool {
		return func(p *v1.Pod) bool {
			return p != nil && p.Annotations[v1.MirrorPodAnnotationKey] == uid && ready(p)
		}
	}
	pod := b.until("shown", mirrorOf("one"))
	if len(pod.OwnerReferences) != 1 || pod.OwnerReferences[0].UID != "node" || !*pod.OwnerReferences[0].Controller {
		t.Errorf("owner: %v", pod.OwnerReferences)
	}
	container := pod.Status.ContainerStatuses[0].ContainerID

	// Deleting the mirror does nothing to the pod.
	if err := b.client.CoreV1().Pods("n").Delete(t.Context(), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pod = b.until("shown again", mirrorOf("one"))
	if got := pod.Status.ContainerStatuses[0].ContainerID; got != container {
		t.Errorf("deleting its mirror restarted the pod: %s, was %s", got, container)
	}

	// A restart of the agent does nothing either.
	b.stop()
	b.static <- []*v1.Pod{staticPod("one")}
	b.start()
	b.watching()
	pod = b.until("shown still", mirrorOf("one"))
	if got := pod.Status.ContainerStatuses[0].ContainerID; got != container {
		t.Errorf("a restart of the agent restarted the pod: %s, was %s", got, container)
	}

	// Another manifest is another pod.
	b.static <- []*v1.Pod{staticPod("two")}
	pod = b.until("replaced", mirrorOf("two"))
	if got := pod.Status.ContainerStatuses[0].ContainerID; got == container {
		t.Error("the old container goes on in the new pod")
	}
	b.static <- nil
	b.until("gone", func(p *v1.Pod) bool { return p == nil })
	deadline := time.Now().Add(time.Minute)
	for {
		b.cri.Lock()
		left := len(b.cri.Sandboxes)
		b.cri.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sandboxes are left", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
	b.stop()
}

func TestMirrorOfNothingIsRemoved(t *testing.T) {
	b := newBench(t)
	b.static = make(manifests, 1)
	b.static <- nil
	pod := staticPod("old")
	pod.Annotations[v1.MirrorPodAnnotationKey] = "old"
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until("gone", func(p *v1.Pod) bool { return p == nil })
	b.stop()
}
