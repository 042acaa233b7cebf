package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/rand"
	"sigs.k8s.io/yaml"
)

// A conversation is a list of requests that are sent one after the other, in a
// namespace of its own. What stock Kubernetes answers lies beside it, in
// NAME.stock.yaml:
//
//	go test ./test/integration -run TestConversationsDiffer -stock /tmp/kube-apiserver [-kind NAME] [-record]
//
// ${ns} in requests is the namespace's name, which cluster-wide objects bear
// too; ${NAME} is what an earlier request kept.
type request struct {
	Do      string            `json:"do"` // GET /api/v1/namespaces/${ns}
	Headers map[string]string `json:"headers,omitempty"`
	Body    any               `json:"body,omitempty"` // a string is sent as it is
	// Keep names parts of the answer: {rv: metadata/resourceVersion}.
	Keep map[string]string `json:"keep,omitempty"`
	// Only are the parts of the answer that count: [metadata/continue]. A list's
	// items are found by their names: [items/apps].
	Only []string `json:"only,omitempty"`
}

// heard is an answer without what two servers cannot agree on.
type heard struct {
	Do       string   `json:"do"`
	Code     int      `json:"code"`
	Type     string   `json:"type,omitempty"` // if it is not application/json
	Warnings []string `json:"warnings,omitempty"`
	Body     any      `json:"body,omitempty"`
}

func conversations(t *testing.T) []string {
	var names []string
	for _, path := range must(filepath.Glob(filepath.Join("testdata", "conversations", "*.yaml")))(t) {
		if name := strings.TrimSuffix(filepath.Base(path), ".yaml"); !strings.HasSuffix(name, ".stock") {
			names = append(names, name)
		}
	}
	return names
}

func readYAML(t *testing.T, path string, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(must(os.ReadFile(path))(t), into); err != nil {
		t.Fatalf("parse %s: %v", path, err)
	}
}

func conversationPath(name string) string {
	return filepath.Join("testdata", "conversations", name+".yaml")
}

// TestConversesAsStock holds every conversation of which stock's part is recorded.
func TestConversesAsStock(t *testing.T) {
	c := Start(t)
	call := admin(t, c)
	for _, name := range conversations(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests []request
			readYAML(t, conversationPath(name), &requests)
			var want []heard
			readYAML(t, conversationPath(name+".stock"), &want)
			got := converse(t, call, requests)
			if len(got) != len(want) {
				t.Fatalf("%d requests, and %d answers of stock: record it anew", len(got), len(want))
			}
			for i := range got {
				if diff := cmp.Diff(want[i], got[i]); diff != "" {
					t.Errorf("request %d, %s (-stock +ours):\n%s", i+1, got[i].Do, diff)
				}
			}
		})
	}
}

// TestConversationsDiffer holds every conversation with both.
func TestConversationsDiffer(t *testing.T) {
	if *stockBinary == "" {
		t.Skip("compares with a kube-apiserver: name one with -stock")
	}
	c := Start(t)
	ours, stock := admin(t, c), startStock(t, c)
	for _, name := range conversations(t) {
		if !strings.HasPrefix(name, *stockKind) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var requests []request
			readYAML(t, conversationPath(name), &requests)
			want, got := converse(t, stock, requests), converse(t, ours, requests)
			for i := range got {
				if diff := cmp.Diff(want[i], got[i]); diff != "" {
					t.Errorf("request %d, %s %v %v (-stock +ours):\n%s", i+1, got[i].Do, requests[i].Headers, requests[i].Body, diff)
				}
			}
			if *record {
				if err := os.WriteFile(conversationPath(name+".stock"), must(yaml.Marshal(want))(t), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// converse sends the requests and returns the answers.
func converse(t *testing.T, c caller, requests []request) []heard {
	t.Helper()
	ns := "talk-" + rand.String(12)
	if err := c.makeNamespace(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	kept := map[string]string{"ns": ns}
	var answers []heard
	for _, r := range requests {
		fill := func(text string) string {
			return regexp.MustCompile(`\$\{\w+\}`).ReplaceAllStringFunc(text, func(name string) string {
				value, ok := kept[name[2:len(name)-1]]
				if !ok {
					t.Fatalf("%s: nothing has kept %s", r.Do, name)
				}
				return value
			})
		}
		method, path, _ := strings.Cut(fill(r.Do), " ")
		var body []byte
		switch sent := r.Body.(type) {
		case nil:
		case string:
			body = []byte(fill(sent))
		default:
			body = []byte(fill(string(encode(t, sent))))
		}
		headers := http.Header{}
		if body != nil {
			headers.Set("Content-Type", contentJSON)
		}
		for name, value := range r.Headers {
			headers.Set(name, value)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		a, err := c.send(ctx, method, path, headers, body)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", r.Do, err)
		}
		var object any
		_ = json.Unmarshal(a.body, &object) // what is not JSON has nothing to keep
		for name, place := range r.Keep {
			value := part(object, place)
			if value == nil {
				t.Fatalf("%s: no %s in %d %.300s", r.Do, place, a.code, a.body)
			}
			kept[name] = fmt.Sprint(value)
		}
		answers = append(answers, hear(t, r, a, kept))
	}
	return answers
}

// hear makes of an answer what any server would have said.
func hear(t *testing.T, r request, a answer, kept map[string]string) heard {
	t.Helper()
	text := elsewhere.Replace(versions.ReplaceAllString(settle(string(a.body)), "${1}RV"))
	text = written.ReplaceAllString(text, "${1}now")
	text = regexp.MustCompile(`kube-api-access-\w{5}`).ReplaceAllString(text, "kube-api-access")
	for _, name := range slices.SortedFunc(maps.Keys(kept), func(a, b string) int { return len(kept[b]) - len(kept[a]) }) {
		if len(kept[name]) > 3 {
			text = strings.ReplaceAll(text, kept[name], "${"+name+"}")
		}
	}
	h := heard{Do: r.Do, Code: a.code, Type: a.header.Get("Content-Type")}
	for _, warning := range a.warnings {
		h.Warnings = append(h.Warnings, settle(strings.ReplaceAll(warning, kept["ns"], "${ns}")))
	}
	if json.Unmarshal([]byte(text), &h.Body) != nil {
		h.Body = documents(text)
	}
	if h.Type == contentJSON {
		h.Type = ""
	}
	if len(r.Only) > 0 {
		parts := map[string]any{}
		for _, place := range r.Only {
			parts[place] = part(h.Body, place)
		}
		h.Body = parts
	}
	h.Body = timeless(h.Body)
	// Read back as it will be from the file.
	var same heard
	if err := json.Unmarshal(encode(t, h), &same); err != nil {
		t.Fatal(err)
	}
	return same
}

// documents is text as what it is: the events of a watch, or text.
func documents(text string) any {
	var list []any
	decoder := json.NewDecoder(strings.NewReader(text))
	for decoder.More() {
		var document any
		if err := decoder.Decode(&document); err != nil {
			return text
		}
		list = append(list, document)
	}
	return list
}

// part finds what lies at a path of keys, and of names in lists.
func part(value any, path string) any {
	for key := range strings.SplitSeq(path, "/") {
		switch inner := value.(type) {
		case map[string]any:
			value = inner[key]
		case []any:
			i := slices.IndexFunc(inner, func(item any) bool {
				m, _ := item.(map[string]any)
				return m["name"] == key || at(m, "metadata", "name") == key
			})
			if i < 0 {
				return nil
			}
			value = inner[i]
		default:
			return nil
		}
	}
	return value
}

// elsewhere replaces what depends on how a server was built: the names of
// Kubernetes' internal packages, and where stock keeps its state in the tests.
var elsewhere = strings.NewReplacer("to (core.", "to (v1.", "to (autoscaling.", "to (v1.", "(*core.", "(*v1.", "/stock/", "/registry/")

var (
	// versions are resource versions in messages, written moments in objects
	// that messages quote.
	versions = regexp.MustCompile(`(resourceVersion\\+":\\+"|current: |\b[Rr]esource version: |\()\d{2,}`)
	written  = regexp.MustCompile(`((?:time|creationTimestamp)\\+":\\+")[^"\\]*`)

	moment = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)
	age    = regexp.MustCompile(`^(\d+(ms|[smhdy]))+( ago)?$`) // as tables have it
)

// timeless removes what depends on when a request was sent, and who wrote an
// object.
func timeless(value any) any {
	switch value := momentless(value).(type) {
	case string:
		if age.MatchString(value) {
			return "age"
		}
		return value
	case []any:
		for i := range value {
			value[i] = timeless(value[i])
		}
		return value
	case map[string]any:
		if rv, ok := value["resourceVersion"].(string); ok && rv != "" && rv != "0" {
			value["resourceVersion"] = "RV"
		}
		delete(value, "managedFields")
		for key := range value {
			value[key] = timeless(value[key])
		}
		return value
	default:
		return value
	}
}

// started is when the tests did; objects know seconds only.
var started = time.Now().Add(-time.Second)

// momentless replaces the moments of the test by "now".
func momentless(value any) any {
	switch value := value.(type) {
	case string:
		if when, err := time.Parse(time.RFC3339, value); err == nil && moment.MatchString(value) && when.After(started) && time.Until(when) < time.Hour {
			return "now"
		}
	case []any:
		for i := range value {
			value[i] = momentless(value[i])
		}
	case map[string]any:
		for key := range value {
			value[key] = momentless(value[key])
		}
	}
	return value
}
