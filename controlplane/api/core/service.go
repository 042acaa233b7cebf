package core

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func serviceKind() api.Kind {
	return api.Define(api.Definition[*corev1.Service]{
		GroupVersion: groupVersion, Kind: "Service", Resource: "services", Singular: "service",
		ShortNames: []string{"svc"}, Categories: []string{"all"}, Path: "services/specs",
		New:     func() *corev1.Service { return &corev1.Service{} },
		NewList: func() runtime.Object { return &corev1.ServiceList{} },

		NameValidation:      apivalidation.NameIsDNSLabel,
		Default:             defaultService,
		PrepareForUpdate:    func(_ context.Context, s, old *corev1.Service) { clearServiceStatus(s, old) },
		Validate:            func(_ context.Context, s *corev1.Service) field.ErrorList { return validateService(s, nil) },
		ValidateUpdate:      func(_ context.Context, s, old *corev1.Service) field.ErrorList { return validateServiceUpdate(s, old) },
		Warnings:            func(_ context.Context, s, _ *corev1.Service) []string { return serviceWarnings(s) },
		AllowCreateOnUpdate: true,
		ReturnDeleted:       true,
		Status: &api.Status[*corev1.Service]{
			Copy:         func(to, from *corev1.Service) { to.Status = from.Status },
			Validate:     func(_ context.Context, s, _ *corev1.Service) field.ErrorList { return validateServiceStatus(s) },
			Warnings:     serviceStatusWarnings,
			KeepMetadata: true,
		},
		Fields: func(s *corev1.Service) fields.Set {
			return fields.Set{"spec.clusterIP": s.Spec.ClusterIP, "spec.type": string(s.Spec.Type)}
		},
		FieldNames: []string{"spec.clusterIP", "spec.type"},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("Type", corev1.ServiceSpec{}.SwaggerDoc()["type"]), columns.Text("Cluster-IP", corev1.ServiceSpec{}.SwaggerDoc()["clusterIP"]),
			columns.Text("External-IP", corev1.ServiceSpec{}.SwaggerDoc()["externalIPs"]), columns.Text("Port(s)", corev1.ServiceSpec{}.SwaggerDoc()["ports"]),
			columns.Age(), columns.Wide("Selector", corev1.ServiceSpec{}.SwaggerDoc()["selector"]),
		},
		Row:    serviceRow,
		Extend: extendServices,
	})
}

func defaultService(s *corev1.Service) {
	spec := &s.Spec
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	switch c := spec.SessionAffinityConfig; spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		if c == nil || c.ClientIP == nil || c.ClientIP.TimeoutSeconds == nil {
			spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(corev1.DefaultClientIPServiceAffinitySeconds)}}
		}
	}
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if isUnsetPort(p.TargetPort) {
			p.TargetPort.Type, p.TargetPort.IntVal = 0, p.Port
		}
	}
	if isExternal(s) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	if spec.Type != corev1.ServiceTypeExternalName && spec.InternalTrafficPolicy == nil {
		spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyCluster)
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts == nil {
			spec.AllocateLoadBalancerNodePorts = ptr.To(true)
		}
		for i := range s.Status.LoadBalancer.Ingress {
			if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" && in.IPMode == nil {
				in.IPMode = ptr.To(corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// isExternal says whether traffic from outside the cluster reaches a service.
func isExternal(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer || s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeClusterIP && len(s.Spec.ExternalIPs) > 0
}

func hasClusterIP(s *corev1.Service) bool { return s.Spec.Type != corev1.ServiceTypeExternalName }

func isHeadless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// getsNodePorts says whether ports without a node port are given one.
func getsNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(s.Spec.AllocateLoadBalancerNodePorts, true)
}

// mayHaveNodePorts says whether a service of this type may name node ports.
func mayHaveNodePorts(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer
}

func needsHealthPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func sameAddresses(a, b *corev1.Service) bool {
	return a.Spec.ClusterIP == b.Spec.ClusterIP && slices.Equal(a.Spec.ClusterIPs, b.Spec.ClusterIPs)
}

// keepAllocated lets a client send the manifest again that it created the
// service with: what was allocated for it then stays, where it says nothing.
func keepAllocated(s, old *corev1.Service) {
	if hasClusterIP(old) && hasClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = old.Spec.ClusterIPs
		}
	}
	if getsNodePorts(old) && getsNodePorts(s) {
		named := map[string]int32{}
		for _, p := range old.Spec.Ports {
			named[p.Name] = p.NodePort
		}
		taken := func(port int32) bool {
			return slices.ContainsFunc(s.Spec.Ports, func(p corev1.ServicePort) bool { return p.NodePort == port })
		}
		for i := range s.Spec.Ports {
			if p := &s.Spec.Ports[i]; p.NodePort == 0 && !taken(named[p.Name]) {
				p.NodePort = named[p.Name]
			}
		}
	}
	if needsHealthPort(old) && needsHealthPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// alignAddresses keeps clusterIP and clusterIPs in step for clients that know
// one of the two. old is nil on create.
func alignAddresses(s, old *corev1.Service) {
	if old == nil {
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
		return
	}
	same := slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case s.Spec.ClusterIP == old.Spec.ClusterIP && len(s.Spec.ClusterIPs) == 0:
		s.Spec.ClusterIPs = old.Spec.ClusterIPs
	case s.Spec.ClusterIP != old.Spec.ClusterIP && same && s.Spec.ClusterIP == "":
		s.Spec.ClusterIPs = nil
	case s.Spec.ClusterIP != old.Spec.ClusterIP && same:
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// dropForType clears fields that the new type has no use for, unless the
// client changed them too: then it is told by validation.
func dropForType(s, old *corev1.Service) {
	spec, was := &s.Spec, &old.Spec
	if hasClusterIP(old) && !hasClusterIP(s) {
		if sameAddresses(s, old) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = nil
		}
		if ptr.Equal(spec.IPFamilyPolicy, was.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
		if ptr.Equal(spec.InternalTrafficPolicy, was.InternalTrafficPolicy) {
			spec.InternalTrafficPolicy = nil
		}
	}
	if mayHaveNodePorts(old) && !mayHaveNodePorts(s) {
		known := nodePorts(old)
		if !slices.ContainsFunc(nodePorts(s), func(p int32) bool { return !slices.Contains(known, p) }) {
			for i := range spec.Ports {
				spec.Ports[i].NodePort = 0
			}
		}
	}
	if needsHealthPort(old) && !needsHealthPort(s) && spec.HealthCheckNodePort == was.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if was.Type == corev1.ServiceTypeLoadBalancer && spec.Type != was.Type {
		if ptr.Equal(spec.AllocateLoadBalancerNodePorts, was.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if ptr.Equal(spec.LoadBalancerClass, was.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if isExternal(old) && !isExternal(s) && spec.ExternalTrafficPolicy == was.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
}

// clearServiceStatus forgets the load balancer of a service that has none now.
func clearServiceStatus(s, old *corev1.Service) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer {
		s.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func extendServices(env *api.Environment, store, status *registry.Store) (map[string]rest.Storage, error) {
	ports, err := newNodePortAllocator(env)
	if err != nil {
		return nil, err
	}
	addresses, err := newAddressAllocator(env)
	if err != nil {
		return nil, err
	}
	env.Background("service-node-ports", func(ctx context.Context) { repairNodePorts(ctx, env, ports) })
	begin := func(ctx context.Context, s, old *corev1.Service, dryRun bool) (registry.FinishFunc, error) {
		ips, err := addresses.update(ctx, s, old, dryRun)
		if err != nil {
			return nil, err
		}
		numbers, err := ports.update(ctx, s, old, dryRun)
		if err != nil {
			ips.finish(ctx, false)
			return nil, err
		}
		return func(ctx context.Context, success bool) {
			ips.finish(ctx, success)
			numbers.finish(ctx, success)
		}, nil
	}
	store.BeginCreate = func(ctx context.Context, object runtime.Object, options *metav1.CreateOptions) (registry.FinishFunc, error) {
		s := object.(*corev1.Service)
		alignAddresses(s, nil)
		return begin(ctx, s, nil, dryrun.IsDryRun(options.DryRun))
	}
	store.BeginUpdate = func(ctx context.Context, object, current runtime.Object, options *metav1.UpdateOptions) (registry.FinishFunc, error) {
		s, old := object.(*corev1.Service), current.(*corev1.Service)
		keepAllocated(s, old)
		alignAddresses(s, old)
		dropForType(s, old)
		if apiequality.Semantic.DeepEqual(s.Spec, old.Spec) {
			return func(context.Context, bool) {}, nil
		}
		return begin(ctx, s, old, dryrun.IsDryRun(options.DryRun))
	}
	store.AfterDelete = func(object runtime.Object, options *metav1.DeleteOptions) {
		if dryrun.IsDryRun(options.DryRun) {
			return
		}
		s := object.(*corev1.Service)
		ctx := request.WithNamespace(context.Background(), s.Namespace)
		addresses.release(ctx, s, clusterIPs(s))
		ports.release(ctx, nodePorts(s))
		// The endpoints must not serve the next service of this name.
		if endpoints, ok := env.Lookup("/endpoints").(rest.GracefulDeleter); ok {
			if _, _, err := endpoints.Delete(ctx, s.Name, rest.ValidateAllObjectFunc, &metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				slog.Error("delete endpoints of deleted service", "service", s.Namespace+"/"+s.Name, "error", err)
			}
		}
	}
	// A change of the status may remove the last finalizer.
	status.AfterDelete = store.AfterDelete
	return map[string]rest.Storage{"services/proxy": newServiceProxy(env, store)}, nil
}

// newServiceProxy reaches one of a service's ready endpoints that is a pod.
func newServiceProxy(env *api.Environment, services rest.Getter) *proxyTo {
	return &proxyTo{
		options: func() runtime.Object { return &corev1.ServiceProxyOptions{} },
		path:    func(o runtime.Object) string { return o.(*corev1.ServiceProxyOptions).Path },
		locate: func(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
			scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
			if !valid {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", id))
			}
			port, err := portName(ctx, services, name, port)
			if err != nil {
				return nil, nil, err
			}
			host, err := pickEndpoint(ctx, env, name, port)
			if err != nil {
				return nil, nil, err
			}
			if host == "" {
				return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
			}
			return &url.URL{Scheme: scheme, Host: host}, proxyTransport, nil
		},
	}
}

// portName turns a port number into the name of the service's port.
func portName(ctx context.Context, services rest.Getter, name, port string) (string, error) {
	number, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return port, nil // it is a name already
	}
	object, err := services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	for _, p := range object.(*corev1.Service).Spec.Ports {
		if p.Port == int32(number) {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
}

func pickEndpoint(ctx context.Context, env *api.Environment, service, port string) (string, error) {
	endpoints, err := getter(env, "/endpoints")
	if err != nil {
		return "", err
	}
	pods, err := getter(env, "/pods")
	if err != nil {
		return "", err
	}
	object, err := endpoints.Get(ctx, service, &metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	var hosts []string
	targets := map[string]*corev1.ObjectReference{}
	for _, subset := range object.(*corev1.Endpoints).Subsets { //nolint:staticcheck // the proxy is specified on them
		for _, p := range subset.Ports {
			for _, a := range subset.Addresses {
				if p.Name == port && a.TargetRef != nil && a.TargetRef.Namespace == request.NamespaceValue(ctx) {
					host := net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port)))
					hosts, targets[host] = append(hosts, host), a.TargetRef
				}
			}
		}
	}
	rand.Shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	for _, host := range hosts {
		pod, err := podReader{pods}.get(ctx, targets[host].Name)
		if err != nil {
			continue // gone: try the next
		}
		ip, _, err := net.SplitHostPort(host)
		if err == nil && slices.Contains(podAddresses(&pod.Status), ip) {
			return host, nil
		}
	}
	return "", nil
}

func serviceRow(s *corev1.Service) []any {
	ip := ""
	if len(s.Spec.ClusterIPs) > 0 {
		ip = s.Spec.ClusterIPs[0]
	}
	ports := make([]string, len(s.Spec.Ports))
	for i, p := range s.Spec.Ports {
		ports[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			ports[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return []any{s.Name, string(s.Spec.Type), orNone(ip), externalIP(s), orNone(strings.Join(ports, ",")),
		columns.Since(s.CreationTimestamp.Time), labels.FormatLabels(s.Spec.Selector)}
}

func externalIP(s *corev1.Service) string {
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var list []string
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				list = append(list, in.IP)
			} else if in.Hostname != "" {
				list = append(list, in.Hostname)
			}
		}
		if list = append(list, s.Spec.ExternalIPs...); len(list) == 0 {
			return "<pending>"
		}
		return strings.Join(list, ",")
	}
	return orNone(strings.Join(s.Spec.ExternalIPs, ","))
}
