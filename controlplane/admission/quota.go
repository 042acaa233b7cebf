package admission

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/quota"
)

const (
	// quotaWorkers is how many namespaces' quotas are charged at the same time.
	quotaWorkers = 5
	// listTimeout bounds the listing of a namespace's claims.
	listTimeout = 10 * time.Second
)

// newResourceQuota refuses what would go over a quota of its namespace. It
// comes last, so that nothing is charged that another plugin refuses.
func newResourceQuota(config Config) (admission.Interface, error) {
	p, err := resourcequota.NewResourceQuota(nil, quotaWorkers)
	if err != nil {
		return nil, err
	}
	p.SetDrainedNotification(config.Drained)
	cluster, err := quotaCluster(config)
	if err != nil {
		return nil, err
	}
	p.SetQuotaConfiguration(quota.NewConfiguration(nil, cluster))
	return p, nil
}

// quotaCluster finds what claims of devices are measured by. Claims are listed when
// one is made for extended resources, which is too seldom for keeping them all.
func quotaCluster(config Config) (quota.Cluster, error) {
	pods := config.Informers.Core().V1().Pods().Lister()
	cluster := quota.Cluster{
		Classes: extendedresourcecache.NewExtendedResourceCache(klog.Logger{}),
		Pod:     func(namespace, name string) (*corev1.Pod, error) { return pods.Pods(namespace).Get(name) },
		Claims: func(namespace string) ([]*resourcev1.ResourceClaim, error) {
			ctx, cancel := context.WithTimeout(context.Background(), listTimeout)
			defer cancel()
			list, err := config.Client.ResourceV1().ResourceClaims(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return nil, fmt.Errorf("list claims: %w", err)
			}
			claims := make([]*resourcev1.ResourceClaim, len(list.Items))
			for i := range list.Items {
				claims[i] = &list.Items[i]
			}
			return claims, nil
		},
	}
	if _, err := config.Informers.Resource().V1().DeviceClasses().Informer().AddEventHandler(cluster.Classes); err != nil {
		return cluster, fmt.Errorf("watch device classes: %w", err)
	}
	return cluster, nil
}
