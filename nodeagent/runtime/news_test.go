package runtime

import (
	"reflect"
	"testing"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"pgregory.net/rapid"
)

const (
	created = criv1.ContainerEventType_CONTAINER_CREATED_EVENT
	started = criv1.ContainerEventType_CONTAINER_STARTED_EVENT
	stopped = criv1.ContainerEventType_CONTAINER_STOPPED_EVENT
	deleted = criv1.ContainerEventType_CONTAINER_DELETED_EVENT
)

func picture() *Pod {
	return &Pod{
		Sandboxes: []Sandbox{{ID: "s2", Ready: true, IPs: []string{"10.0.0.1"}, CreatedAt: time.Unix(2, 0)}, {ID: "s1", CreatedAt: time.Unix(1, 0)}},
		Containers: []Container{
			{ID: "made", SandboxID: "s2", State: Created, CreatedAt: time.Unix(5, 0)},
			{ID: "runs", SandboxID: "s2", State: Running, CreatedAt: time.Unix(4, 0)},
			{ID: "ended", SandboxID: "s1", State: Exited, ExitCode: 3, CreatedAt: time.Unix(3, 0)},
		},
	}
}

func TestNewsAreAddedOrAskedAbout(t *testing.T) {
	listed := func(change func(map[string]int32)) map[string]int32 {
		states := map[string]int32{"s2": 0, "s1": 1, "made": 0, "runs": 1, "ended": 2}
		change(states)
		return states
	}
	end := func(id string, code int32) *Container { return &Container{ID: id, State: Exited, ExitCode: code} }
	const known, asked, changed = "known", "asked about", "added"
	for name, c := range map[string]struct {
		news News
		want string
		look func(*Pod) bool // of what is made of it
	}{
		"a listing that says the same": {News{Listed: listed(func(map[string]int32) {})}, known, nil},
		"a listing with another state": {News{Listed: listed(func(l map[string]int32) { l["runs"] = 2 })}, asked, nil},
		"a listing without a sandbox":  {News{Listed: listed(func(l map[string]int32) { delete(l, "s1") })}, asked, nil},
		"a listing with a stranger":    {News{Listed: listed(func(l map[string]int32) { l["new"] = 1 })}, asked, nil},
		"a listing where another came": {News{Listed: listed(func(l map[string]int32) { delete(l, "ended"); l["new"] = 2 })}, asked, nil},
		"one is made":                  {News{ID: "new", Type: created}, known, nil},
		"a stranger has started":       {News{ID: "new", Type: started}, asked, nil},
		"what was made has started":    {News{ID: "made", Type: started}, asked, nil},
		"a late start":                 {News{ID: "ended", Type: started}, known, nil},
		"a late start of a sandbox":    {News{ID: "s1", Type: started}, known, nil},
		"a run has ended": {News{ID: "runs", Type: stopped, Ended: end("runs", 7)}, changed, func(p *Pod) bool {
			return len(p.Containers) == 3 && p.Containers[2].ID == "runs" && p.Containers[2].ExitCode == 7
		}},
		"a run has ended somehow": {News{ID: "runs", Type: stopped}, asked, nil},
		"a stranger has ended":    {News{ID: "new", Type: stopped, Ended: end("new", 7)}, asked, nil},
		"a late end":              {News{ID: "ended", Type: stopped, Ended: end("ended", 3)}, known, nil},
		"an end told otherwise":   {News{ID: "ended", Type: stopped, Ended: end("ended", 4)}, asked, nil},
		"a sandbox has ended":     {News{ID: "s2", Type: stopped}, changed, func(p *Pod) bool { return !p.Sandboxes[0].Ready && p.Sandboxes[0].IPs == nil }},
		"a late end of a sandbox": {News{ID: "s1", Type: stopped}, known, nil},
		"a run is removed":        {News{ID: "ended", Type: deleted}, changed, func(p *Pod) bool { return len(p.Containers) == 2 && len(p.Sandboxes) == 2 }},
		"a sandbox is removed":    {News{ID: "s2", Type: deleted}, changed, func(p *Pod) bool { return len(p.Containers) == 1 && p.Sandbox().ID == "s1" }},
		"a late removal":          {News{ID: "new", Type: deleted}, known, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := picture()
			after, got := c.news.Update(before), changed
			switch after {
			case nil:
				got = asked
			case before:
				got = known
			}
			if got != c.want || c.look != nil && !c.look(after) {
				t.Errorf("it is %s, want %s: %+v", got, c.want, after)
			}
			if !reflect.DeepEqual(before, picture()) {
				t.Error("what was observed before was changed")
			}
		})
	}
}

// TestNewsAreHeardOnce: whatever is added is known afterwards.
func TestNewsAreHeardOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.SampledFrom([]string{"s1", "s2", "made", "runs", "ended", "new"}).Draw(t, "id")
		news := News{ID: id, Type: rapid.SampledFrom([]criv1.ContainerEventType{created, started, stopped, deleted}).Draw(t, "type")}
		if rapid.Bool().Draw(t, "whole") {
			news.Ended = &Container{ID: id, State: Exited, ExitCode: rapid.Int32Range(0, 4).Draw(t, "code")}
		}
		if after := news.Update(picture()); after != nil && news.Update(after) != after {
			t.Errorf("%+v is news twice: %+v", news, after)
		}
	})
}

func TestTheNewestComesFirst(t *testing.T) {
	p := picture().With(Container{ID: "new", CreatedAt: time.Unix(9, 0)}).WithSandbox(Sandbox{ID: "s3", Ready: true, CreatedAt: time.Unix(8, 0)})
	if p.Containers[0].ID != "new" || len(p.Containers) != 4 || p.Sandbox().ID != "s3" || len(p.Sandboxes) != 3 {
		t.Errorf("added: %+v", p)
	}
	if p = p.With(Container{ID: "runs", State: Exited, CreatedAt: time.Unix(4, 0)}); len(p.Containers) != 4 || p.Containers[2].State != Exited {
		t.Errorf("replaced: %+v", p.Containers)
	}
}
