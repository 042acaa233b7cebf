package events

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/core"
)

// eventKind is events.k8s.io/v1 Event.
type eventKind struct{}

func (eventKind) Name() schema.GroupVersionKind { return eventsv1.SchemeGroupVersion.WithKind("Event") }

func (eventKind) GroupVersionResource() schema.GroupVersionResource {
	return eventsv1.SchemeGroupVersion.WithResource("events")
}

// selectable are the names of fields in this group, and in core's.
var selectable = map[string]string{
	"metadata.name":             "metadata.name",
	"metadata.namespace":        "metadata.namespace",
	"reason":                    "reason",
	"type":                      "type",
	"reportingController":       "reportingComponent",
	"regarding.kind":            "involvedObject.kind",
	"regarding.namespace":       "involvedObject.namespace",
	"regarding.name":            "involvedObject.name",
	"regarding.uid":             "involvedObject.uid",
	"regarding.apiVersion":      "involvedObject.apiVersion",
	"regarding.resourceVersion": "involvedObject.resourceVersion",
	"regarding.fieldPath":       "involvedObject.fieldPath",
}

func (k eventKind) Register(scheme *runtime.Scheme) error {
	internal := schema.GroupVersion{Group: eventsv1.GroupName, Version: runtime.APIVersionInternal}
	for _, gv := range []schema.GroupVersion{eventsv1.SchemeGroupVersion, internal} {
		scheme.AddKnownTypes(gv, &eventsv1.Event{}, &eventsv1.EventList{})
	}
	return scheme.AddFieldLabelConversionFunc(k.Name(), func(label, value string) (string, string, error) {
		name, ok := selectable[label]
		if !ok {
			return "", "", fmt.Errorf("field label not supported: %s", label)
		}
		return name, value, nil
	})
}

func (eventKind) Storages(env *api.Environment) (map[string]rest.Storage, error) {
	return map[string]rest.Storage{"events": &eventREST{env: env}}, nil
}

// check is what a new event has to fulfil, in core's shape and with the field
// names that clients of this group know from Kubernetes.
func check(e *corev1.Event) field.ErrorList {
	errs := core.ValidateEvent(e, "reportingController")
	errs = append(errs, checkSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, old := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.FirstTimestamp.IsZero()},
		{"lastTimestamp", !e.LastTimestamp.IsZero()},
		{"count", e.Count != 0},
		{"source", e.Source != corev1.EventSource{}},
	} {
		if old.set {
			errs = append(errs, field.Invalid(field.NewPath(old.name), "", "needs to be unset"))
		}
	}
	return errs
}

func checkSeries(series *corev1.EventSeries) (errs field.ErrorList) {
	if series == nil {
		return nil
	}
	if series.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if series.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// checkUpdate lets nothing change but the series.
func checkUpdate(e, old *corev1.Event) field.ErrorList {
	errs := core.ValidateEvent(e, "reportingController")
	if (e.Series == nil) != (old.Series == nil) || e.Series != nil && *e.Series != *old.Series {
		errs = append(errs, checkSeries(e.Series)...)
	}
	same := func(name string, now, before any) {
		errs = append(errs, apivalidation.ValidateImmutableField(now, before, field.NewPath(name))...)
	}
	same("involvedObject", e.InvolvedObject, old.InvolvedObject)
	same("reason", e.Reason, old.Reason)
	same("message", e.Message, old.Message)
	same("source", e.Source, old.Source)
	same("firstTimestamp", e.FirstTimestamp, old.FirstTimestamp)
	same("lastTimestamp", e.LastTimestamp, old.LastTimestamp)
	same("count", e.Count, old.Count)
	same("type", e.Type, old.Type)
	// The wire knows microseconds only.
	if !e.EventTime.Truncate(time.Microsecond).Equal(old.EventTime.Truncate(time.Microsecond)) {
		same("eventTime", e.EventTime, old.EventTime)
	}
	same("action", e.Action, old.Action)
	same("related", e.Related, old.Related)
	same("reportingController", e.ReportingController, old.ReportingController)
	same("reportingInstance", e.ReportingInstance, old.ReportingInstance)
	return errs
}
