package integration

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// TestAnswersAsStock sends every request of which testdata/stock has an
// answer: the samples, their tables, and what is wrong in each kind.
func TestAnswersAsStock(t *testing.T) {
	c := Start(t)
	call := admin(t, c)
	for _, s := range readSamples(t, c) {
		t.Run(s.name(), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(recordedPath(s))
			if err != nil {
				t.Skipf("nothing is recorded (see stock_test.go): %v", err)
			}
			var want recorded
			if err := yaml.UnmarshalStrict(text, &want); err != nil {
				t.Fatalf("parse %s: %v", recordedPath(s), err)
			}
			checkRecorded(t, begin(t, call, s), want)
		})
	}
}

func checkRecorded(t *testing.T, r *trial, want recorded) {
	t.Helper()
	created := false
	create := func() {
		if created = true; want.Stored == nil {
			return
		}
		if diff := cmp.Diff(want.Stored, comparable(t, r.create(t))); diff != "" {
			t.Errorf("created, (-stock +ours):\n%s", diff)
		}
		if want.Columns == nil {
			return
		}
		columns, cells := r.table(t)
		if diff := cmp.Diff(want.Columns, columns) + cmp.Diff(want.Cells, cells); diff != "" {
			t.Errorf("table, (-stock +ours):\n%s", diff)
		}
	}
	for _, refused := range want.Refused {
		verb, text, _ := strings.Cut(refused.Do, " ")
		m := must(parseMutation(text))(t)
		if verb != "create" && !created {
			create()
		}
		got, ok := r.try(t, verb, m)
		if !ok || !sameFaults(got.settled(), refused.Get) {
			t.Errorf("%s:\nstock %s\nours  %s", refused.Do, refused.Get, got.settled())
		}
	}
	if !created {
		create()
	}
}

// sameFaults reports whether two answers name the same faults. Those of a map's
// entries come in any order.
func sameFaults(a, b string) bool {
	faults := func(text string) []string {
		return slices.Sorted(slices.Values(strings.Split(strings.NewReplacer("[", "", "]", "").Replace(text), ", ")))
	}
	return a == b || slices.Equal(faults(a), faults(b))
}

// TestMutationsReachEveryField guards the generator of what is recorded.
func TestMutationsReachEveryField(t *testing.T) {
	for _, s := range readSamples(t, Start(t)) {
		object := must(published.New(s.gvk()))(t)
		list := mutations(reflect.TypeOf(object).Elem(), s.object(t), "")
		for name := range fieldsOf(reflect.TypeOf(object).Elem()) {
			reached := name == "kind" || name == "apiVersion" || name == "status"
			for _, m := range list {
				reached = reached || m.path == "/"+name || strings.HasPrefix(m.path, "/"+name+"/")
			}
			if !reached {
				t.Errorf("%s: no mutation of %s", s.name(), name)
			}
		}
		for _, m := range list {
			back, err := parseMutation(m.String())
			if err != nil || back.String() != m.String() {
				t.Fatalf("%s reads back as %s: %v", m, back, err)
			}
		}
	}
}
