package ingress

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"clusterctl/hostconfig"
)

// legacyClass is the annotation that named an Ingress's class before there was
// a field.
const legacyClass = "kubernetes.io/ingress.class"

// Values of a service port's appProtocol that say what the backend speaks.
const (
	appHTTPS           = "https"
	appH2C             = "kubernetes.io/h2c"
	appSecureWebSocket = "kubernetes.io/wss"
)

type objectName struct{ namespace, name string }

// world is what a table is derived from. The functions give nil for what is
// not there.
type world struct {
	ingresses []*networkingv1.Ingress // those of select
	service   func(objectName) *v1.Service
	slices    func(objectName) []*discoveryv1.EndpointSlice
}

// selectOurs gives the Ingresses that a class of ours is named by, the oldest
// first: what two of them claim is the older one's.
func selectOurs(ingresses []*networkingv1.Ingress, classes []*networkingv1.IngressClass) []*networkingv1.Ingress {
	ours := map[string]bool{}
	for _, class := range classes {
		ours[class.Name] = class.Spec.Controller == hostconfig.IngressController
	}
	var chosen []*networkingv1.Ingress
	for _, ingress := range ingresses {
		class := ingress.Annotations[legacyClass]
		if ingress.Spec.IngressClassName != nil {
			class = *ingress.Spec.IngressClassName
		}
		if ours[class] && ingress.DeletionTimestamp == nil {
			chosen = append(chosen, ingress)
		}
	}
	slices.SortFunc(chosen, func(a, b *networkingv1.Ingress) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	return chosen
}

// servicesOf are the services that Ingresses send requests to.
func servicesOf(ingresses []*networkingv1.Ingress) map[objectName]bool {
	found := map[objectName]bool{}
	note := func(ingress *networkingv1.Ingress, backend *networkingv1.IngressBackend) {
		if backend != nil && backend.Service != nil {
			found[objectName{ingress.Namespace, backend.Service.Name}] = true
		}
	}
	for _, ingress := range ingresses {
		note(ingress, ingress.Spec.DefaultBackend)
		for _, rule := range ingress.Spec.Rules {
			if rule.HTTP == nil {
				continue
			}
			for i := range rule.HTTP.Paths {
				note(ingress, &rule.HTTP.Paths[i].Backend)
			}
		}
	}
	return found
}

// builder makes a table.
type builder struct {
	world
	table
	targets map[string]*target
}

// build derives the table.
func build(w world) *table {
	b := builder{world: w, targets: map[string]*target{}, table: table{
		routes: map[string][]route{}, defaults: map[string]*target{}, secrets: map[string]objectName{}}}
	for _, ingress := range w.ingresses {
		b.add(ingress)
	}
	for _, routes := range b.routes {
		sortRoutes(routes)
	}
	return &b.table
}

func (b *builder) add(ingress *networkingv1.Ingress) {
	var otherwise *target
	if backend := ingress.Spec.DefaultBackend; backend != nil {
		otherwise = b.target(ingress.Namespace, backend)
		b.fallback = cmp.Or(b.fallback, otherwise)
	}
	var hosts []string
	for _, rule := range ingress.Spec.Rules {
		host := strings.ToLower(rule.Host)
		hosts = append(hosts, host)
		if otherwise != nil && b.defaults[host] == nil {
			b.defaults[host] = otherwise
		}
		if rule.HTTP == nil {
			continue
		}
		for _, p := range rule.HTTP.Paths {
			b.routes[host] = append(b.routes[host], newRoute(p, b.target(ingress.Namespace, &p.Backend)))
		}
	}
	for _, tls := range ingress.Spec.TLS {
		if tls.SecretName == "" {
			continue
		}
		names := tls.Hosts
		if len(names) == 0 {
			names = hosts
		}
		if len(names) == 0 {
			names = []string{""}
		}
		for _, name := range names {
			name = strings.ToLower(name)
			if _, taken := b.secrets[name]; !taken {
				b.secrets[name] = objectName{ingress.Namespace, tls.SecretName}
			}
		}
	}
}

// newRoute takes a path whose matching is left to the implementation for a
// prefix.
func newRoute(p networkingv1.HTTPIngressPath, to *target) route {
	r := route{path: cleanPath(p.Path), to: to}
	r.exact = p.PathType != nil && *p.PathType == networkingv1.PathTypeExact
	if !r.exact {
		r.path = strings.TrimSuffix(r.path, "/")
	}
	return r
}

// target finds a backend's endpoints. One without any is a target all the same:
// its requests fail, and do not go elsewhere.
func (b *builder) target(namespace string, backend *networkingv1.IngressBackend) *target {
	if backend.Service == nil {
		return newTarget(namespace + "/") // some other resource, which we cannot serve
	}
	asked := backend.Service.Port
	name := namespace + "/" + backend.Service.Name + ":" + cmp.Or(asked.Name, strconv.Itoa(int(asked.Number)))
	if known := b.targets[name]; known != nil {
		return known
	}
	t := newTarget(name)
	b.targets[name] = t
	key := objectName{namespace, backend.Service.Name}
	service := b.service(key)
	if service == nil || service.Spec.Type == v1.ServiceTypeExternalName {
		return t // an external name could be one that only this host may reach
	}
	i := slices.IndexFunc(service.Spec.Ports, func(p v1.ServicePort) bool {
		named := asked.Name != "" && p.Name == asked.Name
		numbered := asked.Name == "" && p.Port == asked.Number
		return (named || numbered) && (p.Protocol == v1.ProtocolTCP || p.Protocol == "")
	})
	if i < 0 {
		return t
	}
	if app := service.Spec.Ports[i].AppProtocol; app != nil {
		switch strings.ToLower(*app) {
		case appHTTPS, appSecureWebSocket:
			t.protocol = protocolHTTPS
		case appH2C:
			t.protocol = protocolH2C
		}
	}
	t.endpoints = endpoints(b.slices(key), service.Spec.Ports[i].Name)
	return t
}

// endpoints are those that are ready, or while there is none, those that still
// serve while they end.
func endpoints(list []*discoveryv1.EndpointSlice, portName string) []string {
	var ready, ending []string
	for _, slice := range list {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, port := range slice.Ports {
			if port.Port == nil || deref(port.Name, "") != portName || deref(port.Protocol, v1.ProtocolTCP) != v1.ProtocolTCP {
				continue
			}
			for _, e := range slice.Endpoints {
				if len(e.Addresses) == 0 {
					continue
				}
				address := net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*port.Port)))
				switch isReady := deref(e.Conditions.Ready, true); {
				case isReady:
					ready = append(ready, address)
				case deref(e.Conditions.Serving, false) && deref(e.Conditions.Terminating, false):
					ending = append(ending, address)
				}
			}
		}
	}
	if len(ready) == 0 {
		ready = ending
	}
	slices.Sort(ready)
	return slices.Compact(ready)
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
