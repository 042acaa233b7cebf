package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

const (
	jsonPatch      = "application/json-patch+json"
	mergePatch     = "application/merge-patch+json"
	strategicPatch = "application/strategic-merge-patch+json"
	applyPatch     = "application/apply-patch+yaml"
)

// TestEveryVerb does to an object of every kind all that its kind can have
// done to it.
func TestEveryVerb(t *testing.T) {
	c := Start(t)
	call := admin(t, c)
	for _, s := range readSamples(t, c) {
		if !s.kept() || !s.can("create") {
			continue
		}
		t.Run(s.name(), func(t *testing.T) {
			t.Parallel()
			newLife(t, call, s).live(t)
		})
	}
}

// life is that of one object of a kind.
type life struct {
	*sample
	caller
	namespace, name string
}

func newLife(t *testing.T, call caller, s *sample) *life {
	t.Helper()
	l := &life{sample: s, caller: call, namespace: "verbs-" + strings.ReplaceAll(s.name(), ".", "-")}
	if s.served.Namespaced {
		if err := call.makeNamespace(t.Context(), l.namespace); err != nil {
			t.Fatal(err)
		}
	}
	l.name = l.called(t, "")
	return l
}

// called is a name for an object of the kind, which may be bound to what the
// object says: suffix tells one from another.
func (l *life) called(t *testing.T, suffix string) string {
	name := at(l.Sample(t), "metadata", "name").(string)
	switch {
	case l.gvr.Resource == "ipaddresses" && suffix == "":
		return "192.0.2.78"
	case l.gvr.Resource == "ipaddresses":
		return "192.0.2.79"
	case l.gvr.Resource == "customresourcedefinitions", l.gvr.Resource == "apiservices":
		return name
	}
	return "verbs-" + name + suffix
}

// Sample is the sample's object, in the life's own namespace.
func (l *life) Sample(t *testing.T) map[string]any {
	if !l.served.Namespaced {
		return l.sample.object(t)
	}
	return decode(t, bytes.ReplaceAll(l.sample.Object, []byte(`"`+sampleNamespace+`"`), []byte(`"`+l.namespace+`"`)))
}

// object is a new object of the kind under the name.
func (l *life) object(t *testing.T, name string) map[string]any {
	o := l.Sample(t)
	m := o["metadata"].(map[string]any)
	m["name"] = name
	labels, _ := m["labels"].(map[string]any)
	if labels == nil {
		labels = map[string]any{}
	}
	labels["suite"] = "verbs"
	m["labels"] = labels
	return o
}

func (l *life) collection() string { return l.path(l.namespace) }
func (l *life) itself() string     { return l.collection() + "/" + l.name }

func (l *life) live(t *testing.T) {
	dry := "?dryRun=All"
	object := encode(t, l.object(t, l.name))
	own := url.Values{"labelSelector": {"suite=verbs"}, "fieldSelector": {"metadata.name=" + l.name}}
	events := l.watch(t, own)

	// Nothing that is done dry leaves a trace.
	l.want(t, http.StatusCreated, http.MethodPost, l.collection()+dry, object)
	l.want(t, http.StatusNotFound, http.MethodGet, l.itself(), nil)

	created := l.want(t, http.StatusCreated, http.MethodPost, l.collection(), object)
	t.Cleanup(func() { l.cleanUp(t) })
	l.want(t, http.StatusConflict, http.MethodPost, l.collection(), object)
	if got := <-events; got.Type != "ADDED" || at(got.Object, "metadata", "name") != l.name {
		t.Fatalf("watch told %s %v", got.Type, at(got.Object, "metadata", "name"))
	}
	version := at(created, "metadata", "resourceVersion").(string)
	l.read(t)
	l.list(t)
	l.update(t)
	l.patch(t)
	l.status(t)
	l.scale(t)
	if got := <-events; got.Type != "MODIFIED" {
		t.Errorf("watch told %s of the first change", got.Type)
	}
	// A watch that comes later hears the same from where it was.
	own.Set("resourceVersion", version)
	later := l.watch(t, own)
	if got := <-later; got.Type != "MODIFIED" {
		t.Errorf("resumed watch told %s first", got.Type)
	}
	l.streams(t)
	l.propagate(t)
	for got := range later {
		if got.Type == "DELETED" {
			break
		}
	}
	l.deleteCollection(t)
}

// cleanUp removes what a failed test left, whatever holds it.
func (l *life) cleanUp(t *testing.T) {
	ctx := context.WithoutCancel(t.Context())
	for _, name := range []string{l.name, l.called(t, "-2")} {
		for _, request := range [][3]string{
			{http.MethodDelete, "", `{"gracePeriodSeconds":0}`},
			{http.MethodPatch, mergePatch, `{"metadata":{"finalizers":null}}`},
		} {
			content := request[1]
			if content == "" {
				content = contentJSON
			}
			if _, err := l.call(ctx, request[0], l.collection()+"/"+name, content, []byte(request[2]), ""); err != nil {
				t.Logf("clean up: %v", err)
			}
		}
	}
}

// read gets the object in every form.
func (l *life) read(t *testing.T) {
	t.Helper()
	got := l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil)
	if got["kind"] != l.served.Kind || got["apiVersion"] != l.gvr.GroupVersion().String() || at(got, "metadata", "uid") == nil {
		t.Errorf("read %v of %v", got["kind"], got["apiVersion"])
	}
	as := func(accept, path string) answer {
		return must(l.call(t.Context(), http.MethodGet, path, "", nil, accept))(t)
	}
	for _, path := range []string{l.itself(), l.collection()} {
		table := decode(t, as("application/json;as=Table;v=v1;g=meta.k8s.io", path).body)
		columns, _ := table["columnDefinitions"].([]any)
		rows, _ := table["rows"].([]any)
		if table["kind"] != "Table" || len(rows) == 0 || len(columns) < 2 || len(rows[0].(map[string]any)["cells"].([]any)) != len(columns) {
			t.Errorf("table of %s: %v under %v", path, rows, columns)
		}
	}
	partial := decode(t, as("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", l.itself()).body)
	if partial["kind"] != "PartialObjectMetadata" || at(partial, "metadata", "name") != l.name || len(partial) != 3 {
		t.Errorf("metadata alone: %v", partial)
	}
	list := decode(t, as("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", l.collection()).body)
	if list["kind"] != "PartialObjectMetadataList" || len(list["items"].([]any)) == 0 {
		t.Errorf("list of metadata alone: %v", list["kind"])
	}
	l.binary(t, as(contentProtobuf, l.itself()))
}

// binary checks the object in protobuf, and creates it, dry, from it. Kinds of
// apiextensions and apiregistration come in protobuf too.
func (l *life) binary(t *testing.T, a answer) {
	t.Helper()
	if a.code != http.StatusOK || !strings.HasPrefix(string(a.body), "k8s\x00") {
		t.Errorf("protobuf: %d %.20q", a.code, a.body)
		return
	}
	codec := protobuf.NewSerializer(published, published)
	object, kind, err := codec.Decode(a.body, nil, nil)
	if err != nil || kind.Kind != l.served.Kind {
		t.Errorf("decode protobuf: %v %v", kind, err)
		return
	}
	if name := object.(metav1.Object).GetName(); name != l.name {
		t.Errorf("protobuf names it %q", name)
	}
	fresh := must(published.New(l.gvk()))(t)
	if err := json.Unmarshal(encode(t, l.object(t, l.called(t, "-2"))), fresh); err != nil {
		t.Fatal(err)
	}
	fresh.GetObjectKind().SetGroupVersionKind(l.gvk())
	var out strings.Builder
	if err := codec.Encode(fresh, &out); err != nil {
		t.Errorf("encode protobuf: %v", err)
		return
	}
	if l.called(t, "-2") == l.name {
		return // there is one, and it bears this name
	}
	if sent := must(l.call(t.Context(), http.MethodPost, l.collection()+"?dryRun=All", contentProtobuf, []byte(out.String()), ""))(t); sent.code != http.StatusCreated {
		t.Errorf("create from protobuf: %d %s", sent.code, sent.message())
	}
}

// list goes through the collection by pages and selectors.
func (l *life) list(t *testing.T) {
	t.Helper()
	if second := l.called(t, "-2"); second != l.name {
		l.want(t, http.StatusCreated, http.MethodPost, l.collection(), encode(t, l.object(t, second)))
	}
	names := func(query url.Values) (found []string, next string) {
		list := l.want(t, http.StatusOK, http.MethodGet, l.collection()+"?"+query.Encode(), nil)
		for _, item := range list["items"].([]any) {
			name := at(item.(map[string]any), "metadata", "name").(string)
			found = append(found, name)
		}
		next, _ = at(list, "metadata", "continue").(string)
		return found, next
	}
	all, _ := names(url.Values{"labelSelector": {"suite=verbs"}})
	if !slices.Contains(all, l.name) {
		t.Errorf("list by label: %q", all)
	}
	if none, _ := names(url.Values{"labelSelector": {"suite=verbs,suite notin (verbs)"}}); len(none) > 0 {
		t.Errorf("list by a label that nobody has: %q", none)
	}
	if one, _ := names(url.Values{"fieldSelector": {"metadata.name=" + l.name}}); !slices.Equal(one, []string{l.name}) {
		t.Errorf("list by name: %q", one)
	}
	l.want(t, http.StatusBadRequest, http.MethodGet, l.collection()+"?fieldSelector=spec.nothing%3Dx", nil)
	var paged []string
	query := url.Values{"limit": {"1"}, "labelSelector": {"suite=verbs"}}
	for range 100 {
		page, next := names(query)
		if len(page) > 1 {
			t.Errorf("a page of 1 has %d", len(page))
		}
		paged = append(paged, page...)
		if next == "" {
			break
		}
		query.Set("continue", next)
	}
	if !slices.Equal(paged, all) {
		t.Errorf("pages hold %q, want %q", paged, all)
	}
}

// update writes the whole object, dry and for good, and too late.
func (l *life) update(t *testing.T) {
	t.Helper()
	changed := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+"?dryRun=All", l.Change, mergePatch)
	before := l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil)
	l.want(t, http.StatusOK, http.MethodPut, l.itself()+"?dryRun=All", encode(t, changed))
	after := l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil)
	if l.quiet() && at(after, "metadata", "resourceVersion") != at(before, "metadata", "resourceVersion") {
		t.Errorf("a dry update wrote version %v over %v", at(after, "metadata", "resourceVersion"), at(before, "metadata", "resourceVersion"))
	}
	stale := decode(t, encode(t, after))
	stale["metadata"].(map[string]any)["resourceVersion"] = "1"
	stale["metadata"].(map[string]any)["labels"].(map[string]any)["stale"] = "1"
	if a := must(l.call(t.Context(), http.MethodPut, l.itself(), contentJSON, encode(t, stale), ""))(t); a.code != http.StatusConflict || !strings.Contains(a.message(), "the object has been modified; please apply your changes to the latest version and try again") {
		t.Errorf("update of an old version: %d %s", a.code, a.message())
	}
	other := decode(t, encode(t, after))
	other["metadata"].(map[string]any)["uid"] = "another"
	if a := must(l.call(t.Context(), http.MethodPut, l.itself(), contentJSON, encode(t, other), ""))(t); a.code != http.StatusConflict {
		t.Errorf("update of another life: %d %s", a.code, a.message())
	}
	// Writers of the server may come in between: unlike a stale one, an
	// unhindered patch does not fail.
	l.want(t, http.StatusOK, http.MethodPatch, l.itself(), l.Change, mergePatch)
	if unknown := must(l.call(t.Context(), http.MethodPatch, l.itself()+"?fieldValidation=Strict&dryRun=All", mergePatch, []byte(`{"oddField":1}`), ""))(t); unknown.code != http.StatusBadRequest && unknown.code != http.StatusUnprocessableEntity {
		t.Errorf("strict validation of an unknown field: %d %s", unknown.code, unknown.message())
	}
}

// quiet is whether nothing in the server writes objects of the kind.
func (l *life) quiet() bool {
	return !slices.Contains([]string{"customresourcedefinitions", "apiservices", "flowschemas", "prioritylevelconfigurations", "servicecidrs", "namespaces"}, l.gvr.Resource)
}

// patch changes a label by each of the four methods.
func (l *life) patch(t *testing.T) {
	t.Helper()
	label := func(object map[string]any, name string) any { return at(object, "metadata", "labels", name) }
	for _, p := range []struct{ content, body string }{
		{mergePatch, `{"metadata":{"labels":{"p":"VALUE"}}}`},
		{strategicPatch, `{"metadata":{"labels":{"p":"VALUE"}}}`},
		{jsonPatch, `[{"op":"test","path":"/metadata/name","value":"` + l.name + `"},{"op":"add","path":"/metadata/labels/p","value":"VALUE"}]`},
		{applyPatch, `{"apiVersion":"` + l.gvr.GroupVersion().String() + `","kind":"` + l.served.Kind + `","metadata":{"name":"` + l.name + `","labels":{"applied":"VALUE"}}}`},
	} {
		query, name := "?", "p"
		if p.content == applyPatch {
			query, name = "?fieldManager=one&", "applied"
		}
		value, _, _ := strings.Cut(strings.TrimPrefix(p.content, "application/"), "-")
		body := []byte(strings.ReplaceAll(p.body, "VALUE", value))
		if dry := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+query+"dryRun=All", body, p.content); label(dry, name) != value {
			t.Errorf("dry %s: label %v", p.content, label(dry, name))
		}
		if got := l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil); label(got, name) == value {
			t.Errorf("dry %s was written", p.content)
		}
		if got := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+query, body, p.content); label(got, name) != value {
			t.Errorf("%s: label %v", p.content, label(got, name))
		}
	}
	// Another manager may have what the first applied only by force.
	applied := func(value string) []byte {
		return []byte(`{"apiVersion":"` + l.gvr.GroupVersion().String() + `","kind":"` + l.served.Kind + `","metadata":{"name":"` + l.name + `","labels":{"applied":"` + value + `"}}}`)
	}
	a := must(l.call(t.Context(), http.MethodPatch, l.itself()+"?fieldManager=two", applyPatch, applied("other"), ""))(t)
	if a.code != http.StatusConflict || !strings.Contains(a.message(), `conflict with "one": .metadata.labels.applied`) {
		t.Errorf("apply over another's field: %d %s", a.code, a.message())
	}
	forced := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+"?fieldManager=two&force=true", applied("other"), applyPatch)
	if label(forced, "applied") != "other" {
		t.Errorf("forced label %v", label(forced, "applied"))
	}
	dropped := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+"?fieldManager=two", []byte(strings.Replace(string(applied("x")), `"labels":{"applied":"x"}`, `"labels":{}`, 1)), applyPatch)
	if label(dropped, "applied") != nil {
		t.Errorf("label that nobody applies any more: %v", label(dropped, "applied"))
	}
	if a := must(l.call(t.Context(), http.MethodPatch, l.itself(), "application/odd-patch", []byte(`{}`), ""))(t); a.code != http.StatusUnsupportedMediaType {
		t.Errorf("patch of an unknown kind: %d", a.code)
	}
}

// status and the rest each have their own way in.
func (l *life) status(t *testing.T) {
	t.Helper()
	if !slices.Contains(l.subresources, "status") {
		return
	}
	if l.Status == nil {
		t.Errorf("has a status, and the sample none")
		return
	}
	before := l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil)
	// A change that the way of the status lets pass by is no change.
	mixed := decode(t, l.Change)
	for key, value := range decode(t, l.Status) {
		mixed[key] = value
	}
	if metadata, ok := mixed["metadata"].(map[string]any); ok {
		delete(metadata, "labels")
	}
	l.want(t, http.StatusOK, http.MethodPatch, l.itself()+"/status?dryRun=All", encode(t, mixed), mergePatch)
	written := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+"/status", encode(t, mixed), mergePatch)
	if spec, was := encode(t, written["spec"]), encode(t, before["spec"]); string(spec) != string(was) {
		t.Errorf("status/ changed the spec from %s to %s", was, spec)
	}
	if status := encode(t, written["status"]); string(status) == string(encode(t, before["status"])) && l.quiet() {
		t.Errorf("status/ left the status %s", status)
	}
	if l.quiet() {
		cleared := l.want(t, http.StatusOK, http.MethodPatch, l.itself(), []byte(`{"status":null,"metadata":{"labels":{"s":"1"}}}`), mergePatch)
		if now, was := encode(t, cleared["status"]), encode(t, written["status"]); string(now) != string(was) {
			t.Errorf("the main way changed the status from %s to %s", was, now)
		}
	}
	if got := l.want(t, http.StatusOK, http.MethodGet, l.itself()+"/status", nil); at(got, "metadata", "name") != l.name {
		t.Errorf("status/ is of %v", at(got, "metadata", "name"))
	}
}

// scale changes how many there are of what the object makes.
func (l *life) scale(t *testing.T) {
	t.Helper()
	if !slices.Contains(l.subresources, "scale") {
		return
	}
	scale := l.want(t, http.StatusOK, http.MethodGet, l.itself()+"/scale", nil)
	if scale["kind"] != "Scale" || scale["apiVersion"] != "autoscaling/v1" || at(scale, "status", "selector") == nil {
		t.Errorf("scale is %v", scale)
	}
	scale["spec"] = map[string]any{"replicas": 7}
	for _, dry := range []string{"?dryRun=All", ""} {
		l.want(t, http.StatusOK, http.MethodPut, l.itself()+"/scale"+dry, encode(t, scale))
		if got := at(l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil), "spec", "replicas"); (got == float64(7)) != (dry == "") {
			t.Errorf("scaled with %q: %v replicas", dry, got)
		}
	}
	for _, content := range []string{mergePatch, strategicPatch} {
		scaled := l.want(t, http.StatusOK, http.MethodPatch, l.itself()+"/scale", []byte(`{"spec":{"replicas":8}}`), content)
		if at(scaled, "spec", "replicas") != float64(8) {
			t.Errorf("scaled by %s: %v", content, scaled["spec"])
		}
	}
	l.want(t, http.StatusUnprocessableEntity, http.MethodPatch, l.itself()+"/scale", []byte(`{"spec":{"replicas":-1}}`), mergePatch)
}

// event is one of a watch.
type event struct {
	Type   string
	Object map[string]any
}

// watch yields the collection's events until the test ends, or for a minute.
func (l *life) watch(t *testing.T, query url.Values) <-chan event {
	t.Helper()
	query.Set("watch", "1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	request := must(http.NewRequestWithContext(ctx, http.MethodGet, l.host+l.collection()+"?"+query.Encode(), nil))(t)
	response := must(l.client.Do(request))(t)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("watch %s: %s", request.URL, response.Status)
	}
	events := make(chan event, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(events)
		lines := bufio.NewScanner(response.Body)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			var e event
			if json.Unmarshal(lines.Bytes(), &e) != nil {
				e.Type = fmt.Sprintf("unreadable: %.100q", lines.Bytes())
			}
			events <- e
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		response.Body.Close()
	})
	return events
}

// streams lists by a watch, which ends its first part with a bookmark.
func (l *life) streams(t *testing.T) {
	t.Helper()
	if l.gvr.Resource == "events" {
		return // they are not kept in the watch cache
	}
	events := l.watch(t, url.Values{"sendInitialEvents": {"true"}, "allowWatchBookmarks": {"true"}, "resourceVersionMatch": {"NotOlderThan"}, "labelSelector": {"suite=verbs"}})
	seen := false
	for got := range events {
		seen = seen || got.Type == "ADDED" && at(got.Object, "metadata", "name") == l.name
		if got.Type == "BOOKMARK" {
			if !seen || at(got.Object, "metadata", "annotations", metav1.InitialEventsAnnotationKey) != "true" {
				t.Errorf("streamed list: found %v, ended with %v", seen, got.Object)
			}
			return
		}
	}
	t.Error("streamed list did not end")
}

// propagate deletes the object with each policy.
func (l *life) propagate(t *testing.T) {
	t.Helper()
	object := encode(t, l.object(t, l.name))
	for _, policy := range []string{"Orphan", "Foreground", "Background"} {
		for _, dry := range []string{`["All"]`, "[]"} {
			body := []byte(`{"propagationPolicy":"` + policy + `","gracePeriodSeconds":0,"dryRun":` + dry + `}`)
			if a := must(l.call(t.Context(), http.MethodDelete, l.itself(), contentJSON, body, ""))(t); a.code != http.StatusOK && a.code != http.StatusAccepted {
				t.Fatalf("delete %s: %d %s", body, a.code, a.message())
			}
			if dry == "[]" {
				break
			}
			if got := l.want(t, http.StatusOK, http.MethodGet, l.itself(), nil); at(got, "metadata", "deletionTimestamp") != nil {
				t.Errorf("a dry delete was done")
			}
		}
		if l.holds(t, policy) {
			l.release(t)
		}
		l.gone(t)
		if policy != "Background" {
			l.want(t, http.StatusCreated, http.MethodPost, l.collection(), object)
		}
	}
}

// holds checks that what waits for the garbage collector has its finalizer. It
// reports whether anything holds the object.
func (l *life) holds(t *testing.T, policy string) bool {
	t.Helper()
	a := must(l.call(t.Context(), http.MethodGet, l.itself(), "", nil, ""))(t)
	finalizer := map[string]string{"Orphan": metav1.FinalizerOrphanDependents, "Foreground": metav1.FinalizerDeleteDependents}[policy]
	if l.gvr.Resource == "customresourcedefinitions" {
		finalizer = "" // theirs is for their objects, whatever the policy
	}
	if a.code == http.StatusNotFound {
		if finalizer != "" {
			t.Errorf("deleted %s and gone at once", policy)
		}
		return false
	}
	got := decode(t, a.body)
	finalizers, _ := at(got, "metadata", "finalizers").([]any)
	if at(got, "metadata", "deletionTimestamp") == nil || finalizer != "" && !slices.Contains(finalizers, any(finalizer)) {
		t.Errorf("deleted %s: finalizers %v, deleted at %v", policy, finalizers, at(got, "metadata", "deletionTimestamp"))
	}
	return true
}

// release lets go what controllers, which do not run here, would have.
func (l *life) release(t *testing.T) {
	t.Helper()
	a := must(l.call(t.Context(), http.MethodPatch, l.itself(), mergePatch, []byte(`{"metadata":{"finalizers":null}}`), ""))(t)
	if a.code != http.StatusOK && a.code != http.StatusNotFound {
		t.Fatalf("release: %d %s", a.code, a.message())
	}
	if l.gvr.Resource == "namespaces" {
		finalize := []byte(`{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + l.name + `"},"spec":{"finalizers":[]}}`)
		if a := must(l.call(t.Context(), http.MethodPut, l.itself()+"/finalize", contentJSON, finalize, ""))(t); a.code != http.StatusOK {
			t.Fatalf("finalize: %d %s", a.code, a.message())
		}
		// Its end is the namespace controller's second deletion.
		must(l.call(t.Context(), http.MethodDelete, l.itself(), "", nil, ""))(t)
	}
}

func (l *life) gone(t *testing.T) {
	t.Helper()
	eventually(t, l.itself()+" is gone", func(ctx context.Context) (bool, error) {
		a, err := l.call(ctx, http.MethodGet, l.itself(), "", nil, "")
		return err == nil && a.code == http.StatusNotFound, err
	})
}

// deleteCollection deletes what a selector finds, and only that.
func (l *life) deleteCollection(t *testing.T) {
	t.Helper()
	if !l.can("deletecollection") {
		return
	}
	l.want(t, http.StatusCreated, http.MethodPost, l.collection(), encode(t, l.object(t, l.name)))
	for i, selector := range []string{"suite%3Dother", "suite%3Dverbs", "suite%3Dverbs"} {
		options := []byte(`{"gracePeriodSeconds":0,"propagationPolicy":"Background","dryRun":["All"]}`)
		if i != 1 {
			options = []byte(`{"gracePeriodSeconds":0,"propagationPolicy":"Background"}`)
		}
		l.want(t, http.StatusOK, http.MethodDelete, l.collection()+"?labelSelector="+selector, options)
		a := must(l.call(t.Context(), http.MethodGet, l.itself(), "", nil, ""))(t)
		if i < 2 && a.code != http.StatusOK {
			t.Errorf("deletion %d, by %s, took it: %d", i, selector, a.code)
		} else if i == 2 && a.code == http.StatusOK && at(decode(t, a.body), "metadata", "deletionTimestamp") == nil {
			t.Errorf("deletion by %s left it", selector)
		}
		if i == 2 && a.code == http.StatusOK {
			l.release(t)
		}
	}
	l.gone(t)
}

// TestCreateOnlyKinds asks the kinds that answer and keep nothing.
func TestCreateOnlyKinds(t *testing.T) {
	c := Start(t)
	call := admin(t, c)
	if err := call.makeNamespace(t.Context(), sampleNamespace); err != nil {
		t.Fatal(err)
	}
	for _, s := range readSamples(t, c) {
		if s.kept() || s.gvr.Resource == "bindings" {
			continue
		}
		t.Run(s.name(), func(t *testing.T) {
			got := call.want(t, http.StatusCreated, http.MethodPost, s.path(sampleNamespace), s.Object)
			if got["kind"] != s.served.Kind || got["status"] == nil {
				t.Errorf("answer %v", got)
			}
			call.want(t, http.StatusMethodNotAllowed, http.MethodGet, s.path(sampleNamespace), nil)
		})
	}
}
