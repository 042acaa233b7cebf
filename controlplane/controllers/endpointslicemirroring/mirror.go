package endpointslicemirroring

//lint:file-ignore SA1019 Endpoints are deprecated, and still part of the API.

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	endpointsliceutil "k8s.io/endpointslice/util"
)

const (
	// managedBy marks the slices of this controller, as other control planes
	// mark theirs.
	managedBy = "endpointslicemirroring-controller.k8s.io"
	// perSlice bounds the addresses that are mirrored of a family and a set of
	// ports, which all go into one slice.
	perSlice = 1000
)

// mirrored says whether Endpoints are anything to mirror: the API servers' own
// have slices, and locks of old leader elections are no endpoints.
func mirrored(endpoints *corev1.Endpoints) bool {
	_, lock := endpoints.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return !lock && endpoints.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// group is what one slice can hold.
type group struct {
	family discoveryv1.AddressType
	ports  endpointsliceutil.PortMapKey
}

func groupOf(slice *discoveryv1.EndpointSlice) group {
	return group{slice.AddressType, endpointsliceutil.NewPortMapKey(slice.Ports)}
}

// mirror makes the slices that mirror endpoints, without names, and counts the
// addresses that are left out for being none and for being too many.
func mirror(endpoints *corev1.Endpoints) (wanted []*discoveryv1.EndpointSlice, invalid, surplus int) {
	byGroup := map[group]*discoveryv1.EndpointSlice{}
	seen := map[group]map[string]bool{} // by address and target
	for _, subset := range endpoints.Subsets {
		ports := portsOf(subset.Ports)
		add := func(address corev1.EndpointAddress, ready bool) {
			ip, ok := parse(address.IP)
			if !ok {
				invalid++
				return
			}
			family := discoveryv1.AddressTypeIPv4
			if ip.Is6() {
				family = discoveryv1.AddressTypeIPv6
			}
			g := group{family, endpointsliceutil.NewPortMapKey(ports)}
			slice := byGroup[g]
			if slice == nil {
				slice = newSlice(endpoints, family, ports)
				byGroup[g], seen[g] = slice, map[string]bool{}
				wanted = append(wanted, slice)
			}
			endpoint := discoveryv1.Endpoint{
				Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
				TargetRef: address.TargetRef, NodeName: address.NodeName,
			}
			if address.Hostname != "" {
				endpoint.Hostname = &address.Hostname
			}
			name := identity(endpoint)
			switch {
			case seen[g][name]: // the ready ones come first, and win
			case len(slice.Endpoints) == perSlice:
				surplus++
			default:
				seen[g][name] = true
				slice.Endpoints = append(slice.Endpoints, endpoint)
			}
		}
		for _, address := range subset.Addresses {
			add(address, true)
		}
		for _, address := range subset.NotReadyAddresses {
			add(address, false)
		}
	}
	for _, slice := range wanted {
		sortEndpoints(slice.Endpoints)
	}
	return wanted, invalid, surplus
}

// parse takes what Endpoints have always taken, leading zeros included.
func parse(address string) (netip.Addr, bool) {
	parts := strings.Split(address, ".")
	for i := range parts {
		if trimmed := strings.TrimLeft(parts[i], "0"); len(parts) == 4 && trimmed != parts[i] {
			parts[i] = cmp.Or(trimmed, "0")
		}
	}
	ip, err := netip.ParseAddr(strings.Join(parts, "."))
	return ip.Unmap(), err == nil && ip.Zone() == ""
}

func identity(e discoveryv1.Endpoint) string {
	name := strings.Join(e.Addresses, ",")
	if e.TargetRef != nil {
		name += " " + e.TargetRef.Kind + " " + e.TargetRef.Namespace + "/" + e.TargetRef.Name + " " + string(e.TargetRef.UID)
	}
	return name
}

func sortEndpoints(endpoints []discoveryv1.Endpoint) {
	slices.SortFunc(endpoints, func(a, b discoveryv1.Endpoint) int { return cmp.Compare(identity(a), identity(b)) })
}

func portsOf(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	result := []discoveryv1.EndpointPort{}
	for _, p := range ports {
		result = append(result, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return result
}

func newSlice(endpoints *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: endpoints.Name + "-", Namespace: endpoints.Namespace,
			Labels: maps.Clone(endpoints.Labels), Annotations: maps.Clone(endpoints.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family, Ports: ports, Endpoints: []discoveryv1.Endpoint{},
	}
	if len(validation.NameIsDNSSubdomain(slice.GenerateName, true)) > 0 {
		slice.GenerateName = endpoints.Name
	}
	if slice.Labels == nil {
		slice.Labels = map[string]string{}
	}
	slice.Labels[discoveryv1.LabelServiceName] = endpoints.Name
	slice.Labels[discoveryv1.LabelManagedBy] = managedBy
	delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	return slice
}

// plan is what to do to the slices that are there.
type plan struct {
	create, update, remove []*discoveryv1.EndpointSlice
}

// compare plans how have becomes wanted. A slice that nobody wants is used again
// for a new one of its family, since proxies cope better with a change than with
// a deletion and a creation.
func compare(have, wanted []*discoveryv1.EndpointSlice) (p plan) {
	spare := slices.Clone(have)
	take := func(fits func(*discoveryv1.EndpointSlice) bool) *discoveryv1.EndpointSlice {
		i := slices.IndexFunc(spare, fits)
		if i < 0 {
			return nil
		}
		taken := spare[i]
		spare = slices.Delete(spare, i, i+1)
		return taken
	}
	var new []*discoveryv1.EndpointSlice
	for _, slice := range wanted {
		old := take(func(s *discoveryv1.EndpointSlice) bool { return groupOf(s) == groupOf(slice) })
		switch {
		case old == nil:
			new = append(new, slice)
		case !same(old, slice):
			p.update = append(p.update, renamed(slice, old))
		}
	}
	for _, slice := range new {
		if old := take(func(s *discoveryv1.EndpointSlice) bool { return s.AddressType == slice.AddressType }); old != nil {
			p.update = append(p.update, renamed(slice, old))
		} else {
			p.create = append(p.create, slice)
		}
	}
	p.remove = spare
	return p
}

func renamed(slice, old *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	slice.GenerateName, slice.Name, slice.ResourceVersion = "", old.Name, old.ResourceVersion
	return slice
}

func same(have, want *discoveryv1.EndpointSlice) bool {
	sorted := slices.Clone(have.Endpoints)
	sortEndpoints(sorted)
	return equality.Semantic.DeepEqual(sorted, want.Endpoints) && equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
		equality.Semantic.DeepEqual(have.Annotations, want.Annotations) && equality.Semantic.DeepEqual(have.OwnerReferences, want.OwnerReferences)
}
