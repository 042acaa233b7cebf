package events

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// The two shapes share what their pointers point to: neither side may change
// that.

func toCore(in *eventsv1.Event) *corev1.Event {
	out := &corev1.Event{
		ObjectMeta:          in.ObjectMeta,
		InvolvedObject:      in.Regarding,
		Reason:              in.Reason,
		Message:             in.Note,
		Source:              in.DeprecatedSource,
		FirstTimestamp:      in.DeprecatedFirstTimestamp,
		LastTimestamp:       in.DeprecatedLastTimestamp,
		Count:               in.DeprecatedCount,
		Type:                in.Type,
		EventTime:           in.EventTime,
		Action:              in.Action,
		Related:             in.Related,
		ReportingController: in.ReportingController,
		ReportingInstance:   in.ReportingInstance,
	}
	if in.Series != nil {
		out.Series = &corev1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	return out
}

func fromCore(in *corev1.Event) *eventsv1.Event {
	out := &eventsv1.Event{
		ObjectMeta:               in.ObjectMeta,
		Regarding:                in.InvolvedObject,
		Reason:                   in.Reason,
		Note:                     in.Message,
		DeprecatedSource:         in.Source,
		DeprecatedFirstTimestamp: in.FirstTimestamp,
		DeprecatedLastTimestamp:  in.LastTimestamp,
		DeprecatedCount:          in.Count,
		Type:                     in.Type,
		EventTime:                in.EventTime,
		Action:                   in.Action,
		Related:                  in.Related,
		ReportingController:      in.ReportingController,
		ReportingInstance:        in.ReportingInstance,
	}
	if in.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: in.Series.Count, LastObservedTime: in.Series.LastObservedTime}
	}
	return out
}

// converted turns what core's store returns into the newer shape. What is no
// event (a Status) stays as it is.
func converted(obj runtime.Object) runtime.Object {
	switch o := obj.(type) {
	case *corev1.Event:
		return fromCore(o)
	case *corev1.EventList:
		list := &eventsv1.EventList{ListMeta: o.ListMeta, Items: make([]eventsv1.Event, len(o.Items))}
		for i := range o.Items {
			list.Items[i] = *fromCore(&o.Items[i])
		}
		return list
	default:
		return obj
	}
}

// original is the way back.
func original(obj runtime.Object) (runtime.Object, error) {
	switch o := obj.(type) {
	case *eventsv1.Event:
		return toCore(o), nil
	case *eventsv1.EventList:
		list := &corev1.EventList{ListMeta: o.ListMeta, Items: make([]corev1.Event, len(o.Items))}
		for i := range o.Items {
			list.Items[i] = *toCore(&o.Items[i])
		}
		return list, nil
	default:
		return nil, fmt.Errorf("want an Event of events.k8s.io, got %T", obj)
	}
}
