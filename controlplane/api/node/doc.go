// Package node defines the kind of the group node.k8s.io: RuntimeClass. What a
// class adds to pods is admission's work; nodes themselves are in package core.
package node

import "clusterctl/controlplane/api"

// Kinds returns the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{api.Define(runtimeClass)} }
