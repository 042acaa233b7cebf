package encryption

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// Loaded tells whether the API server at server works with the file of this
// hash, by its metrics.
func Loaded(ctx context.Context, server *rest.Config, hash string) (bool, error) {
	client, err := kubernetes.NewForConfig(server)
	if err != nil {
		return false, fmt.Errorf("make a client: %w", err)
	}
	raw, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return false, fmt.Errorf("read metrics of the API server: %w", err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "apiserver_encryption_config_controller_last_config_info{") && strings.Contains(line, `hash="`+hash+`"`) {
			return true, nil
		}
	}
	return false, nil
}

// pageSize and writers bound what Rewrite asks for at once.
const (
	pageSize = 500
	writers  = 8
)

// Rewrite touches every Secret by an empty patch, for which the API server at
// server writes it again if it is not encrypted with the first key, and counts
// those that changed, also by others meanwhile. No Secret travels: what is
// listed and answered is metadata only.
func Rewrite(ctx context.Context, server *rest.Config) (int, error) {
	client, err := metadata.NewForConfig(server)
	if err != nil {
		return 0, fmt.Errorf("make a client: %w", err)
	}
	secrets := client.Resource(corev1.SchemeGroupVersion.WithResource("secrets"))
	var changed atomic.Int64
	options := metav1.ListOptions{Limit: pageSize}
	for {
		page, err := secrets.List(ctx, options)
		if err != nil {
			return 0, fmt.Errorf("list Secrets: %w", err)
		}
		all, each := errgroup.WithContext(ctx)
		all.SetLimit(writers)
		for _, secret := range page.Items {
			all.Go(func() error {
				now, err := secrets.Namespace(secret.Namespace).Patch(each, secret.Name, types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
				switch {
				case apierrors.IsNotFound(err):
					return nil
				case err != nil:
					return fmt.Errorf("write Secret %s/%s: %w", secret.Namespace, secret.Name, err)
				case now.ResourceVersion != secret.ResourceVersion:
					changed.Add(1)
				}
				return nil
			})
		}
		if err := all.Wait(); err != nil {
			return 0, err
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return int(changed.Load()), nil
		}
	}
}
