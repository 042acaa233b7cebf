package pods

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/downward"
	"clusterctl/nodeagent/volumes"
)

// environment is the container's environment: services, then envFrom, then
// env, later ones winning, in a stable order.
func (a *Agent) environment(ctx context.Context, pod *v1.Pod, c *v1.Container, mounted *volumes.Mounted) ([]*criv1.KeyValue, map[string]string, error) {
	values := map[string]string{}
	for _, from := range c.EnvFrom {
		data, err := a.envFrom(ctx, pod, from)
		if err != nil {
			return nil, nil, err
		}
		for k, v := range data {
			if len(validation.IsRelaxedEnvVarName(from.Prefix+k)) == 0 {
				values[from.Prefix+k] = v
			}
		}
	}
	services, err := a.serviceVariables(pod)
	if err != nil {
		return nil, nil, err
	}
	explicit := map[string]string{}
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			v, ok, err := a.envValue(ctx, pod, c, e.ValueFrom, mounted)
			if err != nil {
				return nil, nil, err
			}
			if !ok {
				continue
			}
			value = v
		} else {
			value = expand(value, explicit, values, services)
		}
		explicit[e.Name] = value
	}
	for k, v := range services {
		if _, ok := values[k]; !ok {
			values[k] = v
		}
	}
	maps.Copy(values, explicit)
	list := make([]*criv1.KeyValue, 0, len(values))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		list = append(list, &criv1.KeyValue{Key: k, Value: []byte(values[k])})
	}
	return list, values, nil
}

func (a *Agent) envFrom(ctx context.Context, pod *v1.Pod, from v1.EnvFromSource) (map[string]string, error) {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		cm, err := a.Objects.ConfigMap(ctx, pod.UID, pod.Namespace, from.ConfigMapRef.Name)
		if err != nil {
			return nil, unlessOptional(err, from.ConfigMapRef.Optional)
		}
		maps.Copy(data, cm.Data)
	case from.SecretRef != nil:
		secret, err := a.Objects.Secret(ctx, pod.UID, pod.Namespace, from.SecretRef.Name)
		if err != nil {
			return nil, unlessOptional(err, from.SecretRef.Optional)
		}
		for k, v := range secret.Data {
			data[k] = string(v)
		}
	}
	return data, nil
}

// envValue is the value that a source refers to; false if it is optional and
// not there.
func (a *Agent) envValue(ctx context.Context, pod *v1.Pod, c *v1.Container, from *v1.EnvVarSource, mounted *volumes.Mounted) (string, bool, error) {
	switch {
	case from.FieldRef != nil:
		v, err := downward.Field(pod, from.FieldRef.FieldPath)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err := downward.Resource(pod, c, from.ResourceFieldRef, a.Allocatable())
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		cm, err := a.Objects.ConfigMap(ctx, pod.UID, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		v, ok := cm.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		secret, err := a.Objects.Secret(ctx, pod.UID, pod.Namespace, ref.Name)
		if err != nil {
			return "", false, unlessOptional(err, ref.Optional)
		}
		v, ok := secret.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	case from.FileKeyRef != nil:
		return a.envFile(pod, from.FileKeyRef, mounted)
	}
	return "", false, fmt.Errorf("the source of an environment variable is not supported by the node agent")
}

func unlessOptional(err error, optional *bool) error {
	if isTrue(optional) && apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func isTrue(b *bool) bool { return b != nil && *b }

// serviceVariables tell the pod of the services in its namespace, if it
// wants to know, and of the API server in any case.
func (a *Agent) serviceVariables(pod *v1.Pod) (map[string]string, error) {
	values := map[string]string{}
	add := func(namespace string, wanted func(string) bool) error {
		services, err := a.Services.Services(namespace).List(labels.Everything())
		if err != nil {
			return fmt.Errorf("list services: %w", err)
		}
		for _, s := range services {
			if wanted(s.Name) && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != v1.ClusterIPNone && len(s.Spec.Ports) > 0 {
				serviceVariables(values, s)
			}
		}
		return nil
	}
	if err := add("default", func(name string) bool { return name == "kubernetes" }); err != nil {
		return nil, err
	}
	if pod.Spec.EnableServiceLinks == nil || *pod.Spec.EnableServiceLinks {
		if err := add(pod.Namespace, func(string) bool { return true }); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func serviceVariables(values map[string]string, s *v1.Service) {
	name := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	values[name+"_SERVICE_HOST"] = ip
	values[name+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			values[name+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
		}
		proto := p.Protocol
		if proto == "" {
			proto = v1.ProtocolTCP
		}
		url := strings.ToLower(string(proto)) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			values[name+"_PORT"] = url
		}
		prefix := fmt.Sprintf("%s_PORT_%s_%s", name, port, strings.ToUpper(string(proto)))
		values[prefix] = url
		values[prefix+"_PROTO"] = strings.ToLower(string(proto))
		values[prefix+"_PORT"] = port
		values[prefix+"_ADDR"] = ip
	}
}

// expand replaces $(NAME) by the first of values that has NAME, and $$ by $.
// What refers to nothing stays as it stands.
func expand(text string, values ...map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			b.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				b.WriteString(text[i : i+2])
				i++
				continue
			}
			reference := text[i : i+end+1]
			b.WriteString(lookup(reference, reference[2:end], values))
			i += end
		default:
			b.WriteByte('$')
			b.WriteByte(text[i+1])
			i++
		}
	}
	return b.String()
}

func lookup(otherwise, name string, values []map[string]string) string {
	for _, m := range values {
		if v, ok := m[name]; ok {
			return v
		}
	}
	return otherwise
}
