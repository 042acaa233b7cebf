package integration

import (
	"context"
	"net/http"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestMetricsGiveWay puts an operator's metrics-server in the place of the
// built-in one, and takes it away again. Others have no discovery meanwhile.
func TestMetricsGiveWay(t *testing.T) {
	c := Start(t)
	call := admin(t, c)
	const name = "v1beta1.metrics.k8s.io"
	services := c.Dynamic.Resource(apiServices)
	answers := func(code int) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			a, err := call.call(ctx, http.MethodGet, "/apis/metrics.k8s.io/v1beta1/nodes", "", nil, "")
			return err == nil && a.code == code, err
		}
	}
	eventually(t, "metrics of our own", answers(http.StatusOK))
	eventually(t, "the APIService", func(ctx context.Context) (bool, error) {
		_, err := services.Get(ctx, name, metav1.GetOptions{})
		return err == nil, err
	})
	must(services.Patch(t.Context(), name, types.MergePatchType,
		[]byte(`{"spec":{"service":{"namespace":"kube-system","name":"none","port":443},"insecureSkipTLSVerify":true}}`), metav1.PatchOptions{}))(t)
	eventually(t, "metrics to be somebody else's", answers(http.StatusServiceUnavailable))
	// It stays theirs, although nothing answers there.
	time.Sleep(100 * time.Millisecond)
	if got := must(services.Get(t.Context(), name, metav1.GetOptions{}))(t); at(got.Object, "spec", "service", "name") != "none" {
		t.Errorf("the operator's APIService became %v", got.Object["spec"])
	}
	if err := services.Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	eventually(t, "metrics of our own again", answers(http.StatusOK))
	eventually(t, "the local APIService", func(ctx context.Context) (bool, error) {
		got, err := services.Get(ctx, name, metav1.GetOptions{})
		return err == nil && at(got.Object, "spec", "service") == nil, err
	})
}

func TestTokensAreTracked(t *testing.T) {
	c := Start(t)
	eventually(t, "since when tokens are tracked", func(ctx context.Context) (bool, error) {
		got, err := c.Client.CoreV1().ConfigMaps("kube-system").Get(ctx, "kube-apiserver-legacy-service-account-token-tracking", metav1.GetOptions{})
		if err == nil {
			_, err = time.Parse(time.DateOnly, got.Data["since"])
		}
		return err == nil, err
	})
}
