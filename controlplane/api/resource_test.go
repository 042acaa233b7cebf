package api

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestGraceIsDecidedAnew plays a deletion that meets an old object from the cache
// first, and then the one that is stored.
func TestGraceIsDecidedAnew(t *testing.T) {
	deletion := strategy[*corev1.Pod]{d: Definition[*corev1.Pod]{
		GracefulDelete: func(_ context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) bool {
			period := ptr.Deref(options.GracePeriodSeconds, 30)
			if pod.Spec.NodeName == "" {
				period = 0
			}
			options.GracePeriodSeconds = &period
			return true
		},
	}}.deletion().(gracefulStrategy[*corev1.Pod])
	for name, test := range map[string]struct {
		asked *int64
		want  int64
	}{"nothing asked": {nil, 30}, "five seconds asked": {ptr.To[int64](5), 5}} {
		t.Run(name, func(t *testing.T) {
			options := &metav1.DeleteOptions{GracePeriodSeconds: test.asked}
			ctx := withAskedGrace(t.Context(), options)
			for _, step := range []struct {
				node string
				want int64
			}{{"n", test.want}, {"", 0}, {"n", test.want}} {
				pod := &corev1.Pod{Spec: corev1.PodSpec{NodeName: step.node}}
				if !deletion.CheckGracefulDelete(ctx, pod, options) || *options.GracePeriodSeconds != step.want {
					t.Errorf("on node %q: %d s, want %d", step.node, *options.GracePeriodSeconds, step.want)
				}
			}
		})
	}
}
