package events

import (
	"fmt"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
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
