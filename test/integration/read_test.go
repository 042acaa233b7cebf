package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

func TestListInPages(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	for i := range 7 {
		must(maps.Create(t.Context(), configMap(fmt.Sprintf("m%d", i), map[string]string{"odd": fmt.Sprint(i % 2)}), metav1.CreateOptions{}))(t)
	}
	var names []string
	options := metav1.ListOptions{Limit: 3}
	version := ""
	for page := 0; ; page++ {
		list := must(maps.List(t.Context(), options))(t)
		if version == "" {
			version = list.ResourceVersion
		}
		if list.ResourceVersion != version {
			t.Errorf("page %d is of version %s, want the first page's %s", page, list.ResourceVersion, version)
		}
		for _, m := range list.Items {
			names = append(names, m.Name)
		}
		if list.Continue == "" {
			break
		}
		if page == 0 && (list.RemainingItemCount == nil || *list.RemainingItemCount != 4) {
			t.Errorf("remaining items = %v, want 4", list.RemainingItemCount)
		}
		options.Continue = list.Continue
		// What is written meanwhile is not in the pages that follow.
		must(maps.Create(t.Context(), configMap(fmt.Sprintf("m%d-later", page), nil), metav1.CreateOptions{}))(t)
	}
	if got, want := fmt.Sprint(names), "[m0 m1 m2 m3 m4 m5 m6]"; got != want {
		t.Errorf("pages held %s, want %s", got, want)
	}
	odd := must(maps.List(t.Context(), metav1.ListOptions{LabelSelector: "odd=1"}))(t)
	if len(odd.Items) != 3 {
		t.Errorf("label selector found %d, want 3", len(odd.Items))
	}
	one := must(maps.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=m4"}))(t)
	if len(one.Items) != 1 {
		t.Errorf("field selector found %d, want 1", len(one.Items))
	}
	if _, err := maps.List(t.Context(), metav1.ListOptions{FieldSelector: "data.x=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field selector: %v, want a bad request", err)
	}
}

func TestLongListsAreCompressed(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	maps := c.Client.CoreV1().ConfigMaps(ns)
	for i := range 5 {
		m := configMap(fmt.Sprintf("m%d", i), nil)
		m.Data = map[string]string{"v": strings.Repeat("v", 40_000)}
		must(maps.Create(t.Context(), m, metav1.CreateOptions{}))(t)
	}
	client := must(rest.HTTPClientFor(c.Admin))(t)
	list := func(accept, query, encoding string) (string, []byte) {
		request := must(http.NewRequestWithContext(t.Context(), http.MethodGet, c.Admin.Host+"/api/v1/namespaces/"+ns+"/configmaps"+query, nil))(t)
		request.Header.Set("Accept", accept)
		request.Header.Set("Accept-Encoding", encoding) // given, so that the client does not read it by itself
		answer := must(client.Do(request))(t)
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("list as %s: %s", accept, answer.Status)
		}
		body := io.Reader(answer.Body)
		used := answer.Header.Get("Content-Encoding")
		if used == "gzip" {
			body = must(gzip.NewReader(body))(t)
		}
		return used, must(io.ReadAll(body))(t)
	}
	// The same moment for all, or the lists say different resource versions.
	now := must(maps.List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion
	moment := "?resourceVersionMatch=Exact&resourceVersion=" + now
	for _, accept := range []string{"application/json", "application/vnd.kubernetes.protobuf"} {
		long, compressed := list(accept, moment, "gzip")
		none, plain := list(accept, moment, "identity")
		if long != "gzip" || none != "" || !bytes.Equal(compressed, plain) {
			t.Errorf("%s: encodings %q and %q, %d and %d bytes", accept, long, none, len(compressed), len(plain))
		}
		if short, _ := list(accept, moment+"&limit=1", "gzip"); short != "" {
			t.Errorf("%s: a short list has encoding %q", accept, short)
		}
	}
}

// next returns the next event that is no bookmark.
func next(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		select {
		case event, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("watch ended")
			}
			if event.Type != watch.Bookmark {
				return event
			}
		case <-time.After(time.Minute):
			t.Fatal("no event came")
		}
	}
}

func TestWatchResumes(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	list := must(maps.List(t.Context(), metav1.ListOptions{}))(t)
	w := must(maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion}))(t)
	created := must(maps.Create(t.Context(), configMap("m", nil), metav1.CreateOptions{}))(t)
	if event := next(t, w); event.Type != watch.Added {
		t.Fatalf("got %s, want ADDED", event.Type)
	}
	w.Stop()

	created.Data = map[string]string{"k": "v"}
	must(maps.Update(t.Context(), created, metav1.UpdateOptions{}))(t)
	if err := maps.Delete(t.Context(), "m", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w = must(maps.Watch(t.Context(), metav1.ListOptions{ResourceVersion: created.ResourceVersion}))(t)
	defer w.Stop()
	if event := next(t, w); event.Type != watch.Modified {
		t.Errorf("after resuming: %s, want MODIFIED", event.Type)
	}
	event := next(t, w)
	if event.Type != watch.Deleted || event.Object.(*corev1.ConfigMap).Data["k"] != "v" {
		t.Errorf("after resuming: %s %v, want DELETED with the last state", event.Type, event.Object)
	}

	err := c.Client.CoreV1().RESTClient().Get().Namespace(created.Namespace).Resource("configmaps").
		Param("resourceVersion", "999999999").Param("resourceVersionMatch", "NotOlderThan").
		MaxRetries(0).Do(t.Context()).Error()
	if !apierrors.IsTimeout(err) {
		t.Errorf("list of a future version: %v, want a timeout", err)
	}
}

func TestWatchSelector(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	w := must(maps.Watch(t.Context(), metav1.ListOptions{LabelSelector: "on=yes"}))(t)
	defer w.Stop()
	m := must(maps.Create(t.Context(), configMap("m", nil), metav1.CreateOptions{}))(t)
	for _, step := range []struct {
		labels map[string]string
		want   watch.EventType
	}{
		{map[string]string{"on": "yes"}, watch.Added},
		{map[string]string{"on": "yes", "x": "y"}, watch.Modified},
		{map[string]string{"on": "no"}, watch.Deleted},
	} {
		m.Labels = step.labels
		m = must(maps.Update(t.Context(), m, metav1.UpdateOptions{}))(t)
		if event := next(t, w); event.Type != step.want {
			t.Errorf("with labels %v: %s, want %s", step.labels, event.Type, step.want)
		}
	}
}

func TestStreamingList(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	must(maps.Create(t.Context(), configMap("m", nil), metav1.CreateOptions{}))(t)
	yes := true
	w := must(maps.Watch(t.Context(), metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}))(t)
	defer w.Stop()
	if event := next(t, w); event.Type != watch.Added {
		t.Fatalf("got %s, want ADDED", event.Type)
	}
	select {
	case event := <-w.ResultChan():
		m, ok := event.Object.(*corev1.ConfigMap)
		if event.Type != watch.Bookmark || !ok || m.Annotations[metav1.InitialEventsAnnotationKey] != "true" || m.ResourceVersion == "" {
			t.Errorf("got %s %+v, want the bookmark that ends the initial events", event.Type, event.Object)
		}
	case <-time.After(time.Minute):
		t.Error("no bookmark came")
	}
}

func TestTable(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	must(c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("m", nil), metav1.CreateOptions{}))(t)
	table := &metav1.Table{}
	err := c.Client.CoreV1().RESTClient().Get().Namespace(ns).Resource("configmaps").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(table)
	if err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 || len(table.ColumnDefinitions) < 2 || table.ColumnDefinitions[0].Name != "Name" || table.Rows[0].Cells[0] != "m" {
		t.Errorf("table = %+v", table)
	}
	for _, row := range table.Rows {
		if len(row.Cells) != len(table.ColumnDefinitions) {
			t.Errorf("row has %d cells under %d columns", len(row.Cells), len(table.ColumnDefinitions))
		}
	}
}

func TestInformer(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	factory := informers.NewSharedInformerFactoryWithOptions(c.Client, 0, informers.WithNamespace(ns))
	events := make(chan string, 10)
	informer := factory.Core().V1().ConfigMaps().Informer()
	must(informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { events <- "add " + obj.(*corev1.ConfigMap).Name },
		UpdateFunc: func(_, obj any) { events <- "update " + obj.(*corev1.ConfigMap).Name },
		DeleteFunc: func(obj any) { events <- "delete " + obj.(*corev1.ConfigMap).Name },
	}))(t)
	must(c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("before", nil), metav1.CreateOptions{}))(t)
	ctx, stop := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer stop()
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	m := must(c.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), configMap("after", nil), metav1.CreateOptions{}))(t)
	m.Data = map[string]string{"k": "v"}
	must(c.Client.CoreV1().ConfigMaps(ns).Update(t.Context(), m, metav1.UpdateOptions{}))(t)
	if err := c.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), "after", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"add before", "add after", "update after", "delete after"} {
		select {
		case got := <-events:
			if got != want {
				t.Fatalf("informer told %q, want %q", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("informer did not tell %q", want)
		}
	}
}
