package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
)

// PrioritySort puts pods of higher priority first.
type PrioritySort struct{}

func (PrioritySort) Name() string { return "PrioritySort" }

func (PrioritySort) Less(a, b *v1.Pod) bool { return corev1.PodPriority(a) > corev1.PodPriority(b) }
