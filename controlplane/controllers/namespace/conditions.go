package namespace

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
)

// finding is one condition: failing if message is set.
type finding struct {
	kind              corev1.NamespaceConditionType
	bad, message      string
	good, goodInPlain string
}

// conditions is what left says about a namespace that had the conditions old.
func (l *leftover) conditions(old []corev1.NamespaceCondition, now metav1.Time) []corev1.NamespaceCondition {
	findings := []finding{
		{kind: corev1.NamespaceDeletionDiscoveryFailure, bad: "DiscoveryFailed", message: l.unknown(),
			good: "ResourcesDiscovered", goodInPlain: "All resources successfully discovered"},
		{kind: corev1.NamespaceDeletionGVParsingFailure, bad: "GroupVersionParsingFailed", message: text(l.parsing),
			good: "ParsedGroupVersions", goodInPlain: "All legacy kube types successfully parsed"},
		{kind: corev1.NamespaceDeletionContentFailure, bad: "ContentDeletionFailed", message: l.failed(),
			good: "ContentDeleted", goodInPlain: "All content successfully deleted, may be waiting on finalization"},
		{kind: corev1.NamespaceContentRemaining, bad: "SomeResourcesRemain", message: l.remaining(),
			good: "ContentRemoved", goodInPlain: "All content successfully removed"},
		{kind: corev1.NamespaceFinalizersRemaining, bad: "SomeFinalizersRemain", message: l.held(),
			good: "ContentHasNoFinalizers", goodInPlain: "All content-preserving finalizers finished"},
	}
	result := slices.Clone(old)
	for _, f := range findings {
		c := corev1.NamespaceCondition{Type: f.kind, Status: corev1.ConditionFalse, Reason: f.good, Message: f.goodInPlain, LastTransitionTime: now}
		if f.message != "" {
			c.Status, c.Reason, c.Message = corev1.ConditionTrue, f.bad, f.message
		}
		i := slices.IndexFunc(result, func(o corev1.NamespaceCondition) bool { return o.Type == f.kind })
		switch {
		case i < 0:
			result = append(result, c)
		case result[i].Status == c.Status:
			c.LastTransitionTime = result[i].LastTransitionTime
			result[i] = c
		default:
			result[i] = c
		}
	}
	return result
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (l *leftover) unknown() string {
	var partial *discovery.ErrGroupDiscoveryFailed
	if errors.As(l.discovery, &partial) {
		return fmt.Sprintf("Discovery failed for some groups, %d failing: %v", len(partial.Groups), partial)
	}
	return text(l.discovery)
}

func (l *leftover) failed() string {
	var parts []string
	for _, err := range l.content {
		parts = append(parts, err.Error())
	}
	return sentence(fmt.Sprintf("Failed to delete all resource types, %d remaining: ", len(parts)), parts)
}

// remaining and held list counts in a fixed order, so that an unchanged state
// is an unchanged message.
func (l *leftover) remaining() string {
	var parts []string
	for resource, n := range l.resources {
		parts = append(parts, fmt.Sprintf("%s.%s has %d resource instances", resource.Resource, resource.Group, n))
	}
	return sentence("Some resources are remaining: ", parts)
}

func (l *leftover) held() string {
	var parts []string
	for finalizer, n := range l.finalizers {
		parts = append(parts, fmt.Sprintf("%s in %d resource instances", finalizer, n))
	}
	return sentence("Some content in the namespace has finalizers remaining: ", parts)
}

func sentence(start string, parts []string) string {
	if len(parts) == 0 {
		return ""
	}
	slices.Sort(parts)
	return start + strings.Join(parts, ", ")
}
