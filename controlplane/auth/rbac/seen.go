package rbac

import (
	"context"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// seenLimit is how many objects seen asks for: a limited list is answered from
// etcd while a watch cache fills.
const seenLimit = 1000

// seen lists cluster roles and their bindings by name, so that a server that
// starts need not get each by itself. It need not see all: one that is there
// after all cannot be created, and is got then.
func seen(ctx context.Context, client rbacclient.RbacV1Interface) (map[string]*rbacv1.ClusterRole, map[string]*rbacv1.ClusterRoleBinding, error) {
	roles, err := client.ClusterRoles().List(ctx, metav1.ListOptions{Limit: seenLimit})
	if err != nil {
		return nil, nil, fmt.Errorf("list ClusterRoles: %w", err)
	}
	bindings, err := client.ClusterRoleBindings().List(ctx, metav1.ListOptions{Limit: seenLimit})
	if err != nil {
		return nil, nil, fmt.Errorf("list ClusterRoleBindings: %w", err)
	}
	roleOf, bindingOf := map[string]*rbacv1.ClusterRole{}, map[string]*rbacv1.ClusterRoleBinding{}
	for i := range roles.Items {
		roleOf[roles.Items[i].Name] = &roles.Items[i]
	}
	for i := range bindings.Items {
		bindingOf[bindings.Items[i].Name] = &bindings.Items[i]
	}
	return roleOf, bindingOf, nil
}

// seenRole answers the first Get with what seen saw (nil: nothing). A second
// one means that this was not true any more: the API answers it.
type seenRole struct {
	reconciliation.ClusterRoleModifier
	role  *rbacv1.ClusterRole
	asked bool
}

func (s *seenRole) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if s.asked {
		return s.ClusterRoleModifier.Get(namespace, name)
	}
	s.asked = true
	if s.role == nil {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterroles"), name)
	}
	return reconciliation.ClusterRoleRuleOwner{ClusterRole: s.role}, nil
}

// seenBinding is the same for a binding.
type seenBinding struct {
	reconciliation.ClusterRoleBindingClientAdapter
	binding *rbacv1.ClusterRoleBinding
	asked   bool
}

func (s *seenBinding) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if s.asked {
		return s.ClusterRoleBindingClientAdapter.Get(namespace, name)
	}
	s.asked = true
	if s.binding == nil {
		return nil, apierrors.NewNotFound(rbacv1.Resource("clusterrolebindings"), name)
	}
	return reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: s.binding}, nil
}
