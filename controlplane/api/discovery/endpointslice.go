package discovery

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

const (
	maxAddresses = 100
	maxPorts     = 20000
	maxEndpoints = 1000
	maxHints     = 8
)

// Kinds lists the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{endpointSliceKind()} }

func endpointSliceKind() api.Kind {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return api.Define(api.Definition[*discoveryv1.EndpointSlice]{
		GroupVersion: discoveryv1.SchemeGroupVersion, Kind: "EndpointSlice", Resource: "endpointslices", Singular: "endpointslice",
		Path:    "endpointslices",
		New:     func() *discoveryv1.EndpointSlice { return &discoveryv1.EndpointSlice{} },
		NewList: func() runtime.Object { return &discoveryv1.EndpointSliceList{} },

		Default: func(s *discoveryv1.EndpointSlice) {
			for i := range s.Ports {
				if s.Ports[i].Name == nil {
					s.Ports[i].Name = ptr.To("")
				}
				if s.Ports[i].Protocol == nil {
					s.Ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
				}
			}
		},
		PrepareForCreate: func(_ context.Context, s *discoveryv1.EndpointSlice) { dropTopology(s) },
		PrepareForUpdate: func(_ context.Context, s, _ *discoveryv1.EndpointSlice) { dropTopology(s) },
		Validate:         func(_ context.Context, s *discoveryv1.EndpointSlice) field.ErrorList { return validateSlice(s, nil) },
		ValidateUpdate: func(_ context.Context, s, old *discoveryv1.EndpointSlice) field.ErrorList {
			return append(validateSlice(s, old), apivalidation.ValidateImmutableField(s.AddressType, old.AddressType, field.NewPath("addressType"))...)
		},
		Warnings: func(_ context.Context, s, old *discoveryv1.EndpointSlice) []string {
			var warnings []string
			if old == nil && s.AddressType == discoveryv1.AddressTypeFQDN {
				warnings = append(warnings, "spec.addressType: FQDN endpoints are deprecated")
			}
			switch s.Labels[discoveryv1.LabelManagedBy] {
			case "endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io":
				return warnings // which write every address in its one form
			}
			for i := range s.Endpoints {
				for j, address := range s.Endpoints[i].Addresses {
					warnings = append(warnings, validation.GetWarningsForIP(field.NewPath("endpoints").Index(i).Child("addresses").Index(j), address)...)
				}
			}
			return warnings
		},
		// Labels say whose endpoints these are: a change of them counts, too.
		Spec: func(s *discoveryv1.EndpointSlice) any {
			return struct {
				Labels      map[string]string
				AddressType discoveryv1.AddressType
				Endpoints   []discoveryv1.Endpoint
				Ports       []discoveryv1.EndpointPort
			}{s.Labels, s.AddressType, s.Endpoints, s.Ports}
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("AddressType", doc["addressType"]), columns.Text("Ports", doc["ports"]),
			columns.Text("Endpoints", doc["endpoints"]), columns.Age(),
		},
		Row: func(s *discoveryv1.EndpointSlice) []any {
			return []any{s.Name, string(s.AddressType), portsCell(s.Ports), endpointsCell(s.Endpoints), columns.Since(s.CreationTimestamp.Time)}
		},
	})
}

// dropTopology clears what the v1 API reads only.
func dropTopology(s *discoveryv1.EndpointSlice) {
	for i := range s.Endpoints {
		s.Endpoints[i].DeprecatedTopology = nil
	}
}

func validateSlice(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	var errs field.ErrorList
	supported := []discoveryv1.AddressType{discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6}
	if path := field.NewPath("addressType"); s.AddressType == "" {
		errs = append(errs, field.Required(path, ""))
	} else if !slices.Contains(supported, s.AddressType) {
		errs = append(errs, field.NotSupported(path, s.AddressType, supported))
	}
	errs = append(errs, validatePorts(s.Ports, field.NewPath("ports"))...)
	if old != nil && apiequality.Semantic.DeepEqual(old.Endpoints, s.Endpoints) {
		return errs
	}
	path := field.NewPath("endpoints")
	if n := len(s.Endpoints); n > maxEndpoints {
		return append(errs, field.TooMany(path, n, maxEndpoints))
	}
	for i := range s.Endpoints {
		errs = append(errs, validateEndpoint(&s.Endpoints[i], s.AddressType, path.Index(i))...)
	}
	return errs
}

func validatePorts(ports []discoveryv1.EndpointPort, path *field.Path) field.ErrorList {
	if n := len(ports); n > maxPorts {
		return field.ErrorList{field.TooMany(path, n, maxPorts)}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i, p := range ports {
		at := path.Index(i)
		name := ptr.Deref(p.Name, "")
		if name != "" {
			errs = append(errs, invalid(at.Child("name"), name, validation.IsDNS1123Label(name))...)
		}
		if names[name] {
			errs = append(errs, field.Duplicate(at.Child("name"), name))
		}
		names[name] = true
		supported := []corev1.Protocol{corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP}
		if p.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else if !slices.Contains(supported, *p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, supported))
		}
		if p.AppProtocol != nil {
			errs = append(errs, invalid(at.Child("appProtocol"), *p.AppProtocol, validation.IsQualifiedName(*p.AppProtocol))...)
		}
	}
	return errs
}

func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

func validateEndpoint(e *discoveryv1.Endpoint, kind discoveryv1.AddressType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("addresses")
	if n := len(e.Addresses); n == 0 {
		errs = append(errs, field.Required(at, "must contain at least 1 address"))
	} else if n > maxAddresses {
		errs = append(errs, field.TooMany(at, n, maxAddresses))
	}
	for i, a := range e.Addresses {
		errs = append(errs, validateAddress(a, kind, at, at.Index(i))...)
	}
	if e.NodeName != nil {
		errs = append(errs, invalid(path.Child("nodeName"), *e.NodeName, apivalidation.NameIsDNSSubdomain(*e.NodeName, false))...)
	}
	if e.Hostname != nil {
		errs = append(errs, invalid(path.Child("hostname"), *e.Hostname, validation.IsDNS1123Label(*e.Hostname))...)
	}
	if e.Hints == nil {
		return errs
	}
	hints := func(names []string, path *field.Path, faults func(string) []string) {
		if n := len(names); n > maxHints {
			errs = append(errs, field.TooMany(path, n, maxHints))
			return
		}
		for i, name := range names {
			at := path.Index(i).Child("name")
			if slices.Contains(names[:i], name) {
				errs = append(errs, field.Duplicate(at, name))
			}
			errs = append(errs, invalid(at, name, faults(name))...)
		}
	}
	var zones, nodes []string
	for _, z := range e.Hints.ForZones {
		zones = append(zones, z.Name)
	}
	for _, n := range e.Hints.ForNodes {
		nodes = append(nodes, n.Name)
	}
	hints(zones, path.Child("hints", "forZones"), validation.IsValidLabelValue)
	hints(nodes, path.Child("hints", "forNodes"), func(n string) []string { return apivalidation.NameIsDNSSubdomain(n, false) })
	return errs
}

// validateAddress checks an address at path, in the list at list.
func validateAddress(a string, kind discoveryv1.AddressType, list, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	family := ""
	switch kind {
	case discoveryv1.AddressTypeIPv4:
		if errs = validation.IsValidIPForLegacyField(path, a, true, nil); !netutils.IsIPv4String(a) {
			family = "must be an IPv4 address"
		}
	case discoveryv1.AddressTypeIPv6:
		if errs = validation.IsValidIP(path, a); !netutils.IsIPv6String(a) {
			family = "must be an IPv6 address"
		}
	case discoveryv1.AddressTypeFQDN:
		return validation.IsFullyQualifiedDomainName(path, a)
	default:
		return nil
	}
	if len(errs) > 0 {
		return errs
	}
	if family != "" {
		errs = append(errs, field.Invalid(list, a, family))
	}
	return append(errs, core.ValidateEndpointIP(a, path)...)
}

func portsCell(ports []discoveryv1.EndpointPort) string {
	var list []string
	for _, p := range ports {
		switch {
		case p.Port != nil:
			list = append(list, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			list = append(list, *p.Name)
		default:
			list = append(list, "*")
		}
	}
	return firstThree(list)
}

func endpointsCell(endpoints []discoveryv1.Endpoint) string {
	var list []string
	for _, e := range endpoints {
		list = append(list, e.Addresses...)
	}
	return firstThree(list)
}

func firstThree(list []string) string {
	const most = 3
	if len(list) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:most], ","), len(list)-most)
	}
	return cmp.Or(strings.Join(list, ","), "<unset>")
}
