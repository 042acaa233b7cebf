package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/hostconfig"
)

// TestEarlyListsAreWhole asks an API server for lists from before it listens
// until it is ready. Its caches fill meanwhile: it may ask clients to come again,
// but what it calls a list has to be all of it.
func TestEarlyListsAreWhole(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	const objects = 120
	call := admin(t, c)
	path := "/api/v1/namespaces/" + ns + "/configmaps"
	for i := range objects {
		call.want(t, http.StatusCreated, http.MethodPost, path, fmt.Appendf(nil, `{"metadata":{"name":"m%d","labels":{"early":"yes"}}}`, i))
	}
	now := must(c.Client.CoreV1().ConfigMaps(ns).List(t.Context(), metav1.ListOptions{}))(t).ResourceVersion

	asking, stop := context.WithCancel(t.Context())
	defer stop()
	var clients sync.WaitGroup
	defer clients.Wait()
	var whole, refused atomic.Int64
	second := c.another(t, func(config *hostconfig.ControlPlane) {
		early := *c
		early.Config.Port = config.Port
		caller := must(newCaller(must(early.Certificate("early", "system:masters"))(t)))(t)
		for _, query := range []string{
			"", "&resourceVersion=0", "&limit=500", "&resourceVersionMatch=NotOlderThan&resourceVersion=" + now,
			"&resourceVersionMatch=Exact&resourceVersion=" + now,
		} {
			clients.Go(func() {
				for asking.Err() == nil {
					a, err := caller.call(asking, http.MethodGet, path+"?labelSelector=early%3Dyes"+query, "", nil, "")
					var list metav1.PartialObjectMetadataList
					switch {
					case err != nil: // it does not listen yet, or the test is over
					case a.code == http.StatusTooManyRequests || a.code >= 500:
						refused.Add(1)
					case a.code != http.StatusOK || json.Unmarshal(a.body, &list) != nil || len(list.Items) != objects:
						t.Errorf("list with %q: %d %s, %d objects of %d", query, a.code, a.message(), len(list.Items), objects)
						return
					default:
						whole.Add(1)
					}
				}
			})
		}
	})
	// Ready is what it says: nobody is asked to come again.
	ready := admin(t, second)
	for range 20 {
		ready.want(t, http.StatusOK, http.MethodGet, path, nil)
	}
	eventually(t, "lists to be answered", func(context.Context) (bool, error) { return whole.Load() > 0, nil })
	stop()
	clients.Wait()
	t.Logf("%d lists answered, %d refused", whole.Load(), refused.Load())
}

// TestHistoryEnds checks what clients hear of a past that etcd has forgotten. No
// cache of the server has it either where there is none, as for events.
func TestHistoryEnds(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	call, path := admin(t, c), "/api/v1/namespaces/"+ns+"/events"
	create := func(name string) {
		call.want(t, http.StatusCreated, http.MethodPost, path, fmt.Appendf(nil, `{"metadata":{"name":"%s"},"involvedObject":{"namespace":"%s"}}`, name, ns))
	}
	for i := range 5 {
		create(fmt.Sprint("m", i))
	}
	page := call.want(t, http.StatusOK, http.MethodGet, path+"?limit=2", nil)
	token, _ := at(page, "metadata", "continue").(string)
	if token == "" {
		t.Fatalf("the first page does not say how to go on: %v", page["metadata"])
	}
	create("n")

	etcd := openStore(t, c).Etcd()
	head := must(etcd.Get(t.Context(), "/"))(t).Header.Revision
	if _, err := etcd.Compact(t.Context(), head); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		t.Fatal(err)
	}
	var last metav1.Status
	for _, query := range []string{
		"watch=1&timeoutSeconds=60&resourceVersion=1", "resourceVersionMatch=Exact&resourceVersion=1", "limit=100&continue=" + token,
	} {
		a := must(call.call(t.Context(), http.MethodGet, path+"?"+query, "", nil, ""))(t)
		if last = verdict(a); last.Code != http.StatusGone || last.Reason != metav1.StatusReasonExpired {
			t.Errorf("%s: %d %.300s, want 410 Expired", query, a.code, a.body)
		}
	}
	// The last of them says how to go on with what there is now.
	if last.Continue == "" {
		t.Fatal("no way to go on with the pages")
	}
	rest := call.want(t, http.StatusOK, http.MethodGet, path+"?limit=100&continue="+last.Continue, nil)
	if items, _ := rest["items"].([]any); len(items) != 4 {
		t.Errorf("%d objects after the history's end, want m2, m3, m4 and n", len(items))
	}
}

// verdict is the status that an answer holds, or the first event of a watch.
func verdict(a answer) metav1.Status {
	var event metav1.WatchEvent
	body := a.body
	if json.Unmarshal(body, &event) == nil && event.Type == "ERROR" {
		body = event.Object.Raw
	}
	var status metav1.Status
	// What is something else has no code.
	_ = json.Unmarshal(body, &status)
	return status
}
