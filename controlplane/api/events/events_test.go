package events

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/core"
)

var now = metav1.NewMicroTime(time.Date(2026, 5, 1, 12, 0, 0, 1000, time.UTC))

func newEvent() *eventsv1.Event {
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "e", UID: "u", Labels: map[string]string{"a": "b"}},
		EventTime:  now, ReportingController: "example.com/c", ReportingInstance: "i", Action: "Act", Reason: "Because",
		Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: "ns", Name: "p"},
		Related:   &corev1.ObjectReference{Kind: "Node", Name: "n"},
		Note:      "words", Type: "Normal",
		Series: &eventsv1.EventSeries{Count: 2, LastObservedTime: now},
	}
}

// Every field of both shapes is set by filling in all that can be, so that a
// field that conversion forgets is found.
func TestConversionLosesNothing(t *testing.T) {
	full := newEvent()
	full.DeprecatedSource = corev1.EventSource{Component: "c", Host: "h"}
	full.DeprecatedFirstTimestamp, full.DeprecatedLastTimestamp, full.DeprecatedCount = metav1.Unix(1, 0), metav1.Unix(2, 0), 3
	for value, skip := reflect.ValueOf(*full), 0; skip < value.NumField(); skip++ {
		if name := value.Type().Field(skip).Name; name != "TypeMeta" && value.Field(skip).IsZero() {
			t.Fatalf("the test does not set %s", name)
		}
	}
	old := toCore(full)
	for value, i := reflect.ValueOf(*old), 0; i < value.NumField(); i++ {
		if name := value.Type().Field(i).Name; name != "TypeMeta" && value.Field(i).IsZero() {
			t.Errorf("conversion to core forgets %s", name)
		}
	}
	if back := fromCore(old); !reflect.DeepEqual(back, full) {
		t.Errorf("there and back: %+v, want %+v", back, full)
	}
	list := &eventsv1.EventList{ListMeta: metav1.ListMeta{ResourceVersion: "5"}, Items: []eventsv1.Event{*full}}
	oldList, err := original(list)
	if err != nil {
		t.Fatal(err)
	}
	if back := converted(oldList); !reflect.DeepEqual(back, list) {
		t.Errorf("list there and back: %+v", back)
	}
}

func TestInvalidEvents(t *testing.T) {
	for _, test := range []struct {
		change func(*eventsv1.Event)
		want   string
	}{
		{func(*eventsv1.Event) {}, ""},
		{func(e *eventsv1.Event) { e.EventTime = metav1.MicroTime{} }, "eventTime: Required value"},
		{func(e *eventsv1.Event) { e.Type = "Odd" }, `type: Invalid value: "": has invalid value: Odd`},
		{func(e *eventsv1.Event) { e.Series.Count = 1 }, `series.count: Invalid value: "": should be at least 2`},
		{func(e *eventsv1.Event) { e.Series.LastObservedTime = metav1.MicroTime{} }, "series.lastObservedTime: Required value"},
		{func(e *eventsv1.Event) { e.DeprecatedCount = 1 }, `count: Invalid value: "": needs to be unset`},
		{func(e *eventsv1.Event) { e.DeprecatedSource.Host = "h" }, `source: Invalid value: "": needs to be unset`},
		{func(e *eventsv1.Event) { e.DeprecatedFirstTimestamp = metav1.Unix(1, 0) }, `firstTimestamp: Invalid value: "": needs to be unset`},
		{func(e *eventsv1.Event) { e.ReportingController = "" }, "reportingController: Required value"},
		{func(e *eventsv1.Event) { e.Action = strings.Repeat("a", 129) }, `action: Invalid value: "": can have at most 128 characters`},
		{func(e *eventsv1.Event) { e.Regarding.Namespace = "" }, `involvedObject.namespace: Invalid value: "": does not match event.namespace`},
	} {
		e := newEvent()
		test.change(e)
		wantError(t, core.ValidateStrictly(toCore(e)).ToAggregate(), test.want)
	}
	for _, test := range []struct {
		change func(*eventsv1.Event)
		want   string
	}{
		{func(*eventsv1.Event) {}, ""},
		{func(e *eventsv1.Event) { e.Series.Count = 7 }, ""},
		{func(e *eventsv1.Event) { e.Series.Count = 0 }, `series.count: Invalid value: "": should be at least 2`},
		{func(e *eventsv1.Event) { e.EventTime = metav1.NewMicroTime(now.Add(time.Nanosecond)) }, ""},
		{func(e *eventsv1.Event) { e.EventTime = metav1.NewMicroTime(now.Add(time.Hour)) }, "eventTime: Invalid value:"},
		{func(e *eventsv1.Event) { e.Note = "other" }, `message: Invalid value: "other": field is immutable`},
		{func(e *eventsv1.Event) { e.Reason = "Other" }, `reason: Invalid value: "Other": field is immutable`},
		{func(e *eventsv1.Event) { e.Regarding.Name = "q" }, "involvedObject: Invalid value:"},
		{func(e *eventsv1.Event) { e.Related = nil }, "related: Invalid value:"},
	} {
		e := newEvent()
		test.change(e)
		wantError(t, core.ValidateStrictUpdate(toCore(e), toCore(newEvent())).ToAggregate(), test.want)
	}
}

func wantError(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// coreStore holds one event, as core's store would.
type coreStore struct {
	rest.StandardStorage
	event   *corev1.Event
	watcher *watch.FakeWatcher
}

func (s *coreStore) Get(context.Context, string, *metav1.GetOptions) (runtime.Object, error) {
	return s.event, nil
}

func (s *coreStore) List(context.Context, *internalversion.ListOptions) (runtime.Object, error) {
	return &corev1.EventList{Items: []corev1.Event{*s.event}}, nil
}

func (s *coreStore) Watch(context.Context, *internalversion.ListOptions) (watch.Interface, error) {
	return s.watcher, nil
}

func (s *coreStore) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	if err := validate(ctx, obj); err != nil {
		return nil, err
	}
	s.event = obj.(*corev1.Event)
	return s.event, nil
}

func (s *coreStore) Update(ctx context.Context, _ string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc, validate rest.ValidateObjectUpdateFunc, _ bool, _ *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, err := info.UpdatedObject(ctx, s.event)
	if err != nil {
		return nil, false, err
	}
	if err := validate(ctx, obj, s.event); err != nil {
		return nil, false, err
	}
	s.event = obj.(*corev1.Event)
	return s.event, false, nil
}

func (s *coreStore) Delete(ctx context.Context, _ string, validate rest.ValidateObjectFunc, _ *metav1.DeleteOptions) (runtime.Object, bool, error) {
	return &metav1.Status{Status: metav1.StatusSuccess}, true, validate(ctx, s.event)
}

func (s *coreStore) ConvertToTable(_ context.Context, obj, _ runtime.Object) (*metav1.Table, error) {
	return &metav1.Table{Rows: []metav1.TableRow{{Object: runtime.RawExtension{Object: obj.(*corev1.Event)}}}}, nil
}

func TestStoreIsShared(t *testing.T) {
	ctx := context.Background()
	store := &coreStore{watcher: watch.NewFakeWithChanSize(2, false)}
	storages, err := Kinds()[0].Storages(&api.Environment{Lookup: func(name string) rest.Storage {
		if name != "/events" {
			return nil
		}
		return store
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := storages["events"].(rest.StandardStorage)
	var judged []string
	judge := func(_ context.Context, obj runtime.Object) error {
		judged = append(judged, reflect.TypeOf(obj).Elem().PkgPath())
		return nil
	}
	created, err := r.Create(ctx, newEvent(), judge, nil)
	if err != nil || !reflect.DeepEqual(created, newEvent()) || store.event.Message != "words" {
		t.Fatalf("created %+v, stored %+v, %v", created, store.event, err)
	}
	change := func(f func(*eventsv1.Event)) error {
		info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			e, ok := old.(*eventsv1.Event)
			if !ok {
				return nil, errors.New("the update sees core's shape")
			}
			f(e)
			return e, nil
		})
		_, _, err := r.Update(ctx, "e", info, nil, func(ctx context.Context, obj, old runtime.Object) error { return judge(ctx, obj) }, false, nil)
		return err
	}
	if err := change(func(e *eventsv1.Event) { e.Series.Count = 3 }); err != nil || store.event.Series.Count != 3 {
		t.Errorf("update: count %d, %v", store.event.Series.Count, err)
	}

	if got, err := r.Get(ctx, "e", nil); err != nil || got.(*eventsv1.Event).Series.Count != 3 {
		t.Errorf("get %v, %v", got, err)
	}
	if got, err := r.List(ctx, nil); err != nil || len(got.(*eventsv1.EventList).Items) != 1 {
		t.Errorf("list %v, %v", got, err)
	}
	w, err := r.Watch(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	store.watcher.Modify(store.event)
	if seen := <-w.ResultChan(); seen.Type != watch.Modified || seen.Object.(*eventsv1.Event).Note != "words" {
		t.Errorf("watched %v", seen)
	}
	store.watcher.Error(&metav1.Status{Message: "gone"})
	if seen := <-w.ResultChan(); seen.Type != watch.Error || seen.Object.(*metav1.Status).Message != "gone" {
		t.Errorf("watched %v", seen)
	}
	table, err := r.ConvertToTable(ctx, newEvent(), nil)
	if err != nil || !reflect.DeepEqual(table.Rows[0].Object.Object, newEvent()) {
		t.Errorf("table %v, %v", table, err)
	}
	if _, _, err := r.Delete(ctx, "e", judge, nil); err != nil {
		t.Error(err)
	}
	if want := []string{"k8s.io/api/events/v1", "k8s.io/api/events/v1", "k8s.io/api/events/v1"}; !slices.Equal(judged, want) {
		t.Errorf("admission judged %q", judged)
	}
}

func TestFieldLabels(t *testing.T) {
	scheme := runtime.NewScheme()
	if err := Kinds()[0].Register(scheme); err != nil {
		t.Fatal(err)
	}
	name, value, err := scheme.ConvertFieldLabel(eventKind{}.Name(), "regarding.kind", "Pod")
	if err != nil || name != "involvedObject.kind" || value != "Pod" {
		t.Errorf("regarding.kind is %s=%s, %v", name, value, err)
	}
	if _, _, err := scheme.ConvertFieldLabel(eventKind{}.Name(), "note", "x"); err == nil {
		t.Error("events can be selected by their note")
	}
}
