package rbac

import (
	"bufio"
	"embed"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The notation of policy/*.txt. A line that starts in the first column opens
// an object; the indented lines below it are its content; "#" starts a comment
// line.
//
//	clusterrole NAME | role NAMESPACE/NAME
//	  in edit                          is summed up by the ClusterRole edit
//	  sums edit                        is the sum of all that are "in edit"
//	  VERBS | GROUPS | RESOURCES       a rule; "core" is the group without name
//	  VERBS | GROUPS | RESOURCES | RESOURCE NAMES
//	  VERBS | /PATH …                  a rule on non-resource URLs
//	clusterbinding NAME | binding NAMESPACE/NAME
//	  grants clusterrole NAME | grants role NAME
//	  to user:NAME | to group:NAME | to serviceaccount:NAMESPACE/NAME
//
//go:embed policy/*.txt
var policyFiles embed.FS

// Policy is a set of RBAC objects.
type Policy struct {
	ClusterRoles        []*rbacv1.ClusterRole
	ClusterRoleBindings []*rbacv1.ClusterRoleBinding
	Roles               []*rbacv1.Role
	RoleBindings        []*rbacv1.RoleBinding
}

const (
	aggregateLabel   = "rbac.authorization.k8s.io/aggregate-to-"
	controllerPrefix = "system:controller:"
)

// DefaultPolicy returns what every cluster has. It panics if the embedded
// files are at fault, since that is a mistake in the program.
func DefaultPolicy() Policy {
	var p Policy
	for _, name := range []string{"cluster.txt", "controllers.txt", "namespaces.txt", "clusterctl.txt"} {
		text, err := policyFiles.ReadFile("policy/" + name)
		if err == nil {
			err = parse(string(text), &p)
		}
		if err != nil {
			panic(fmt.Sprintf("rbac: %s: %v", name, err))
		}
	}
	bindControllers(&p)
	return p
}

// bindControllers grants the controllers' roles to their service accounts and
// to the controller manager, whose controllers all share its identity.
func bindControllers(p *Policy) {
	manager := rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user.KubeControllerManager}
	for _, role := range p.ClusterRoles {
		if controller, ok := strings.CutPrefix(role.Name, controllerPrefix); ok {
			p.ClusterRoleBindings = append(p.ClusterRoleBindings, &rbacv1.ClusterRoleBinding{
				ObjectMeta: defaultMeta("", role.Name),
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
				Subjects: []rbacv1.Subject{
					{Kind: rbacv1.ServiceAccountKind, Namespace: metav1.NamespaceSystem, Name: controller},
					manager,
				},
			})
		}
	}
	for _, binding := range p.RoleBindings {
		if strings.HasPrefix(binding.Name, controllerPrefix) {
			binding.Subjects = append(binding.Subjects, manager)
		}
	}
}

func defaultMeta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Namespace:   namespace,
		Name:        name,
		Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
		Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
	}
}

// parse adds the objects of text to p.
func parse(text string, p *Policy) error {
	content := func(string) error { return fmt.Errorf("content before the first object") }
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var err error
		if strings.HasPrefix(line, " ") {
			err = content(strings.TrimSpace(line))
		} else {
			content, err = open(line, p)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return lines.Err()
}

// open adds an empty object and returns what reads its content.
func open(line string, p *Policy) (func(string) error, error) {
	kind, name, _ := strings.Cut(line, " ")
	namespace := ""
	if kind == "role" || kind == "binding" {
		namespace, name, _ = strings.Cut(name, "/")
	}
	if name == "" {
		return nil, fmt.Errorf("%q lacks a name", line)
	}
	meta := defaultMeta(namespace, name)
	switch kind {
	case "clusterrole":
		role := &rbacv1.ClusterRole{ObjectMeta: meta}
		p.ClusterRoles = append(p.ClusterRoles, role)
		return func(s string) error { return clusterRoleLine(role, s) }, nil
	case "role":
		role := &rbacv1.Role{ObjectMeta: meta}
		p.Roles = append(p.Roles, role)
		return func(s string) error { return ruleLine(&role.Rules, s) }, nil
	case "clusterbinding":
		binding := &rbacv1.ClusterRoleBinding{ObjectMeta: meta}
		p.ClusterRoleBindings = append(p.ClusterRoleBindings, binding)
		return func(s string) error { return bindingLine(&binding.RoleRef, &binding.Subjects, s) }, nil
	case "binding":
		binding := &rbacv1.RoleBinding{ObjectMeta: meta}
		p.RoleBindings = append(p.RoleBindings, binding)
		return func(s string) error { return bindingLine(&binding.RoleRef, &binding.Subjects, s) }, nil
	default:
		return nil, fmt.Errorf("unknown kind %q", kind)
	}
}

func clusterRoleLine(role *rbacv1.ClusterRole, line string) error {
	if sum, ok := strings.CutPrefix(line, "in "); ok {
		role.Labels[aggregateLabel+sum] = "true"
		return nil
	}
	if sum, ok := strings.CutPrefix(line, "sums "); ok {
		role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{
			{MatchLabels: map[string]string{aggregateLabel + sum: "true"}},
		}}
		return nil
	}
	return ruleLine(&role.Rules, line)
}

func ruleLine(rules *[]rbacv1.PolicyRule, line string) error {
	parts := strings.Split(line, "|")
	words := make([][]string, len(parts))
	for i, part := range parts {
		if words[i] = strings.Fields(part); len(words[i]) == 0 {
			return fmt.Errorf("rule %q has an empty column", line)
		}
	}
	switch len(parts) {
	case 2:
		*rules = append(*rules, rbacv1.PolicyRule{Verbs: words[0], NonResourceURLs: words[1]})
	case 3, 4:
		rule := rbacv1.PolicyRule{Verbs: words[0], APIGroups: words[1], Resources: words[2]}
		for i, group := range rule.APIGroups {
			if group == "core" {
				rule.APIGroups[i] = ""
			}
		}
		if len(parts) == 4 {
			rule.ResourceNames = words[3]
		}
		*rules = append(*rules, rule)
	default:
		return fmt.Errorf("rule %q has %d columns, want 2 to 4", line, len(parts))
	}
	return nil
}

func bindingLine(ref *rbacv1.RoleRef, subjects *[]rbacv1.Subject, line string) error {
	kinds := map[string]string{"clusterrole": "ClusterRole", "role": "Role"}
	words := strings.Fields(line)
	switch {
	case len(words) == 3 && words[0] == "grants" && kinds[words[1]] != "":
		*ref = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kinds[words[1]], Name: words[2]}
		return nil
	case len(words) == 2 && words[0] == "to":
		kind, name, _ := strings.Cut(words[1], ":")
		subject := rbacv1.Subject{APIGroup: rbacv1.GroupName, Name: name}
		switch kind {
		case "user":
			subject.Kind = rbacv1.UserKind
		case "group":
			subject.Kind = rbacv1.GroupKind
		case "serviceaccount":
			namespace, account, _ := strings.Cut(name, "/")
			subject = rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}
		default:
			return fmt.Errorf("unknown kind of subject %q", kind)
		}
		if subject.Name == "" {
			return fmt.Errorf("%q lacks a name", line)
		}
		*subjects = append(*subjects, subject)
		return nil
	default:
		return fmt.Errorf("cannot read %q", line)
	}
}
