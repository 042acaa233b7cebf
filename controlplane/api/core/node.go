package core

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	netutils "k8s.io/utils/net"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func nodeKind() api.Kind {
	addresses := corev1.NodeStatus{}.SwaggerDoc()["addresses"]
	info := corev1.NodeSystemInfo{}.SwaggerDoc()
	return api.Define(api.Definition[*corev1.Node]{
		GroupVersion: groupVersion, Kind: "Node", Resource: "nodes", Singular: "node",
		ShortNames: []string{"no"}, ClusterScope: true, Path: "minions",
		New:     func() *corev1.Node { return &corev1.Node{} },
		NewList: func() runtime.Object { return &corev1.NodeList{} },

		Default:          defaultNode,
		PrepareForCreate: func(_ context.Context, n *corev1.Node) { n.Spec.ConfigSource, n.Status.Config = nil, nil },
		PrepareForUpdate: func(_ context.Context, n, old *corev1.Node) {
			if old.Spec.ConfigSource == nil {
				n.Spec.ConfigSource = nil
			}
		},
		Validate: func(_ context.Context, n *corev1.Node) field.ErrorList { return validateNode(n) },
		ValidateUpdate: func(_ context.Context, n, old *corev1.Node) field.ErrorList {
			return append(validateNode(n), validateNodeUpdate(n, old)...)
		},
		Warnings: nodeWarnings,
		Status: &api.Status[*corev1.Node]{
			Copy: func(to, from *corev1.Node) { to.Status = from.Status },
			Prepare: func(_ context.Context, n, old *corev1.Node) {
				if old.Status.Config == nil {
					n.Status.Config = nil
				}
			},
			Validate:     func(_ context.Context, n, old *corev1.Node) field.ErrorList { return validateNodeUpdate(n, old) },
			KeepMetadata: true,
			KeepOnCreate: true,
		},
		Fields: func(n *corev1.Node) fields.Set {
			return fields.Set{"spec.unschedulable": strconv.FormatBool(n.Spec.Unschedulable)}
		},
		FieldNames: []string{"spec.unschedulable"},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("Status", "The status of the node"), columns.Text("Roles", "The roles of the node"),
			columns.Age(), columns.Text("Version", info["kubeletVersion"]),
			columns.Wide("Internal-IP", addresses), columns.Wide("External-IP", addresses), columns.Wide("OS-Image", info["osImage"]),
			columns.Wide("Kernel-Version", info["kernelVersion"]), columns.Wide("Container-Runtime", info["containerRuntimeVersion"]),
		},
		Row: nodeRow,
		Extend: func(env *api.Environment, _, _ *registry.Store) (map[string]rest.Storage, error) {
			return map[string]rest.Storage{"nodes/proxy": newNodeProxy(env.Nodes)}, nil
		},
	})
}

func defaultNode(n *corev1.Node) {
	roundResources(n.Status.Capacity)
	roundResources(n.Status.Allocatable)
	if n.Status.Allocatable == nil && n.Status.Capacity != nil {
		n.Status.Allocatable = n.Status.Capacity.DeepCopy()
	}
	// podCIDR is the first of podCIDRs, and wins where they differ.
	switch spec := &n.Spec; {
	case spec.PodCIDR == "" && len(spec.PodCIDRs) > 0:
		spec.PodCIDR = spec.PodCIDRs[0]
	case spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDRs[0] != spec.PodCIDR):
		spec.PodCIDRs = []string{spec.PodCIDR}
	}
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateTaints(n.Spec.Taints, field.NewPath("metadata", "taints"))
	errs = append(errs, validateNodeStatus(n)...)
	path := field.NewPath("spec", "podCIDRs")
	for i, c := range n.Spec.PodCIDRs {
		errs = append(errs, cidr(c, path.Index(i), nil)...)
	}
	if len(n.Spec.PodCIDRs) > 1 {
		// A second check of the same, in the words that users know.
		for i, c := range n.Spec.PodCIDRs {
			if _, _, err := netutils.ParseCIDRSloppy(c); err != nil {
				errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[%d]: <nil> (%w)", i, err)))
				break
			}
		}
	}
	if list := n.Spec.PodCIDRs; len(list) > 2 || len(list) == 2 && strings.Contains(list[0], ":") == strings.Contains(list[1], ":") {
		errs = append(errs, field.Invalid(path, list, "may specify no more than one CIDR for each IP family"))
	}
	return errs
}

func validateNodeStatus(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", n.Status.Capacity}, {"allocatable", n.Status.Allocatable}} {
		for _, name := range sortedResources(l.list) {
			errs = append(errs, validateQuantity(name, l.list[name], field.NewPath("status", l.name, string(name)))...)
		}
	}
	path := field.NewPath("status", "declaredFeatures")
	for i, feature := range n.Status.DeclaredFeatures {
		if len(feature) > validation.DNS1123SubdomainMaxLength {
			errs = append(errs, field.Invalid(path.Index(i), feature, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", feature, validation.DNS1123SubdomainMaxLength)))
		} else if !featureName.MatchString(feature) {
			errs = append(errs, field.Invalid(path.Index(i), feature, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", feature)))
		}
	}
	for i := 1; i < len(n.Status.DeclaredFeatures); i++ {
		if now, before := n.Status.DeclaredFeatures[i], n.Status.DeclaredFeatures[i-1]; now == before {
			errs = append(errs, field.Duplicate(path.Index(i), now))
		} else if now < before {
			errs = append(errs, field.Invalid(path.Index(i), now, "list must be sorted alphabetically"))
		}
	}
	return errs
}

// featureName matches features that a node may declare: MyFeature/part.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

func validateTaints(taints []corev1.Taint, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[pair]()
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, unversioned.ValidateLabelName(t.Key, at.Child("key"))...)
		if faults := validation.IsValidLabelValue(t.Value); len(faults) > 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(faults, ";")))
		}
		errs = append(errs, taintEffect(t.Effect, at.Child("effect"))...)
		if seen.Has(pair{t.Key, t.Effect}) {
			twice := field.Duplicate(at, t)
			twice.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, twice)
		}
		seen.Insert(pair{t.Key, t.Effect})
	}
	return errs
}

func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateNodeStatus(n)
	for i, a := range n.Status.Addresses {
		if slices.Contains(n.Status.Addresses[:i], a) {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
	}
	spec := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(spec.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Forbidden(spec.Child("providerID"), "node updates may not change providerID except from \"\" to valid"))
	}
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(spec.Child("externalID"), "may not be updated"))
	}
	return errs
}

func nodeWarnings(_ context.Context, n, _ *corev1.Node) []string {
	var warnings []string
	if n.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		warnings = append(warnings, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), c)...)
	}
	return warnings
}

func nodeRow(n *corev1.Node) []any {
	status := []string{"Unknown"}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			status[0] = "NotReady"
			if c.Status == corev1.ConditionTrue {
				status[0] = "Ready"
			}
		}
	}
	if n.Spec.Unschedulable {
		status = append(status, "SchedulingDisabled")
	}
	orUnknown := func(s string) string {
		if s == "" {
			return "<unknown>"
		}
		return s
	}
	info := n.Status.NodeInfo
	kernel := orUnknown(info.KernelVersion)
	if info.Architecture != "" {
		kernel += fmt.Sprintf(" (%s)", info.Architecture)
	}
	return []any{
		n.Name, strings.Join(status, ","), nodeRoles(n), columns.Since(n.CreationTimestamp.Time), info.KubeletVersion,
		nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP), orUnknown(info.OSImage), kernel, orUnknown(info.ContainerRuntimeVersion),
	}
}

func nodeRoles(n *corev1.Node) string {
	roles := sets.New[string]()
	for k, v := range n.Labels {
		if role, ok := strings.CutPrefix(k, "node-role.kubernetes.io/"); ok && role != "" {
			roles.Insert(role)
		} else if k == "kubernetes.io/role" && v != "" {
			roles.Insert(v)
		}
	}
	return orNone(strings.Join(sets.List(roles), ","))
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return "<none>"
}
