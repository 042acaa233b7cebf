package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// isSidecar says whether an init container keeps running beside the others.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// containerScope is what a container's checks need to know of its pod.
type containerScope struct {
	spec    *corev1.PodSpec
	volumes map[string]*corev1.VolumeSource
	claims  sets.Set[string]
}

// fieldSet says whether a field has a value, where it may not.
type fieldSet struct {
	name string
	set  bool
}

func (s *containerScope) containers(path *field.Path) field.ErrorList {
	list := s.spec.Containers
	if len(list) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range list {
		c, at := &list[i], path.Index(i)
		errs = append(errs, s.common(c, at)...)
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, s.probesAndHooks(c, at)...)
		errs = append(errs, validateContainerRestarts(c, at)...)
	}
	return append(errs, validateHostPorts(list, path)...)
}

func (s *containerScope) initContainers(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i := range s.spec.Containers {
		names.Insert(s.spec.Containers[i].Name)
	}
	for i := range s.spec.InitContainers {
		c, at := &s.spec.InitContainers[i], path.Index(i)
		errs = append(errs, s.common(c, at)...)
		if c.RestartPolicy != nil {
			errs = append(errs, validateContainerRestarts(c, at)...)
		} else if len(c.RestartPolicyRules) > 0 {
			errs = append(errs, field.Required(at.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
		}
		if names.Has(c.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		} else if c.Name != "" {
			names.Insert(c.Name)
		}
		// Init containers run one by one: each is checked alone.
		errs = append(errs, validateHostPorts(s.spec.InitContainers[i:i+1], path)...)
		if isSidecar(c) {
			errs = append(errs, s.probesAndHooks(c, at)...)
			continue
		}
		for _, f := range []fieldSet{{"lifecycle", c.Lifecycle != nil}, {"livenessProbe", c.LivenessProbe != nil}, {"readinessProbe", c.ReadinessProbe != nil}, {"startupProbe", c.StartupProbe != nil}} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), "may not be set for init containers without restartPolicy=Always"))
			}
		}
		for j, p := range c.ResizePolicy {
			if p.RestartPolicy == corev1.RestartContainer {
				errs = append(errs, field.Invalid(at.Child("resizePolicy").Index(j).Child("restartPolicy"), p.RestartPolicy, "must not be set to 'RestartContainer' for non-sidecar initContainers"))
			}
		}
	}
	return errs
}

func (s *containerScope) ephemeralContainers(path *field.Path) field.ErrorList {
	const notHere = "cannot be set for an Ephemeral Container"
	var errs field.ErrorList
	lasting, names := sets.New[string](), sets.New[string]()
	for c := range everyContainer(s.spec, false) {
		lasting.Insert(c.Name)
		names.Insert(c.Name)
	}
	for i := range s.spec.EphemeralContainers {
		ec, at := &s.spec.EphemeralContainers[i], path.Index(i)
		c := (*corev1.Container)(&ec.EphemeralContainerCommon)
		errs = append(errs, s.common(c, at)...)
		errs = append(errs, validateImagePadding(c, at)...)
		if names.Has(ec.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), ec.Name))
		}
		names.Insert(ec.Name)
		if ec.TargetContainerName != "" && !lasting.Has(ec.TargetContainerName) {
			errs = append(errs, field.NotFound(at.Child("targetContainerName"), ec.TargetContainerName))
		}
		r := &ec.Resources
		for _, f := range []fieldSet{
			{"ports", len(ec.Ports) > 0}, {"resources", len(r.Limits)+len(r.Requests)+len(r.Claims) > 0},
			{"resizePolicy", len(ec.ResizePolicy) > 0}, {"restartPolicy", ec.RestartPolicy != nil}, {"restartPolicyRules", len(ec.RestartPolicyRules) > 0},
			{"livenessProbe", ec.LivenessProbe != nil}, {"readinessProbe", ec.ReadinessProbe != nil}, {"startupProbe", ec.StartupProbe != nil},
			{"lifecycle", ec.Lifecycle != nil},
		} {
			if f.set {
				errs = append(errs, field.Forbidden(at.Child(f.name), notHere))
			}
		}
		for j, m := range ec.VolumeMounts {
			if m.SubPath != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), notHere))
			}
			if m.SubPathExpr != "" {
				errs = append(errs, field.Forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), notHere))
			}
		}
	}
	return errs
}

// common checks what every container has.
func (s *containerScope) common(c *corev1.Container, path *field.Path) field.ErrorList {
	errs := required(c.Name, path.Child("name"))
	if c.Name != "" {
		errs = dnsLabel(c.Name, path.Child("name"))
	}
	errs = append(errs, required(c.Image, path.Child("image"))...)
	errs = append(errs, oneOf(c.TerminationMessagePolicy, path.Child("terminationMessagePolicy"), corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, validatePorts(c.Ports, path.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, path.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, path.Child("envFrom"))...)
	errs = append(errs, s.mounts(c, path.Child("volumeMounts"))...)
	errs = append(errs, s.devices(c, path.Child("volumeDevices"))...)
	errs = append(errs, oneOf(c.ImagePullPolicy, path.Child("imagePullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validateResources(&c.Resources, s.claims, path.Child("resources"), validateContainerResourceName)...)
	errs = append(errs, validateResizePolicy(c.ResizePolicy, s.spec.RestartPolicy, path.Child("resizePolicy"))...)
	return append(errs, validateSecurityContext(c.SecurityContext, ptr.Deref(s.spec.HostUsers, true), path.Child("securityContext"))...)
}

func (s *containerScope) probesAndHooks(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	grace := s.spec.TerminationGracePeriodSeconds
	if c.Lifecycle != nil {
		at := path.Child("lifecycle")
		if h := c.Lifecycle.PostStart; h != nil {
			errs = append(errs, validateHandler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, grace, at.Child("postStart"))...)
		}
		if h := c.Lifecycle.PreStop; h != nil {
			errs = append(errs, validateHandler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, grace, at.Child("preStop"))...)
		}
	}
	errs = append(errs, validateProbe(c.LivenessProbe, path.Child("livenessProbe"), true)...)
	if p := c.ReadinessProbe; p != nil {
		at := path.Child("readinessProbe")
		errs = append(errs, validateProbe(p, at, false)...)
		if p.TerminationGracePeriodSeconds != nil {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), p.TerminationGracePeriodSeconds, "must not be set for readinessProbes"))
		}
	}
	return append(errs, validateProbe(c.StartupProbe, path.Child("startupProbe"), true)...)
}

// validateContainerRestarts checks a container's own restart policy and rules.
func validateContainerRestarts(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("restartPolicy")
	if c.RestartPolicy == nil {
		if len(c.RestartPolicyRules) == 0 {
			return nil
		}
		errs = append(errs, field.Required(at, "must specify restartPolicy when restart rules are used"))
	} else {
		errs = append(errs, anyOf(*c.RestartPolicy, at, corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure)...)
	}
	if n := len(c.RestartPolicyRules); n > 20 {
		errs = append(errs, field.TooMany(path.Child("restartPolicyRules"), n, 20))
	}
	for i, rule := range c.RestartPolicyRules {
		at := path.Child("restartPolicyRules").Index(i)
		errs = append(errs, anyOf(rule.Action, at.Child("action"), corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		codes := at.Child("exitCodes")
		errs = append(errs, anyOf(rule.ExitCodes.Operator, codes.Child("operator"), corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if n := len(rule.ExitCodes.Values); n > 255 {
			errs = append(errs, field.TooMany(codes.Child("values"), n, 255))
		}
	}
	return errs
}

// validateImagePadding is for pods; templates may hold anything to be replaced.
func validateImagePadding(c *corev1.Container, path *field.Path) field.ErrorList {
	if strings.TrimSpace(c.Image) != c.Image {
		return field.ErrorList{field.Invalid(path.Child("image"), c.Image, "must not have leading or trailing whitespace")}
	}
	return nil
}

func validatePorts(ports []corev1.ContainerPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, p := range ports {
		at := path.Index(i)
		if p.Name != "" {
			if faults := validation.IsValidPortName(p.Name); len(faults) > 0 {
				errs = append(errs, invalid(at.Child("name"), p.Name, faults)...)
			} else if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		}
		if p.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, portNumber(p.ContainerPort, at.Child("containerPort"))...)
		}
		if p.HostPort != 0 {
			errs = append(errs, portNumber(p.HostPort, at.Child("hostPort"))...)
		}
		errs = append(errs, protocol(p.Protocol, at.Child("protocol"))...)
	}
	return errs
}

func protocol(p corev1.Protocol, path *field.Path) field.ErrorList {
	return oneOf(p, path, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)
}

// validateHostPorts finds host ports that two of the containers want.
func validateHostPorts(list []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for i := range list {
		for j, p := range list[i].Ports {
			if p.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", p.Protocol, p.HostIP, p.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(path.Index(i).Child("ports").Index(j).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}

func validateEnv(env []corev1.EnvVar, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, e := range env {
		at := path.Index(i)
		if e.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
		} else {
			errs = append(errs, invalid(at.Child("name"), e.Name, validation.IsRelaxedEnvVarName(e.Name))...)
		}
		errs = append(errs, validateEnvSource(e, at.Child("valueFrom"))...)
	}
	return errs
}

var envFieldPaths = sets.New("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
	"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")

func validateEnvSource(e corev1.EnvVar, path *field.Path) field.ErrorList {
	from := e.ValueFrom
	if from == nil {
		return nil
	}
	var errs field.ErrorList
	sources := 0
	if ref := from.FieldRef; ref != nil {
		sources++
		errs = append(errs, validateFieldRef(ref, envFieldPaths, path.Child("fieldRef"))...)
	}
	if ref := from.ResourceFieldRef; ref != nil {
		sources++
		errs = append(errs, validateResourceRef(ref, path.Child("resourceFieldRef"), false)...)
	}
	key := func(name, key string, path *field.Path) {
		sources++
		errs = append(errs, invalid(path.Child("name"), name, apivalidation.NameIsDNSSubdomain(name, false))...)
		if key == "" {
			errs = append(errs, field.Required(path.Child("key"), ""))
		} else {
			errs = append(errs, invalid(path.Child("key"), key, validation.IsConfigMapKey(key))...)
		}
	}
	if ref := from.ConfigMapKeyRef; ref != nil {
		key(ref.Name, ref.Key, path.Child("configMapKeyRef"))
	}
	if ref := from.SecretKeyRef; ref != nil {
		key(ref.Name, ref.Key, path.Child("secretKeyRef"))
	}
	if ref := from.FileKeyRef; ref != nil {
		sources++
		errs = append(errs, validateFileKeyRef(ref, path.Child("fileKeyRef"))...)
	}
	switch {
	case sources == 0:
		errs = append(errs, field.Invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"))
	case e.Value != "":
		errs = append(errs, field.Invalid(path, "", "may not be specified when `value` is not empty"))
	case sources > 1:
		errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
	}
	return errs
}

func validateFileKeyRef(ref *corev1.FileKeySelector, path *field.Path) field.ErrorList {
	errs := required(ref.Key, path.Child("key"))
	if ref.Key != "" {
		errs = invalid(path.Child("key"), ref.Key, validation.IsRelaxedEnvVarName(ref.Key))
	}
	if ref.VolumeName == "" {
		errs = append(errs, field.Required(path.Child("volumeName"), ""))
	} else {
		errs = append(errs, dnsLabel(ref.VolumeName, path.Child("volumeName"))...)
	}
	if ref.Path == "" {
		return append(errs, field.Required(path.Child("path"), ""))
	}
	return append(errs, noBacksteps(ref.Path, path.Child("path"))...)
}

func validateEnvFrom(from []corev1.EnvFromSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	name := func(name string, path *field.Path) {
		if name == "" {
			errs = append(errs, field.Required(path, ""))
		} else {
			errs = append(errs, invalid(path, name, apivalidation.NameIsDNSSubdomain(name, true))...)
		}
	}
	for i, f := range from {
		at := path.Index(i)
		if f.Prefix != "" {
			errs = append(errs, invalid(at.Child("prefix"), f.Prefix, validation.IsRelaxedEnvVarName(f.Prefix))...)
		}
		if f.ConfigMapRef != nil {
			name(f.ConfigMapRef.Name, at.Child("configMapRef", "name"))
		}
		if f.SecretRef != nil {
			name(f.SecretRef.Name, at.Child("secretRef", "name"))
		}
		if f.ConfigMapRef == nil && f.SecretRef == nil {
			errs = append(errs, field.Invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
		} else if f.ConfigMapRef != nil && f.SecretRef != nil {
			errs = append(errs, field.Invalid(path, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func validateResizePolicy(policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.ResourceName]()
	for i, p := range policies {
		if seen.Has(p.ResourceName) {
			errs = append(errs, field.Duplicate(path.Index(i), p.ResourceName))
		}
		seen.Insert(p.ResourceName)
		errs = append(errs, oneOf(p.ResourceName, path, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, oneOf(p.RestartPolicy, path, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && p.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(path, p.RestartPolicy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

func validateProbe(p *corev1.Probe, path *field.Path, once bool) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(handler{p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil}, nil, path)
	for _, f := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		errs = append(errs, nonNegative(int64(f.value), path.Child(f.name))...)
	}
	if t := p.TerminationGracePeriodSeconds; t != nil && *t <= 0 {
		errs = append(errs, field.Invalid(path.Child("terminationGracePeriodSeconds"), *t, "must be greater than 0"))
	}
	if once && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(path.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	return errs
}

// handler is what a probe or a lifecycle hook does: exactly one of these.
type handler struct {
	exec    *corev1.ExecAction
	httpGet *corev1.HTTPGetAction
	tcp     *corev1.TCPSocketAction
	grpc    *corev1.GRPCAction
	sleep   *corev1.SleepAction
}

func validateHandler(h handler, grace *int64, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	handlers := 0
	check := func(set bool, name string, faults func(*field.Path) field.ErrorList) {
		switch {
		case !set:
		case handlers > 0:
			errs = append(errs, field.Forbidden(path.Child(name), "may not specify more than 1 handler type"))
		default:
			handlers++
			errs = append(errs, faults(path.Child(name))...)
		}
	}
	check(h.exec != nil, "exec", func(p *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(p.Child("command"), "")}
		}
		return nil
	})
	check(h.httpGet != nil, "httpGet", func(p *field.Path) field.ErrorList { return validateHTTPGet(h.httpGet, p) })
	check(h.tcp != nil, "tcpSocket", func(p *field.Path) field.ErrorList { return portNumberOrName(h.tcp.Port, p.Child("port")) })
	check(h.grpc != nil, "grpc", func(p *field.Path) field.ErrorList {
		return portNumberOrName(intstr.FromInt32(h.grpc.Port), p.Child("port"))
	})
	check(h.sleep != nil, "sleep", func(p *field.Path) field.ErrorList {
		if grace != nil && (h.sleep.Seconds < 0 || h.sleep.Seconds > *grace) {
			return field.ErrorList{field.Invalid(p, h.sleep.Seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", *grace))}
		}
		return nil
	})
	if handlers == 0 {
		errs = append(errs, field.Required(path, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(get *corev1.HTTPGetAction, path *field.Path) field.ErrorList {
	errs := required(get.Path, path.Child("path"))
	errs = append(errs, portNumberOrName(get.Port, path.Child("port"))...)
	errs = append(errs, anyOf(get.Scheme, path.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, h := range get.HTTPHeaders {
		errs = append(errs, invalid(path.Child("httpHeaders"), h.Name, validation.IsHTTPHeaderName(h.Name))...)
	}
	return errs
}
