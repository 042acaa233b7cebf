package core

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

const (
	// EventPath is where events of both groups lie below /registry.
	EventPath = "events"
	// EventSeconds is the life of an event.
	EventSeconds = 60 * 60
)

func eventKind() api.Kind {
	return api.Define(api.Definition[*corev1.Event]{
		GroupVersion: groupVersion, Kind: "Event", Resource: "events", Singular: "event", ShortNames: []string{"ev"}, Path: EventPath,
		New:     func() *corev1.Event { return &corev1.Event{} },
		NewList: func() runtime.Object { return &corev1.EventList{} },

		Validate: func(ctx context.Context, e *corev1.Event) field.ErrorList {
			if isStrict(ctx) {
				return ValidateStrictly(e)
			}
			return ValidateEvent(e, "reportingComponent")
		},
		ValidateUpdate: func(ctx context.Context, e, old *corev1.Event) field.ErrorList {
			if isStrict(ctx) {
				return ValidateStrictUpdate(e, old)
			}
			return ValidateEvent(e, "reportingComponent")
		},
		// Nobody ever checked more of an event's metadata than paths need.
		NameValidation:      PathSegmentName,
		PlainFinalizers:     true,
		AllowCreateOnUpdate: true,
		TTL:                 func(*corev1.Event) uint64 { return EventSeconds },
		Fields:              EventFields,
		FieldNames: []string{"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
			"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type"},
		Columns: EventColumns(),
		Row:     EventRow,
	})
}

// PathSegmentName wants of a name only that it can be part of a path.
func PathSegmentName(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// EventFields are what field selectors see of an event, by the names of the
// core group.
func EventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind": e.InvolvedObject.Kind, "involvedObject.namespace": e.InvolvedObject.Namespace,
		"involvedObject.name": e.InvolvedObject.Name, "involvedObject.uid": string(e.InvolvedObject.UID),
		"involvedObject.apiVersion": e.InvolvedObject.APIVersion, "involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath": e.InvolvedObject.FieldPath,
		"reason":                   e.Reason, "reportingComponent": e.ReportingController, "source": source, "type": e.Type,
	}
}

// ValidateEvent checks what events of both groups have in common. controller
// is the name that the request's group has for the field reportingController.
func ValidateEvent(e *corev1.Event, controller string) field.ErrorList {
	var errs field.ErrorList
	mismatch := field.Invalid(field.NewPath("involvedObject", "namespace"), e.InvolvedObject.Namespace, "does not match event.namespace")
	about := e.InvolvedObject.Namespace
	if e.EventTime.IsZero() {
		// Events without an eventTime are of the old kind, and checked little.
		fits := e.Namespace == about
		if about == "" {
			fits = e.Namespace == metav1.NamespaceNone || e.Namespace == metav1.NamespaceDefault
		}
		if !fits {
			errs = append(errs, mismatch)
		}
		return append(errs, dnsSubdomain(e.Namespace, field.NewPath("namespace"))...)
	}
	if about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
		errs = append(errs, mismatch)
	}
	errs = append(errs, required(e.ReportingController, field.NewPath(controller))...)
	errs = append(errs, qualifiedName(e.ReportingController, field.NewPath(controller))...)
	for _, f := range []struct {
		name, value string
		most        int
		optional    bool
	}{
		{"reportingInstance", e.ReportingInstance, 128, false}, {"action", e.Action, 128, false},
		{"reason", e.Reason, 128, false}, {"message", e.Message, 1024, true},
	} {
		if f.value == "" && !f.optional {
			errs = append(errs, field.Required(field.NewPath(f.name), ""))
		}
		if len(f.value) > f.most {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", fmt.Sprintf("can have at most %v characters", f.most)))
		}
	}
	return append(errs, dnsSubdomain(e.Namespace, field.NewPath("namespace"))...)
}

// EventColumns go with EventRow.
func EventColumns() []metav1.TableColumnDefinition {
	doc := corev1.Event{}.SwaggerDoc()
	name := columns.Name()
	name.Priority = 1
	return []metav1.TableColumnDefinition{
		columns.Text("Last Seen", doc["lastTimestamp"]), columns.Text("Type", doc["type"]), columns.Text("Reason", doc["reason"]),
		columns.Text("Object", doc["involvedObject"]), columns.Wide("Subobject", corev1.ObjectReference{}.SwaggerDoc()["fieldPath"]), columns.Wide("Source", doc["source"]),
		columns.Text("Message", doc["message"]), columns.Wide("First Seen", doc["firstTimestamp"]), columns.Wide("Count", doc["count"]), name,
	}
}

// EventRow prints an event as kubectl users know it.
func EventRow(e *corev1.Event) []any {
	first := columns.Since(e.FirstTimestamp.Time)
	if e.FirstTimestamp.IsZero() {
		first = columns.Since(e.EventTime.Time)
	}
	last, count := columns.Since(e.LastTimestamp.Time), int64(e.Count)
	if e.LastTimestamp.IsZero() {
		last = first
	}
	if e.Series != nil {
		last, count = columns.Since(e.Series.LastObservedTime.Time), int64(e.Series.Count)
	} else if count == 0 {
		count = 1
	}
	object := strings.ToLower(e.InvolvedObject.Kind)
	if e.InvolvedObject.Name != "" {
		object += "/" + e.InvolvedObject.Name
	}
	source := cmp.Or(e.Source.Component, e.ReportingController)
	if instance := cmp.Or(e.Source.Host, e.ReportingInstance); instance != "" {
		source += ", " + instance
	}
	return []any{last, e.Type, e.Reason, object, e.InvolvedObject.FieldPath, source, strings.TrimSpace(e.Message), first, count, e.Name}
}
