package networking

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

// classAnnotation named an ingress's class before there was a field for it.
const classAnnotation = "kubernetes.io/ingress.class"

var ingress = api.Definition[*networkingv1.Ingress]{
	GroupVersion: networkingv1.SchemeGroupVersion,
	Kind:         "Ingress",
	Resource:     "ingresses",
	Singular:     "ingress",
	ShortNames:   []string{"ing"},
	Path:         "ingress",
	New:          func() *networkingv1.Ingress { return &networkingv1.Ingress{} },
	NewList:      func() runtime.Object { return &networkingv1.IngressList{} },

	Validate: func(_ context.Context, i *networkingv1.Ingress) field.ErrorList {
		errs := checkIngress(&i.Spec, leniency{})
		if class, set := i.Annotations[classAnnotation]; set && i.Spec.IngressClassName != nil && class != *i.Spec.IngressClassName {
			errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class, "must match `ingressClassName` when both are specified"))
		}
		return errs
	},
	ValidateUpdate: func(_ context.Context, i, old *networkingv1.Ingress) field.ErrorList {
		return checkIngress(&i.Spec, leniencyOf(&old.Spec))
	},
	Warnings: func(_ context.Context, i, old *networkingv1.Ingress) []string {
		if _, set := i.Annotations[classAnnotation]; old != nil || !set || i.Spec.IngressClassName != nil {
			return nil
		}
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
	},
	Spec: func(i *networkingv1.Ingress) any { return i.Spec },
	Status: &api.Status[*networkingv1.Ingress]{
		Copy:         func(to, from *networkingv1.Ingress) { to.Status = from.Status },
		KeepMetadata: true,
		Warnings: func(i *networkingv1.Ingress) (warnings []string) {
			path := field.NewPath("status", "loadBalancer", "ingress")
			for j, ingress := range i.Status.LoadBalancer.Ingress {
				if ingress.IP != "" {
					warnings = append(warnings, validation.GetWarningsForIP(path.Index(j), ingress.IP)...)
				}
			}
			return warnings
		},
		Validate: func(_ context.Context, i, old *networkingv1.Ingress) field.ErrorList {
			return checkIngressStatus(i, old)
		},
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
		columns.Text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
		columns.Text("Address", "Address is a list containing ingress points for the load-balancer"),
		columns.Text("Ports", "Ports of TLS configurations that open"),
		columns.Age(),
	},
	Row: func(i *networkingv1.Ingress) []any {
		ports := "80"
		if len(i.Spec.TLS) > 0 {
			ports = "80, 443"
		}
		return []any{i.Name, ptr.Deref(i.Spec.IngressClassName, "<none>"), hostsCell(i.Spec.Rules),
			addressCell(i.Status.LoadBalancer.Ingress), ports, columns.Since(i.CreationTimestamp.Time)}
	},
}

// hostsCell names up to three hosts.
func hostsCell(rules []networkingv1.IngressRule) string {
	const most = 3
	var hosts []string
	more := false
	for _, rule := range rules {
		if len(hosts) == most {
			more = true
		} else if rule.Host != "" {
			hosts = append(hosts, rule.Host)
		}
	}
	switch text := strings.Join(hosts, ","); {
	case len(hosts) == 0:
		return "*"
	case more:
		return fmt.Sprintf("%s + %d more...", text, len(rules)-most)
	default:
		return text
	}
}

func addressCell(points []networkingv1.IngressLoadBalancerIngress) string {
	names := sets.New[string]()
	for _, p := range points {
		if p.IP != "" {
			names.Insert(p.IP)
		} else if p.Hostname != "" {
			names.Insert(p.Hostname)
		}
	}
	return strings.Join(sets.List(names), ",")
}

// leniency is what an ingress may keep that got in before it was checked.
type leniency struct{ secretNames, wildcardRules bool }

func leniencyOf(old *networkingv1.IngressSpec) (l leniency) {
	for _, tls := range old.TLS {
		l.secretNames = l.secretNames || len(secretNameFaults(tls.SecretName)) > 0
	}
	for i := range old.Rules {
		rule := &old.Rules[i]
		l.wildcardRules = l.wildcardRules || strings.Contains(rule.Host, "*") && len(checkHTTP(rule.HTTP, field.NewPath("http"))) > 0
	}
	return l
}

// invalid makes one error of each message about value.
func invalid(path *field.Path, value any, messages []string) (errs field.ErrorList) {
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}

func secretNameFaults(name string) []string {
	if name == "" {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

// checkHost checks a name that may start with a wildcard.
func checkHost(host string, path *field.Path) field.ErrorList {
	if strings.Contains(host, "*") {
		return invalid(path, host, validation.IsWildcardDNS1123Subdomain(host))
	}
	return invalid(path, host, validation.IsDNS1123Subdomain(host))
}

func checkIngress(spec *networkingv1.IngressSpec, lenient leniency) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if len(spec.Rules) == 0 && spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if spec.DefaultBackend != nil {
		errs = append(errs, checkBackend(spec.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range spec.Rules {
		rule, at := &spec.Rules[i], path.Child("rules").Index(i)
		if rule.Host != "" {
			if isIP(rule.Host) {
				errs = append(errs, field.Invalid(at.Child("host"), rule.Host, "must be a DNS name, not an IP address"))
			}
			errs = append(errs, checkHost(rule.Host, at.Child("host"))...)
		}
		if !lenient.wildcardRules || !strings.Contains(rule.Host, "*") {
			errs = append(errs, checkHTTP(rule.HTTP, at.Child("http"))...)
		}
	}
	for i, tls := range spec.TLS {
		at := path.Child("tls").Index(i)
		for j, host := range tls.Hosts {
			errs = append(errs, checkHost(host, at.Child("hosts").Index(j))...)
		}
		if !lenient.secretNames {
			errs = append(errs, invalid(at.Child("secretName"), tls.SecretName, secretNameFaults(tls.SecretName))...)
		}
	}
	if class := spec.IngressClassName; class != nil {
		errs = append(errs, invalid(path.Child("ingressClassName"), *class, apivalidation.NameIsDNSSubdomain(*class, false))...)
	}
	return errs
}

func checkHTTP(http *networkingv1.HTTPIngressRuleValue, path *field.Path) (errs field.ErrorList) {
	if http == nil {
		return nil
	}
	if len(http.Paths) == 0 {
		errs = append(errs, field.Required(path.Child("paths"), ""))
	}
	for i := range http.Paths {
		errs = append(errs, checkHTTPPath(&http.Paths[i], path.Child("paths").Index(i))...)
	}
	return errs
}

func checkHTTPPath(p *networkingv1.HTTPIngressPath, path *field.Path) (errs field.ErrorList) {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	at := path.Child("path")
	literal := *p.PathType == networkingv1.PathTypeExact || *p.PathType == networkingv1.PathTypePrefix
	known := []networkingv1.PathType{networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix}
	if !slices.Contains(known, *p.PathType) {
		errs = append(errs, field.NotSupported(path.Child("pathType"), *p.PathType, known))
	} else if (literal || p.Path != "") && !strings.HasPrefix(p.Path, "/") {
		errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
	}
	if literal {
		for _, sequence := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, sequence) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", sequence)))
			}
		}
		for _, suffix := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, suffix) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", suffix)))
			}
		}
	}
	return append(errs, checkBackend(&p.Backend, path.Child("backend"))...)
}

func checkBackend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return checkResourceBackend(b.Resource, path.Child("resource"))
	case b.Service != nil:
		return checkServiceBackend(b.Service, path)
	}
	return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
}

func checkServiceBackend(s *networkingv1.IngressServiceBackend, path *field.Path) (errs field.ErrorList) {
	service := path.Child("service")
	if s.Name == "" {
		errs = append(errs, field.Required(service.Child("name"), ""))
	} else {
		errs = append(errs, invalid(service.Child("name"), s.Name, apivalidation.NameIsDNSLabel(s.Name, false))...)
	}
	switch named, numbered := s.Port.Name != "", s.Port.Number != 0; {
	case named && numbered:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case named:
		errs = append(errs, invalid(service.Child("port", "name"), s.Port.Name, validation.IsValidPortName(s.Port.Name))...)
	case numbered:
		errs = append(errs, invalid(service.Child("port", "number"), s.Port.Number, validation.IsValidPortNum(int(s.Port.Number)))...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

func checkResourceBackend(r *corev1.TypedLocalObjectReference, path *field.Path) (errs field.ErrorList) {
	if r.APIGroup != nil {
		errs = append(errs, invalid(path.Child("apiGroup"), *r.APIGroup, validation.IsDNS1123Subdomain(*r.APIGroup))...)
	}
	errs = append(errs, checkSegment(r.Kind, path.Child("kind"))...)
	return append(errs, checkSegment(r.Name, path.Child("name"))...)
}

// checkSegment wants a name that can stand in a path.
func checkSegment(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return invalid(path, value, content.IsPathSegmentName(value))
}

func checkIngressStatus(i, old *networkingv1.Ingress) (errs field.ErrorList) {
	var known []string
	for _, p := range old.Status.LoadBalancer.Ingress {
		known = append(known, p.IP)
	}
	path := field.NewPath("status", "loadBalancer", "ingress")
	for n, p := range i.Status.LoadBalancer.Ingress {
		if p.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(path.Index(n).Child("ip"), p.IP, true, known)...)
		}
		if p.Hostname == "" {
			continue
		}
		at := path.Index(n).Child("hostname")
		errs = append(errs, invalid(at, p.Hostname, validation.IsDNS1123Subdomain(p.Hostname))...)
		if isIP(p.Hostname) {
			errs = append(errs, field.Invalid(at, p.Hostname, "must be a DNS name, not an IP address"))
		}
	}
	return errs
}
