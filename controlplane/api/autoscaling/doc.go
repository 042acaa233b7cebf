// Package autoscaling defines the kind of the group autoscaling:
// HorizontalPodAutoscaler, kept as v2 and served as v1 too, where annotations
// carry what v1 has no fields for. Scale, the group's other kind, is a
// subresource; package scale serves it.
package autoscaling

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group: v2 first, since v1 serves its store.
func Kinds() []api.Kind { return []api.Kind{api.Define(autoscaler), olderKind{}} }
