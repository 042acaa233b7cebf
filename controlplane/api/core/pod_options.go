package core

import (
	"fmt"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

// registerPodOptions teaches the scheme to read the options of pods'
// subresources from query parameters.
func registerPodOptions(scheme *runtime.Scheme) error {
	for _, register := range []func(*runtime.Scheme) error{
		fromQuery(func(q *query, o *corev1.PodLogOptions) {
			o.Container, o.Follow, o.Previous, o.Timestamps = q.text("container"), q.flag("follow"), q.flag("previous"), q.flag("timestamps")
			o.SinceSeconds, o.TailLines, o.LimitBytes = q.number("sinceSeconds"), q.number("tailLines"), q.number("limitBytes")
			o.SinceTime, o.InsecureSkipTLSVerifyBackend = q.time("sinceTime"), q.flag("insecureSkipTLSVerifyBackend")
			if s := q.text("stream"); s != "" {
				o.Stream = ptr.To(s)
			}
		}),
		fromQuery(func(q *query, o *corev1.PodExecOptions) {
			o.Stdin, o.Stdout, o.Stderr, o.TTY = q.flag("stdin"), q.flag("stdout"), q.flag("stderr"), q.flag("tty")
			o.Container, o.Command = q.text("container"), q.values["command"]
		}),
		fromQuery(func(q *query, o *corev1.PodAttachOptions) {
			o.Stdin, o.Stdout, o.Stderr, o.TTY = q.flag("stdin"), q.flag("stdout"), q.flag("stderr"), q.flag("tty")
			o.Container = q.text("container")
		}),
		fromQuery(func(q *query, o *corev1.PodPortForwardOptions) { o.Ports = q.numbers("ports") }),
		fromQuery(func(q *query, o *corev1.PodProxyOptions) { o.Path = q.text("path") }),
		fromQuery(func(q *query, o *corev1.ServiceProxyOptions) { o.Path = q.text("path") }),
		fromQuery(func(q *query, o *corev1.NodeProxyOptions) { o.Path = q.text("path") }),
	} {
		if err := register(scheme); err != nil {
			return err
		}
	}
	return nil
}

func fromQuery[T any](read func(*query, *T)) func(*runtime.Scheme) error {
	return func(scheme *runtime.Scheme) error {
		return scheme.AddConversionFunc((*url.Values)(nil), (*T)(nil), func(from, to any, _ conversion.Scope) error {
			q := &query{values: *from.(*url.Values)}
			read(q, to.(*T))
			return q.err
		})
	}
}

// query reads typed parameters and keeps the first error.
type query struct {
	values url.Values
	err    error
}

func (q *query) fail(name string, err error) {
	if err != nil && q.err == nil {
		q.err = fmt.Errorf("parameter %s: %w", name, err)
	}
}

func (q *query) text(name string) string { return q.values.Get(name) }

// flag is set by any value that is not "false" or "0", the empty one included.
func (q *query) flag(name string) bool {
	v, said := q.values[name]
	return said && (len(v) == 0 || v[0] != "false" && v[0] != "0")
}

func (q *query) number(name string) *int64 {
	s := q.text(name)
	if s == "" {
		return nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	q.fail(name, err)
	return &n
}

func (q *query) numbers(name string) []int32 {
	var list []int32
	for _, s := range q.values[name] {
		n, err := strconv.ParseInt(s, 10, 32)
		q.fail(name, err)
		list = append(list, int32(n))
	}
	return list
}

func (q *query) time(name string) *metav1.Time {
	s := q.text(name)
	if s == "" {
		return nil
	}
	t := &metav1.Time{}
	q.fail(name, t.UnmarshalQueryParameter(s))
	return t
}
