package server

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"clusterctl/nodeagent/runtime"
)

func TestGuard(t *testing.T) {
	client := fake.NewClientset()
	reviews := 0
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, apiruntime.Object, error) {
		review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
		review.Status.Authenticated = review.Spec.Token != "bad"
		review.Status.User.Username = review.Spec.Token
		if review.Spec.Token == "root" {
			review.Status.User.Groups = []string{"system:masters"}
		}
		return true, review, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, apiruntime.Object, error) {
		reviews++
		review := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview).DeepCopy()
		r := review.Spec.ResourceAttributes
		review.Status.Allowed = review.Spec.User == "reader" && r.Resource == "nodes" && r.Name == "w1" && r.Verb == "get" && r.Subresource == "stats" ||
			review.Spec.User == "auditor" && r.Subresource == "configz" || review.Spec.User == "proxy" && r.Subresource == "proxy"
		return true, review, nil
	})
	guarded := newAuth(client, "w1").guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {}))
	ask := func(token, method, path string) int {
		r := httptest.NewRequest(method, path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		guarded.ServeHTTP(w, r)
		return w.Code
	}
	for _, c := range []struct {
		token, method, path string
		want                int
	}{
		{"", "GET", "/stats/summary", 401},
		{"bad", "GET", "/stats/summary", 401},
		{"reader", "GET", "/stats/summary", 200},
		{"reader", "GET", "/containerLogs/n/p/c", 403},
		{"reader", "POST", "/exec/n/p/c", 403},
		{"reader", "GET", "/configz", 403},
		{"auditor", "GET", "/configz", 200},
		{"auditor", "GET", "/healthz", 403},
		{"proxy", "GET", "/configz", 200},
		{"root", "POST", "/exec/n/p/c", 200},
	} {
		if got := ask(c.token, c.method, c.path); got != c.want {
			t.Errorf("%s %s as %q: got %d, want %d", c.method, c.path, c.token, got, c.want)
		}
	}
	before := reviews
	if ask("reader", "GET", "/stats/summary"); reviews != before {
		t.Error("the same question was asked twice")
	}
}

func TestPickRun(t *testing.T) {
	pod := func(waiting string) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		if waiting != "" {
			p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: waiting}}}}
		}
		return p
	}
	actual := func(states ...runtime.State) *runtime.Pod {
		p := &runtime.Pod{}
		for i, s := range states {
			p.Containers = append(p.Containers, runtime.Container{ID: string(rune('0' + i)), Name: "c", State: s})
		}
		return p
	}
	cases := []struct {
		pod      *v1.Pod
		actual   *runtime.Pod
		previous bool
		id, say  string
	}{
		{pod(""), actual(runtime.Running, runtime.Exited), false, "0", ""},
		{pod(""), actual(runtime.Running, runtime.Exited), true, "1", ""},
		{pod("CrashLoopBackOff"), actual(runtime.Exited, runtime.Exited), true, "0", ""},
		{pod("CrashLoopBackOff"), actual(runtime.Exited), false, "0", ""},
		{pod(""), actual(runtime.Running), true, "", `previous terminated container "c" in pod "p" not found`},
		{pod("ContainerCreating"), actual(runtime.Created), false, "", "waiting to start: ContainerCreating"},
	}
	for i, c := range cases {
		run, err := pickRun(c.pod, c.actual, "c", c.previous)
		switch {
		case c.say != "" && (err == nil || !strings.Contains(err.Error(), c.say)):
			t.Errorf("%d: got %v, want %q", i, err, c.say)
		case c.say == "" && (err != nil || run.ID != c.id):
			t.Errorf("%d: got %v %v, want %s", i, run, err, c.id)
		}
	}
}

func TestLogOptions(t *testing.T) {
	o, err := logOptions(url.Values{"follow": {"true"}, "tailLines": {"5"}, "timestamps": {"1"}, "limitBytes": {"9"}})
	if err != nil || !o.Follow || !o.Timestamp || *o.TailLines != 5 || *o.LimitBytes != 9 {
		t.Errorf("got %+v %v", o, err)
	}
	for _, bad := range []url.Values{{"tailLines": {"-1"}}, {"limitBytes": {"0"}}, {"sinceTime": {"now"}}, {"sinceSeconds": {"x"}}} {
		if _, err := logOptions(bad); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func TestMetricsAreTextWhereTextIsAdded(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "gathered_total", Help: "Gathered."}))
	s := &Server{Config: Config{
		Metrics:     map[string]prometheus.Gatherer{"/metrics": registry, "/metrics/probes": registry},
		MoreMetrics: func(w io.Writer) error { _, err := io.WriteString(w, "added_total 1\n"); return err },
		Logger:      slog.New(slog.DiscardHandler),
	}}
	routes := s.routes()
	for path, added := range map[string]bool{"/metrics": true, "/metrics/probes": false} {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
		w := httptest.NewRecorder()
		routes.ServeHTTP(w, r)
		body := w.Body.String()
		if w.Code != http.StatusOK || !strings.Contains(body, "gathered_total") || strings.Contains(body, "added_total 1") != added {
			t.Errorf("%s: %d %q", path, w.Code, body)
		}
		if text := strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain"); text != added {
			t.Errorf("%s: %s", path, w.Header().Get("Content-Type"))
		}
	}
}

func TestSettingsAreShownAsTheKubeletsAre(t *testing.T) {
	w := httptest.NewRecorder()
	(&Server{Config: Config{Configuration: map[string]int{"maxPods": 7}}}).routes().ServeHTTP(w, httptest.NewRequest("GET", "/configz", nil))
	if want := `{"kubeletconfig":{"maxPods":7}}` + "\n"; w.Code != http.StatusOK || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s: %q, want %q", w.Code, w.Header(), w.Body.String(), want)
	}
}

func TestHostLogsEndAtTheirDirectory(t *testing.T) {
	host := t.TempDir()
	for name, content := range map[string]string{"log/apt/history.log": "installed", "secret": "key"} {
		file := filepath.Join(host, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(host, "log/way-out")); err != nil {
		t.Fatal(err)
	}
	routes := (&Server{Config: Config{LogDir: filepath.Join(host, "log")}}).routes()
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/logs/":                {http.StatusOK, `<a href="apt/">apt/</a>`},
		"/logs/apt/history.log": {http.StatusOK, "installed"},
		"/logs/none":            {http.StatusNotFound, ""},
		"/logs/way-out":         {http.StatusInternalServerError, ""},
	} {
		w := httptest.NewRecorder()
		routes.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.body) || strings.Contains(w.Body.String(), "key") {
			t.Errorf("%s: %d %q", path, w.Code, w.Body.String())
		}
	}
}
