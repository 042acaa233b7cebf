// Package rbac defines the kinds of the group rbac.authorization.k8s.io: Role,
// RoleBinding, ClusterRole and ClusterRoleBinding, with the guard that keeps
// users from handing out rights they do not have. Deciding requests by these
// objects, and the default policy, are in controlplane/auth/rbac.
package rbac

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		api.Define(role),
		api.Define(clusterRole),
		api.Define(roleBinding),
		api.Define(clusterRoleBinding),
	}
}
