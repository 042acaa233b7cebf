package admission

import (
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"

	"clusterctl/controlplane/quota"
)

// quotaWorkers is how many namespaces' quotas are charged at the same time.
const quotaWorkers = 5

// newResourceQuota refuses what would go over a quota of its namespace. It
// comes last, so that nothing is charged that another plugin refuses.
func newResourceQuota(config Config) (admission.Interface, error) {
	p, err := resourcequota.NewResourceQuota(nil, quotaWorkers)
	if err != nil {
		return nil, err
	}
	p.SetDrainedNotification(config.Drained)
	p.SetQuotaConfiguration(quota.NewConfiguration(nil))
	return p, nil
}
