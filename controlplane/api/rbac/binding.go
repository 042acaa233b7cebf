package rbac

import (
	"context"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	rbacv1beta1 "k8s.io/api/rbac/v1beta1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var roleBinding = api.Definition[*rbacv1.RoleBinding]{
	GroupVersion: rbacv1.SchemeGroupVersion,
	Kind:         "RoleBinding",
	Resource:     "rolebindings",
	Singular:     "rolebinding",
	New:          func() *rbacv1.RoleBinding { return &rbacv1.RoleBinding{} },
	NewList:      func() runtime.Object { return &rbacv1.RoleBindingList{} },

	AllowCreateOnUpdate: true,
	NameValidation:      nameIsPathSegment,
	Default:             func(b *rbacv1.RoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: func(_ context.Context, b *rbacv1.RoleBinding) field.ErrorList {
		return checkBinding(b.RoleRef, b.Subjects, true)
	},
	ValidateUpdate: func(_ context.Context, b, old *rbacv1.RoleBinding) field.ErrorList {
		return append(checkBinding(b.RoleRef, b.Subjects, true), sameRole(b.RoleRef, old.RoleRef)...)
	},
	Columns: bindingColumns("roleBinding", rbacv1beta1.RoleBinding{}.SwaggerDoc()["roleRef"]),
	Row: func(b *rbacv1.RoleBinding) []any {
		return bindingRow(b.ObjectMeta, b.RoleRef, b.Subjects)
	},
	Extend: guard("rolebindings", func(ctx context.Context, obj runtime.Object, namespace string, g *guardian) ([]rbacv1.PolicyRule, error) {
		return g.boundRules(ctx, obj.(*rbacv1.RoleBinding).RoleRef, namespace)
	}),
}

var clusterRoleBinding = api.Definition[*rbacv1.ClusterRoleBinding]{
	GroupVersion: rbacv1.SchemeGroupVersion,
	Kind:         "ClusterRoleBinding",
	Resource:     "clusterrolebindings",
	Singular:     "clusterrolebinding",
	ClusterScope: true,
	New:          func() *rbacv1.ClusterRoleBinding { return &rbacv1.ClusterRoleBinding{} },
	NewList:      func() runtime.Object { return &rbacv1.ClusterRoleBindingList{} },

	AllowCreateOnUpdate: true,
	NameValidation:      nameIsPathSegment,
	Default:             func(b *rbacv1.ClusterRoleBinding) { defaultBinding(&b.RoleRef, b.Subjects) },
	Validate: func(_ context.Context, b *rbacv1.ClusterRoleBinding) field.ErrorList {
		return checkBinding(b.RoleRef, b.Subjects, false)
	},
	ValidateUpdate: func(_ context.Context, b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
		return append(checkBinding(b.RoleRef, b.Subjects, false), sameRole(b.RoleRef, old.RoleRef)...)
	},
	Columns: bindingColumns("clusterRoleBinding", rbacv1beta1.ClusterRoleBinding{}.SwaggerDoc()["roleRef"]),
	Row: func(b *rbacv1.ClusterRoleBinding) []any {
		return bindingRow(b.ObjectMeta, b.RoleRef, b.Subjects)
	},
	Extend: guard("clusterrolebindings", func(ctx context.Context, obj runtime.Object, _ string, g *guardian) ([]rbacv1.PolicyRule, error) {
		return g.boundRules(ctx, obj.(*rbacv1.ClusterRoleBinding).RoleRef, metav1.NamespaceNone)
	}),
}

func defaultBinding(ref *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if ref.APIGroup == "" {
		ref.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		if s := &subjects[i]; s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

func sameRole(now, before rbacv1.RoleRef) field.ErrorList {
	if now == before {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), now, "cannot change roleRef")}
}

func checkBinding(ref rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) (errs field.ErrorList) {
	path := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		errs = append(errs, field.NotSupported(path.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	kinds := []string{"ClusterRole"}
	if namespaced {
		kinds = []string{"Role", "ClusterRole"}
	}
	if ref.Kind != "ClusterRole" && (ref.Kind != "Role" || !namespaced) {
		errs = append(errs, field.NotSupported(path.Child("kind"), ref.Kind, kinds))
	}
	if ref.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	} else {
		for _, message := range nameIsPathSegment(ref.Name, false) {
			errs = append(errs, field.Invalid(path.Child("name"), ref.Name, message))
		}
	}
	for i, subject := range subjects {
		errs = append(errs, checkSubject(subject, namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func checkSubject(subject rbacv1.Subject, namespaced bool, path *field.Path) (errs field.ErrorList) {
	if subject.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	switch subject.Kind {
	case rbacv1.ServiceAccountKind:
		if subject.Name != "" {
			for _, message := range apivalidation.ValidateServiceAccountName(subject.Name, false) {
				errs = append(errs, field.Invalid(path.Child("name"), subject.Name, message))
			}
		}
		if subject.APIGroup != "" {
			errs = append(errs, field.NotSupported(path.Child("apiGroup"), subject.APIGroup, []string{""}))
		}
		if !namespaced && subject.Namespace == "" {
			errs = append(errs, field.Required(path.Child("namespace"), ""))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		if subject.APIGroup != rbacv1.GroupName {
			errs = append(errs, field.NotSupported(path.Child("apiGroup"), subject.APIGroup, []string{rbacv1.GroupName}))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("kind"), subject.Kind,
			[]string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
	}
	return errs
}

// The descriptions are those of v1beta1, as Kubernetes has them.
func bindingColumns(kind, role string) []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Role", role),
		columns.Age(),
		columns.Wide("Users", "Users in the "+kind),
		columns.Wide("Groups", "Groups in the "+kind),
		columns.Wide("ServiceAccounts", "ServiceAccounts in the "+kind),
	}
}

func bindingRow(meta metav1.ObjectMeta, ref rbacv1.RoleRef, subjects []rbacv1.Subject) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{meta.Name, ref.Kind + "/" + ref.Name, columns.Since(meta.CreationTimestamp.Time),
		strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}
