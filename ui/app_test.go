package ui

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"clusterctl/ui/sources"
)

var update = flag.Bool("update", false, "write the golden files anew")

// api is an API server of canned tables that can be watched.
type api struct {
	mu      sync.Mutex
	watches chan string // events to send to the open watch
	deleted []string
	scaled  []string
}

func tableOf(columns []string, rows ...[]string) map[string]any {
	table := map[string]any{"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": map[string]any{"resourceVersion": "7"}}
	var definitions []any
	for _, c := range columns {
		definitions = append(definitions, map[string]any{"name": c, "type": "string"})
	}
	var list []any
	for _, r := range rows {
		cells := make([]any, 0, len(r)-1)
		for _, c := range r[1:] {
			cells = append(cells, c)
		}
		list = append(list, map[string]any{"cells": cells, "object": map[string]any{
			"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
			"metadata": map[string]any{"uid": r[1], "name": r[1], "namespace": r[0]},
		}})
	}
	table["columnDefinitions"], table["rows"] = definitions, list
	return table
}

var podColumns = []string{"Name", "Ready", "Status", "Restarts"}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(v any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			panic(err)
		}
	}
	pod := metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}
	switch {
	case r.URL.Path == "/api":
		answer(map[string]any{"kind": "APIVersions", "versions": []string{"v1"}})
	case r.URL.Path == "/apis":
		answer(metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{{
			Name: "apps", Versions: []metav1.GroupVersionForDiscovery{{GroupVersion: "apps/v1", Version: "v1"}},
			PreferredVersion: metav1.GroupVersionForDiscovery{GroupVersion: "apps/v1", Version: "v1"},
		}}})
	case r.URL.Path == "/api/v1":
		answer(metav1.APIResourceList{TypeMeta: pod, GroupVersion: "v1", APIResources: []metav1.APIResource{
			{Name: "pods", SingularName: "pod", ShortNames: []string{"po"}, Kind: "Pod", Namespaced: true, Verbs: metav1.Verbs{"list", "watch"}},
		}})
	case r.URL.Path == "/apis/apps/v1":
		answer(metav1.APIResourceList{TypeMeta: pod, GroupVersion: "apps/v1", APIResources: []metav1.APIResource{
			{Name: "deployments", SingularName: "deployment", ShortNames: []string{"deploy"}, Kind: "Deployment", Namespaced: true, Verbs: metav1.Verbs{"list", "watch"}},
		}})
	case r.Method == http.MethodDelete:
		a.mu.Lock()
		a.deleted = append(a.deleted, r.URL.Path)
		a.mu.Unlock()
		answer(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Success"})
	case r.Method == http.MethodPatch:
		var body map[string]any
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			panic(err)
		}
		a.mu.Lock()
		a.scaled = append(a.scaled, fmt.Sprint(r.URL.Path, " ", body["spec"]))
		a.mu.Unlock()
		answer(map[string]any{"kind": "Scale", "apiVersion": "autoscaling/v1"})
	case r.URL.Query().Get("watch") == "true":
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for {
			select {
			case e := <-a.watches:
				fmt.Fprintln(w, e)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	case strings.HasSuffix(r.URL.Path, "/pods"):
		answer(tableOf(podColumns,
			[]string{"default", "web-1", "1/1", "Running", "0"},
			[]string{"default", "web-2", "0/1", "CrashLoopBackOff", "12"},
			[]string{"kube-system", "coredns-a", "1/1", "Running", "2"}))
	case strings.HasSuffix(r.URL.Path, "/deployments"):
		answer(tableOf([]string{"Name", "Ready"}, []string{"default", "web", "2/2"}))
	default:
		http.NotFound(w, r)
	}
}

// driver runs an app without a terminal: it carries out commands and feeds
// their messages back, as the program's loop would.
type driver struct {
	t    *testing.T
	app  *app
	msgs chan tea.Msg
}

func drive(t *testing.T) (*driver, *api) {
	t.Helper()
	a := &api{watches: make(chan string, 8)}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	cluster, err := sources.NewCluster("test", &rest.Config{Host: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	d := &driver{t: t, app: newApp(Options{Cluster: cluster}), msgs: make(chan tea.Msg, 64)}
	t.Cleanup(func() { d.app.top().Hide() })
	d.send(tea.WindowSizeMsg{Width: 76, Height: 9})
	d.run(d.app.Init())
	return d, a
}

func (d *driver) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	go func() {
		msg := cmd()
		if batch, ok := msg.(tea.BatchMsg); ok {
			for _, c := range batch {
				d.run(c)
			}
			return
		}
		d.msgs <- msg
	}()
}

func (d *driver) send(msg tea.Msg) {
	_, cmd := d.app.Update(msg)
	d.run(cmd)
}

func (d *driver) screen() string {
	var lines []string
	for line := range strings.SplitSeq(ansi.Strip(d.app.View().Content), "\n") {
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// until feeds messages until the screen contains want.
func (d *driver) until(want string) {
	d.t.Helper()
	timeout := time.After(time.Minute)
	for !strings.Contains(d.screen(), want) {
		select {
		case msg := <-d.msgs:
			if msg != nil {
				d.send(msg)
			}
		case <-timeout:
			d.t.Fatalf("the screen never showed %q:\n%s", want, d.screen())
		}
	}
}

func (d *driver) press(keys ...string) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		switch k {
		case "enter":
			msg = tea.KeyPressMsg{Code: tea.KeyEnter}
		case "esc":
			msg = tea.KeyPressMsg{Code: tea.KeyEscape}
		case "down":
			msg = tea.KeyPressMsg{Code: tea.KeyDown}
		case "ctrl+d":
			msg = tea.KeyPressMsg{Code: 'd', Mod: tea.ModCtrl}
		}
		d.send(msg)
	}
}

func (d *driver) typeText(text string) {
	for _, r := range text {
		d.press(string(r))
	}
}

func (d *driver) golden(name string) {
	d.t.Helper()
	path := filepath.Join("testdata", name+".golden")
	got := d.screen()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			d.t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		d.t.Fatal(err)
	}
	if got != string(want) {
		d.t.Errorf("screen differs from %s:\n%s", path, got)
	}
}

func TestPods(t *testing.T) {
	d, _ := drive(t)
	d.until("coredns-a")
	d.golden("pods")
}

func TestFilterAndBack(t *testing.T) {
	d, _ := drive(t)
	d.until("coredns-a")
	d.press("/")
	d.typeText("crash")
	d.press("enter")
	d.golden("filter")
	d.press("esc")
	d.until("coredns-a")
}

func TestChangesArrive(t *testing.T) {
	d, a := drive(t)
	d.until("CrashLoopBackOff")
	event := func(kind string, row ...string) {
		raw, err := json.Marshal(map[string]any{"type": kind, "object": tableOf(podColumns, row)})
		if err != nil {
			t.Fatal(err)
		}
		a.watches <- string(raw)
	}
	event("MODIFIED", "default", "web-2", "1/1", "Completed", "12")
	event("DELETED", "default", "web-1", "1/1", "Running", "0")
	event("ADDED", "default", "web-3", "0/1", "Pending", "0")
	d.until("web-3")
	d.golden("changes")
}

func TestDeleteAsksAndSwallowsKeysInFlight(t *testing.T) {
	d, a := drive(t)
	d.until("coredns-a")
	d.press("ctrl+d")
	d.until("Delete Pod default/web-1?")
	d.golden("delete-question")
	d.app.askedAt = time.Now().Add(time.Minute) // just now, however slow this machine is
	d.press("y")                                // typed before the question could be read
	d.golden("delete-question")
	d.app.askedAt = time.Now().Add(-time.Second)
	d.press("y")
	d.until("deleted web-1")
	a.mu.Lock()
	defer a.mu.Unlock()
	if want := "/api/v1/namespaces/default/pods/web-1"; len(a.deleted) != 1 || a.deleted[0] != want {
		t.Errorf("deleted %q, want %q", a.deleted, want)
	}
}

func TestDeleteIsNotDoneWithoutYes(t *testing.T) {
	d, a := drive(t)
	d.until("coredns-a")
	d.press("ctrl+d")
	d.until("Delete Pod default/web-1?")
	d.app.askedAt = time.Now().Add(-time.Second)
	d.press("enter")
	d.until("nothing was done")
	if len(a.deleted) != 0 {
		t.Errorf("deleted %q", a.deleted)
	}
}

func TestCommandAndScale(t *testing.T) {
	d, a := drive(t)
	d.until("coredns-a")
	for len(d.app.resources) == 0 {
		d.send(<-d.msgs)
	}
	d.press(":")
	d.typeText("deploy")
	d.press("enter")
	d.until("2/2")
	d.press("c")
	d.until("Replicas of default/web:")
	d.typeText("5")
	d.golden("scale-question")
	d.press("enter")
	d.until("scaled web to 5")
	a.mu.Lock()
	defer a.mu.Unlock()
	if want := "/apis/apps/v1/namespaces/default/deployments/web/scale map[replicas:5]"; len(a.scaled) != 1 || a.scaled[0] != want {
		t.Errorf("scaled %q, want %q", a.scaled, want)
	}
}

func TestUnknownCommand(t *testing.T) {
	d, _ := drive(t)
	d.until("coredns-a")
	d.press(":")
	d.typeText("nonsense")
	d.press("enter")
	d.until(`nothing called "nonsense"`)
	d.press(":")
	d.typeText("hosts")
	d.press("enter")
	d.until("hosts needs an inventory")
}

func TestHelp(t *testing.T) {
	d, _ := drive(t)
	d.send(tea.WindowSizeMsg{Width: 76, Height: 32})
	d.until("coredns-a")
	d.press("?")
	d.golden("help")
}
