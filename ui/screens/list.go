package screens

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"k8s.io/apimachinery/pkg/util/duration"

	"clusterctl/ui/components"
	"clusterctl/ui/keys"
	"clusterctl/ui/sources"
)

// List shows the objects of a resource as the API server prints them.
type List struct {
	cluster   *sources.Cluster
	resource  sources.Resource
	namespace string // empty: all

	table   *components.Table
	columns []string
	age     int // index of the age among columns; -1: none
	rows    map[string]sources.Row
	err     error
	loaded  bool

	updates <-chan sources.Batch
	stop    context.CancelFunc
}

// NewList shows a resource in a namespace (empty: in all).
func NewList(cluster *sources.Cluster, resource sources.Resource, namespace string) *List {
	return &List{cluster: cluster, resource: resource, namespace: namespace, table: components.NewTable(), age: -1, rows: map[string]sources.Row{}}
}

var _ Screen = (*List)(nil)

// refreshAge moves ages on, which no event does.
type refreshAge struct{ of <-chan sources.Batch }

func (l *List) Title() string {
	if l.resource.Namespaced && l.namespace != "" {
		return l.resource.Resource + " in " + l.namespace
	}
	return l.resource.Resource
}

func (l *List) Status() string {
	if l.err != nil {
		return "connection lost, trying again: " + l.err.Error()
	}
	if !l.loaded {
		return "loading"
	}
	shown, all := l.table.Count()
	if shown != all {
		return fmt.Sprintf("%d of %d match %q", shown, all, l.table.Filter())
	}
	return fmt.Sprintf("%d", all)
}

func (l *List) Show() tea.Cmd {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	l.updates = l.cluster.Watch(ctx, l.resource, l.namespace)
	return tea.Batch(nextBatch(l.updates), l.tick())
}

func (l *List) tick() tea.Cmd {
	of := l.updates
	return tea.Tick(5*time.Second, func(time.Time) tea.Msg { return refreshAge{of} })
}

func (l *List) Hide() {
	l.stop()
	l.updates = nil
}

func (l *List) SetFilter(text string) { l.table.SetFilter(text) }
func (l *List) Filter() string        { return l.table.Filter() }

func (l *List) Keys() []key.Binding {
	bindings := []key.Binding{keys.Open, keys.Describe, keys.YAML, keys.Delete, keys.Filter, keys.Sort, keys.Reverse}
	if l.resource.Resource == "pods" {
		bindings = append(bindings, keys.Logs, keys.Previous)
	}
	if l.resource.Scalable {
		bindings = append(bindings, keys.Scale)
	}
	if l.resource.Namespaced {
		bindings = append(bindings, keys.Namespace)
	}
	return bindings
}

func (l *List) Update(msg tea.Msg, height int) tea.Cmd {
	switch msg := msg.(type) {
	case batched:
		if msg.from != l.updates || !msg.open {
			return nil
		}
		l.take(msg.batch)
		return nextBatch(l.updates)
	case refreshAge:
		if msg.of != l.updates || l.updates == nil {
			return nil
		}
		for uid, row := range l.rows {
			l.table.Set(l.line(uid, row))
		}
		return l.tick()
	case tea.KeyPressMsg:
		if l.table.Update(msg, height) {
			return nil
		}
		return l.press(msg)
	}
	return nil
}

func (l *List) take(b sources.Batch) {
	l.err = b.Err
	if b.Err != nil {
		return
	}
	if b.Reset {
		l.loaded = true
		l.rows = make(map[string]sources.Row, len(b.Rows))
		l.age = slices.Index(b.Columns, "Age")
		l.columns = nil
		if l.showsNamespace() {
			l.columns = append(l.columns, "NAMESPACE")
		}
		for _, c := range b.Columns {
			l.columns = append(l.columns, strings.ToUpper(c))
		}
		l.table.SetColumns(l.columns)
		l.table.Replace(nil)
	}
	for _, row := range b.Rows {
		l.rows[row.UID] = row
		l.table.Set(l.line(row.UID, row))
	}
	for _, uid := range b.Gone {
		delete(l.rows, uid)
		l.table.Remove(uid)
	}
}

func (l *List) showsNamespace() bool { return l.resource.Namespaced && l.namespace == "" }

func (l *List) line(uid string, row sources.Row) components.Row {
	cells := make([]string, 0, len(row.Cells)+1)
	if l.showsNamespace() {
		cells = append(cells, row.Namespace)
	}
	cells = append(cells, row.Cells...)
	if l.age >= 0 && l.age < len(row.Cells) && !row.Created.IsZero() {
		cells[len(cells)-len(row.Cells)+l.age] = duration.HumanDuration(time.Since(row.Created))
	}
	return components.Row{ID: uid, Cells: cells}
}

func (l *List) press(msg tea.KeyPressMsg) tea.Cmd {
	if key.Matches(msg, keys.Namespace) && l.resource.Namespaced && l.namespace != "" {
		return request(Push{NewList(l.cluster, l.resource, "")})
	}
	selected, ok := l.table.Selected()
	if !ok {
		return nil
	}
	row := l.rows[selected.ID]
	pods := l.resource.Resource == "pods" && l.resource.Group == ""
	switch {
	case key.Matches(msg, keys.Open) && l.resource.Resource == "namespaces":
		return request(Push{NewList(l.cluster, sources.Pods, row.Name)})
	case key.Matches(msg, keys.Logs) && pods, key.Matches(msg, keys.Open) && pods:
		return request(Push{NewLogs(l.cluster, row.Namespace, row.Name, false)})
	case key.Matches(msg, keys.Previous) && pods:
		return request(Push{NewLogs(l.cluster, row.Namespace, row.Name, true)})
	case key.Matches(msg, keys.Describe), key.Matches(msg, keys.Open):
		return request(Push{NewText("describe "+row.Name, func(ctx context.Context) (string, error) {
			return l.cluster.Describe(ctx, l.resource, row.Namespace, row.Name)
		})})
	case key.Matches(msg, keys.YAML):
		return request(Push{NewText("yaml "+row.Name, func(ctx context.Context) (string, error) {
			return l.cluster.YAML(ctx, l.resource, row.Namespace, row.Name)
		})})
	case key.Matches(msg, keys.Delete):
		return request(Ask{
			Question: fmt.Sprintf("Delete %s %s?", l.resource.Kind, join(row.Namespace, row.Name)),
			Then: act("deleted "+row.Name, func(ctx context.Context) error {
				return l.cluster.Delete(ctx, l.resource, row.Namespace, row.Name)
			}),
		})
	case key.Matches(msg, keys.Scale) && l.resource.Scalable:
		return request(AskText{
			Question: fmt.Sprintf("Replicas of %s:", join(row.Namespace, row.Name)),
			Then: func(answer string) tea.Cmd {
				replicas, err := strconv.Atoi(strings.TrimSpace(answer))
				if err != nil || replicas < 0 {
					return request(Told{Err: fmt.Errorf("%q is not a number of replicas", answer)})
				}
				return act(fmt.Sprintf("scaled %s to %d", row.Name, replicas), func(ctx context.Context) error {
					return l.cluster.Scale(ctx, l.resource, row.Namespace, row.Name, replicas)
				})
			},
		})
	}
	return nil
}

func join(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

func (l *List) View(width, height int) string { return l.table.View(width, height) }
