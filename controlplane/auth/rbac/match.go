package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Allows reports whether one of the rules grants the request.
func Allows(rules []rbacv1.PolicyRule, request authorizer.Attributes) bool {
	for i := range rules {
		if allows(&rules[i], request) {
			return true
		}
	}
	return false
}

func allows(rule *rbacv1.PolicyRule, request authorizer.Attributes) bool {
	if !matches(rule.Verbs, request.GetVerb()) {
		return false
	}
	if !request.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool {
			return urlMatches(pattern, request.GetPath())
		})
	}
	return matches(rule.APIGroups, request.GetAPIGroup()) &&
		slices.ContainsFunc(rule.Resources, func(pattern string) bool {
			return resourceMatches(pattern, request.GetResource(), request.GetSubresource())
		}) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, request.GetName()))
}

// matches serves verbs and API groups: an exact word or the star.
func matches(patterns []string, word string) bool {
	return slices.Contains(patterns, word) || slices.Contains(patterns, "*")
}

// resourceMatches knows four shapes of pattern: "*", "pods", "pods/log" and
// "*/scale".
func resourceMatches(pattern, resource, subresource string) bool {
	if pattern == rbacv1.ResourceAll {
		return true
	}
	if subresource == "" {
		return pattern == resource
	}
	head, ok := strings.CutSuffix(pattern, "/"+subresource)
	return ok && (head == resource || head == "*")
}

// urlMatches treats a star at the end of the pattern as any rest of the path.
func urlMatches(pattern, path string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(path, prefix)
	}
	return pattern == path
}
