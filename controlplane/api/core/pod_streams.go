package core

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/filters"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	streams "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

// podReader reads pods by name, in the request's namespace.
type podReader struct{ store rest.Getter }

func (r podReader) get(ctx context.Context, name string) (*corev1.Pod, error) {
	object, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("read pod %s: got a %T", name, object)
	}
	return pod, nil
}

// chooseContainer is the one named, or the only one there is.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	var names []string
	for c := range everyContainer(&pod.Spec, true) {
		names = append(names, c.Name)
	}
	switch {
	case name != "" && slices.Contains(names, name):
		return name, nil
	case name != "":
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	case len(pod.Spec.Containers) == 1:
		return pod.Spec.Containers[0].Name, nil
	case len(pod.Spec.Containers) == 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s, choose one of: %s", pod.Name, names))
}

// agentURL is where the node agent serves path for the pod. It is nil for a
// pod without a node.
func agentURL(ctx context.Context, nodes api.NodeConnector, pod *corev1.Pod, path []string, params url.Values) (*url.URL, http.RoundTripper, error) {
	if pod.Spec.NodeName == "" {
		return nil, nil, nil
	}
	base, transport, err := nodes.Connect(ctx, types.NodeName(pod.Spec.NodeName))
	if err != nil {
		return nil, nil, err
	}
	location := base.JoinPath(path...)
	location.RawQuery = params.Encode()
	return location, transport, nil
}

// podLog serves pods/log.
type podLog struct {
	pods  podReader
	nodes api.NodeConnector
}

var (
	_ rest.GetterWithOptions = (*podLog)(nil)
	_ rest.StorageMetadata   = (*podLog)(nil)
)

func (*podLog) New() runtime.Object { return &corev1.Pod{} }
func (*podLog) Destroy()            {}

func (*podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }
func (*podLog) ProducesObject(string) any         { return "" }

func (*podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

// OverrideMetricsVerb counts logs, which may stream for hours, as connections.
func (*podLog) OverrideMetricsVerb(verb string) string {
	if verb == "GET" {
		return "CONNECT"
	}
	return verb
}

func (l *podLog) Get(ctx context.Context, name string, object runtime.Object) (runtime.Object, error) {
	options, ok := object.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("read log options: got a %T", object)
	}
	if options.Stream == nil {
		options.Stream = ptr.To(corev1.LogStreamAll)
	}
	if errs := validateLogOptions(options); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "PodLogOptions"}, name, errs)
	}
	pod, err := l.pods.get(ctx, name)
	if err != nil {
		return nil, err
	}
	container, err := chooseContainer(pod, options.Container)
	if err != nil {
		return nil, err
	}
	location, transport, err := agentURL(ctx, l.nodes, pod, []string{"containerLogs", pod.Namespace, pod.Name, container}, logParameters(options))
	if err != nil {
		return nil, err
	}
	return &genericrest.LocationStreamer{
		Location: location, Transport: transport, ContentType: "text/plain", Flush: options.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(schema.GroupResource{Resource: "pods/log"}, name),
		RedirectChecker: genericrest.PreventRedirects,
	}, nil
}

func logParameters(o *corev1.PodLogOptions) url.Values {
	params := url.Values{"stream": {*o.Stream}}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			params.Set(name, "true")
		}
	}
	for name, n := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if n != nil {
			params.Set(name, strconv.FormatInt(*n, 10))
		}
	}
	if o.SinceTime != nil {
		params.Set("sinceTime", o.SinceTime.Format("2006-01-02T15:04:05Z07:00"))
	}
	return params
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, notNegative))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	if o.SinceSeconds != nil && o.SinceTime != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	} else if o.SinceSeconds != nil && *o.SinceSeconds < 1 {
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	errs = append(errs, anyOf(*o.Stream, field.NewPath("stream"), corev1.LogStreamAll, corev1.LogStreamStderr, corev1.LogStreamStdout)...)
	if *o.Stream != corev1.LogStreamAll && o.TailLines != nil {
		errs = append(errs, field.Forbidden(field.NewPath(""), "`tailLines` and specific `stream` are mutually exclusive for now"))
	}
	return errs
}

// podStream serves exec, attach and port-forward: connections that are
// upgraded and passed through to the node agent, which speaks SPDY. WebSockets
// of the newer protocols are translated on the way.
type podStream struct {
	pods    podReader
	nodes   api.NodeConnector
	allowed authorizer.Authorizer
	options func() runtime.Object
	// target makes the agent's path and parameters of the options.
	target func(pod *corev1.Pod, options runtime.Object) (path []string, params url.Values, err error)
	// translate wraps the pass-through for WebSocket clients.
	translate func(through http.Handler, location *url.URL, transport http.RoundTripper, options runtime.Object) http.Handler
}

var _ rest.Connecter = (*podStream)(nil)

func (s *podStream) New() runtime.Object { return s.options() }
func (*podStream) Destroy()              {}

// ConnectMethods has GET for browsers, whose WebSockets know no other.
func (*podStream) ConnectMethods() []string { return []string{"GET", "POST"} }

func (s *podStream) NewConnectOptions() (runtime.Object, bool, string) {
	return s.options(), false, ""
}

func (s *podStream) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	// A WebSocket comes as a GET, for which the right to get was asked; it
	// must not do more than a POST with the right to create.
	if err := s.mayCreate(ctx); err != nil {
		return nil, err
	}
	pod, err := s.pods.get(ctx, name)
	if err != nil {
		return nil, err
	}
	path, params, err := s.target(pod, options)
	if err != nil {
		return nil, err
	}
	location, transport, err := agentURL(ctx, s.nodes, pod, path, params)
	if err != nil {
		return nil, err
	}
	if location == nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	through := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
	return s.translate(through, location, transport, options), nil
}

func (s *podStream) mayCreate(ctx context.Context) error {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok {
		return apierrors.NewInternalError(errors.New("no request info in context"))
	}
	if info.Verb == "create" {
		return nil
	}
	attributes, err := filters.GetAuthorizerAttributes(ctx)
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("build authorizer attributes: %w", err))
	}
	decision, reason, err := s.allowed.Authorize(ctx, asCreate{attributes})
	if err != nil {
		return err
	}
	if decision != authorizer.DecisionAllow {
		return apierrors.NewForbidden(schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}, info.Name, errors.New(reason))
	}
	return nil
}

type asCreate struct{ authorizer.Attributes }

func (asCreate) GetVerb() string { return "create" }

// newExec serves pods/exec.
func newExec(pods podReader, env *api.Environment) *podStream {
	return &podStream{
		pods: pods, nodes: env.Nodes, allowed: env.Authorizer,
		options: func() runtime.Object { return &corev1.PodExecOptions{} },
		target: func(pod *corev1.Pod, object runtime.Object) ([]string, url.Values, error) {
			o := object.(*corev1.PodExecOptions)
			container, err := chooseContainer(pod, o.Container)
			params := streamParameters(o.Stdin, o.Stdout, o.Stderr, o.TTY)
			params["command"] = o.Command
			return []string{"exec", pod.Namespace, pod.Name, container}, params, err
		},
		translate: func(through http.Handler, location *url.URL, transport http.RoundTripper, object runtime.Object) http.Handler {
			o := object.(*corev1.PodExecOptions)
			return translated(through, location, transport, streams.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
		},
	}
}

// newAttach serves pods/attach.
func newAttach(pods podReader, env *api.Environment) *podStream {
	return &podStream{
		pods: pods, nodes: env.Nodes, allowed: env.Authorizer,
		options: func() runtime.Object { return &corev1.PodAttachOptions{} },
		target: func(pod *corev1.Pod, object runtime.Object) ([]string, url.Values, error) {
			o := object.(*corev1.PodAttachOptions)
			container, err := chooseContainer(pod, o.Container)
			return []string{"attach", pod.Namespace, pod.Name, container}, streamParameters(o.Stdin, o.Stdout, o.Stderr, o.TTY), err
		},
		translate: func(through http.Handler, location *url.URL, transport http.RoundTripper, object runtime.Object) http.Handler {
			o := object.(*corev1.PodAttachOptions)
			return translated(through, location, transport, streams.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY})
		},
	}
}

// newPortForward serves pods/portforward.
func newPortForward(pods podReader, env *api.Environment) *podStream {
	return &podStream{
		pods: pods, nodes: env.Nodes, allowed: env.Authorizer,
		options: func() runtime.Object { return &corev1.PodPortForwardOptions{} },
		target: func(pod *corev1.Pod, object runtime.Object) ([]string, url.Values, error) {
			params := url.Values{}
			var ports []string
			for _, p := range object.(*corev1.PodPortForwardOptions).Ports {
				ports = append(ports, strconv.Itoa(int(p)))
			}
			if len(ports) > 0 {
				params.Set(corev1.PortHeader, strings.Join(ports, ","))
			}
			return []string{"portForward", pod.Namespace, pod.Name}, params, nil
		},
		translate: func(through http.Handler, _ *url.URL, _ http.RoundTripper, _ runtime.Object) http.Handler {
			return streams.NewTranslatingHandler(through, streams.NewTunnelingHandler(through), wsstream.IsWebSocketRequestWithTunnelingProtocol)
		},
	}
}

func translated(through http.Handler, location *url.URL, transport http.RoundTripper, options streams.Options) http.Handler {
	const unlimited = 0
	translator := streams.NewStreamTranslatorHandler(location, transport, unlimited, options)
	return streams.NewTranslatingHandler(through, translator, wsstream.IsWebSocketRequestWithStreamCloseProtocol)
}

func streamParameters(stdin, stdout, stderr, tty bool) url.Values {
	params := url.Values{}
	for name, set := range map[string]bool{corev1.ExecStdinParam: stdin, corev1.ExecStdoutParam: stdout, corev1.ExecStderrParam: stderr, corev1.ExecTTYParam: tty} {
		if set {
			params.Set(name, "1")
		}
	}
	return params
}
