package networking

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

var ctx = context.Background()

// want compares errors with the starts of their messages.
func want(t *testing.T, errs field.ErrorList, messages ...string) {
	t.Helper()
	ok := len(errs) == len(messages)
	for i := range errs {
		ok = ok && strings.HasPrefix(errs[i].Error(), messages[i])
	}
	if !ok {
		t.Errorf("got %q, want %q", errs, messages)
	}
}

func backend(name, port string, number int32) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Name: port, Number: number}}}
}

func httpRule(host, path string, kind networkingv1.PathType) networkingv1.IngressRule {
	rule := networkingv1.IngressRule{Host: host}
	rule.HTTP = &networkingv1.HTTPIngressRuleValue{Paths: []networkingv1.HTTPIngressPath{{Path: path, PathType: &kind, Backend: backend("s", "", 80)}}}
	return rule
}

func TestInvalidIngresses(t *testing.T) {
	rules := func(list ...networkingv1.IngressRule) networkingv1.IngressSpec {
		return networkingv1.IngressSpec{Rules: list}
	}
	of := func(b networkingv1.IngressBackend) networkingv1.IngressSpec {
		return networkingv1.IngressSpec{DefaultBackend: &b}
	}
	tls := rules(httpRule("a", "/", "Exact"))
	tls.TLS = []networkingv1.IngressTLS{{Hosts: []string{"*.a", "no_good"}, SecretName: "No"}}
	class := of(backend("s", "", 80))
	class.IngressClassName = ptr.To("No")
	noType := httpRule("a", "/", "")
	noType.HTTP.Paths[0].PathType = nil
	path := "spec.rules[0].http.paths[0]"
	for name, test := range map[string]struct {
		spec networkingv1.IngressSpec
		want []string
	}{
		"rule":              {rules(httpRule("a.example.com", "/", "Prefix")), nil},
		"wildcard":          {rules(httpRule("*.example.com", "", "ImplementationSpecific")), nil},
		"backend":           {of(backend("1service", "http", 0)), nil},
		"nothing":           {rules(), []string{"spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"}},
		"address":           {rules(httpRule("10.0.0.1", "/", "Exact")), []string{`spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address`}},
		"two wildcards":     {rules(httpRule("*.*.a", "/", "Exact")), []string{`spec.rules[0].host: Invalid value: "*.*.a": a wildcard DNS-1123 subdomain`}},
		"relative":          {rules(httpRule("a", "x", "Exact")), []string{path + `.path: Invalid value: "x": must be an absolute path`}},
		"up":                {rules(httpRule("a", "/x/..", "Prefix")), []string{path + `.path: Invalid value: "/x/..": cannot end with '/..'`}},
		"slashes":           {rules(httpRule("a", "/x//y", "Prefix")), []string{path + `.path: Invalid value: "/x//y": must not contain '//'`}},
		"path type":         {rules(httpRule("a", "/", "Odd")), []string{path + `.pathType: Unsupported value: "Odd": supported values: "Exact", "ImplementationSpecific", "Prefix"`}},
		"no path type":      {rules(noType), []string{path + ".pathType: Required value: pathType must be specified"}},
		"no paths":          {rules(networkingv1.IngressRule{IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{}}}), []string{"spec.rules[0].http.paths: Required value"}},
		"no backend":        {of(networkingv1.IngressBackend{}), []string{`spec.defaultBackend: Invalid value: "": resource or service backend is required`}},
		"service unnamed":   {of(backend("", "", 80)), []string{"spec.defaultBackend.service.name: Required value"}},
		"service misnamed":  {of(backend("S", "", 80)), []string{`spec.defaultBackend.service.name: Invalid value: "S": a lowercase RFC 1123 label`}},
		"no port":           {of(backend("s", "", 0)), []string{"spec.defaultBackend: Required value: port name or number is required"}},
		"two ports":         {of(backend("s", "http", 80)), []string{`spec.defaultBackend: Invalid value: "": cannot set both port name & port number`}},
		"great port":        {of(backend("s", "", 65536)), []string{"spec.defaultBackend.service.port.number: Invalid value: 65536: must be between 1 and 65535"}},
		"resource":          {of(networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{Kind: "B", Name: "b"}}), nil},
		"resource unnamed":  {of(networkingv1.IngressBackend{Resource: &corev1.TypedLocalObjectReference{APIGroup: ptr.To("A"), Kind: "B/C"}}), []string{"spec.defaultBackend.resource.apiGroup: Invalid value", `spec.defaultBackend.resource.kind: Invalid value: "B/C": may not contain '/'`, "spec.defaultBackend.resource.name: Required value"}},
		"tls":               {tls, []string{`spec.tls[0].hosts[1]: Invalid value: "no_good"`, `spec.tls[0].secretName: Invalid value: "No"`}},
		"class":             {class, []string{`spec.ingressClassName: Invalid value: "No"`}},
		"both and resource": {of(networkingv1.IngressBackend{Service: backend("s", "", 1).Service, Resource: &corev1.TypedLocalObjectReference{}}), []string{`spec.defaultBackend: Invalid value: "": cannot set both resource and service backends`}},
	} {
		t.Run(name, func(t *testing.T) {
			want(t, ingress.Validate(ctx, &networkingv1.Ingress{Spec: test.spec}), test.want...)
		})
	}
	// Secret names that got in once may stay.
	old := &networkingv1.Ingress{Spec: tls}
	want(t, ingress.ValidateUpdate(ctx, old, old), `spec.tls[0].hosts[1]: Invalid value: "no_good"`)

	annotated := &networkingv1.Ingress{Spec: of(backend("s", "", 80))}
	annotated.Annotations = map[string]string{classAnnotation: "a"}
	if warnings := ingress.Warnings(ctx, annotated, nil); len(warnings) != 1 {
		t.Errorf("warnings %v", warnings)
	}
	annotated.Spec.IngressClassName = ptr.To("b")
	want(t, ingress.Validate(ctx, annotated), "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified")

	status := annotated.DeepCopy()
	status.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "10.0.0.256"}, {Hostname: "10.0.0.1"}, {Hostname: "a.b"}}
	want(t, ingress.Status.Validate(ctx, status, annotated), `status.loadBalancer.ingress[0].ip: Invalid value: "10.0.0.256"`, `status.loadBalancer.ingress[1].hostname: Invalid value: "10.0.0.1": must be a DNS name, not an IP address`)
}

func TestIngressRow(t *testing.T) {
	i := &networkingv1.Ingress{}
	for _, host := range []string{"a", "b", "", "c", "d", "e"} {
		i.Spec.Rules = append(i.Spec.Rules, networkingv1.IngressRule{Host: host})
	}
	i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{Hostname: "z"}, {IP: "10.0.0.1"}}
	row := ingress.Row(i)
	if len(row) != len(ingress.Columns) || row[1] != "<none>" || row[2] != "a,b,c + 3 more..." || row[3] != "10.0.0.1,z" || row[4] != "80" {
		t.Errorf("row %v", row)
	}
}

func TestInvalidIngressClasses(t *testing.T) {
	class := func(change func(*networkingv1.IngressClassParametersReference)) *networkingv1.IngressClass {
		c := &networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "example.com/c", Parameters: &networkingv1.IngressClassParametersReference{Kind: "K", Name: "n"}}}
		change(c.Spec.Parameters)
		ingressClass.Default(c)
		return c
	}
	path := "spec.parameters"
	for name, test := range map[string]struct {
		class *networkingv1.IngressClass
		want  []string
	}{
		"plain": {class(func(*networkingv1.IngressClassParametersReference) {}), nil},
		"namespaced": {class(func(p *networkingv1.IngressClassParametersReference) {
			p.Scope, p.Namespace = ptr.To("Namespace"), ptr.To("n")
		}), nil},
		"controller":  {&networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "c"}}, []string{`spec.controller: Invalid value: "c": must be a domain-prefixed path`}},
		"unnamed":     {class(func(p *networkingv1.IngressClassParametersReference) { p.Kind, p.Name = "", "" }), []string{path + ".kind: Required value", path + ".name: Required value"}},
		"scope":       {class(func(p *networkingv1.IngressClassParametersReference) { p.Scope = ptr.To("Odd") }), []string{path + `.scope: Unsupported value: "Odd": supported values: "Cluster", "Namespace"`}},
		"nowhere":     {class(func(p *networkingv1.IngressClassParametersReference) { p.Scope = ptr.To("Namespace") }), []string{path + ".namespace: Required value: `parameters.scope` is set to 'Namespace'"}},
		"everywhere":  {class(func(p *networkingv1.IngressClassParametersReference) { p.Namespace = ptr.To("n") }), []string{path + ".namespace: Forbidden: `parameters.scope` is set to 'Cluster'"}},
		"odd group":   {class(func(p *networkingv1.IngressClassParametersReference) { p.APIGroup = ptr.To("G") }), []string{path + `.apiGroup: Invalid value: "G"`}},
		"long prefix": {&networkingv1.IngressClass{Spec: networkingv1.IngressClassSpec{Controller: "example.com/" + strings.Repeat("x", 250)}}, []string{"spec.controller: Too long: may not be more than 250 bytes"}},
	} {
		t.Run(name, func(t *testing.T) { want(t, ingressClass.Validate(ctx, test.class), test.want...) })
	}
	a := class(func(p *networkingv1.IngressClassParametersReference) { p.APIGroup = ptr.To("g") })
	a.Name, a.Annotations = "a", map[string]string{networkingv1.AnnotationIsDefaultIngressClass: "true"}
	b := a.DeepCopy()
	b.Spec.Controller = "example.com/d"
	want(t, ingressClass.ValidateUpdate(ctx, b, a), `spec.controller: Invalid value: "example.com/d": field is immutable`)
	if row := ingressClass.Row(a); len(row) != len(ingressClass.Columns) || row[0] != "a (default)" || row[2] != "K.g/n" {
		t.Errorf("row %v", row)
	}
}
