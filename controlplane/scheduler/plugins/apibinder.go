package plugins

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// APIBinder binds a pod through its binding subresource.
type APIBinder struct{ Client kubernetes.Interface }

func (APIBinder) Name() string { return "DefaultBinder" }

func (b APIBinder) Bind(ctx context.Context, pod *v1.Pod, node string) error {
	err := b.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("bind to %s: %w", node, err)
	}
	return nil
}
