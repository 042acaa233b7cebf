package apiserver

import (
	"context"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// patience stands before the authorizers that decide by informers. Until those
// have seen the cluster's policy and pods once, requests wait: a server that
// has just started would refuse what is allowed, and clients take a refusal for
// an answer and come back only after a long while.
type patience struct {
	synced []cache.InformerSynced
	over   atomic.Bool
}

// patienceLimit is how long a request waits at most; after it, it is decided
// on what there is.
const patienceLimit = 10 * time.Second

func newPatience(factory informers.SharedInformerFactory) *patience {
	policy := factory.Rbac().V1()
	return &patience{synced: []cache.InformerSynced{
		policy.Roles().Informer().HasSynced,
		policy.RoleBindings().Informer().HasSynced,
		policy.ClusterRoles().Informer().HasSynced,
		policy.ClusterRoleBindings().Informer().HasSynced,
		factory.Core().V1().Pods().Informer().HasSynced,
	}}
}

// Authorize never has an opinion of its own.
func (p *patience) Authorize(ctx context.Context, _ authorizer.Attributes) (authorizer.Decision, string, error) {
	if !p.over.Load() {
		ctx, cancel := context.WithTimeout(ctx, patienceLimit)
		defer cancel()
		if cache.WaitForCacheSync(ctx.Done(), p.synced...) {
			p.over.Store(true)
		}
	}
	return authorizer.DecisionNoOpinion, "", nil
}
