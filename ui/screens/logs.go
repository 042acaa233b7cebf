package screens

import (
	"context"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"clusterctl/ui/components"
	"clusterctl/ui/keys"
	"clusterctl/ui/sources"
)

// Logs follows a pod's logs.
type Logs struct {
	cluster        *sources.Cluster
	namespace, pod string
	previous       bool
	text           *components.Text
	err            error
	ended          bool

	stop context.CancelFunc
	turn int // of Show; messages of earlier ones are ignored
}

// NewLogs follows a pod's logs, or shows those before the last restart.
func NewLogs(cluster *sources.Cluster, namespace, pod string, previous bool) *Logs {
	return &Logs{cluster: cluster, namespace: namespace, pod: pod, previous: previous, text: components.NewText("", true)}
}

var _ Screen = (*Logs)(nil)

// logged is a batch of a turn's lines.
type logged struct {
	owner *Logs
	turn  int
	from  <-chan sources.LogBatch
	batch sources.LogBatch
	open  bool
}

func (l *Logs) Title() string {
	if l.previous {
		return "previous logs of " + l.pod
	}
	return "logs of " + l.pod
}

func (l *Logs) Status() string {
	switch {
	case l.err != nil:
		return l.err.Error()
	case l.ended:
		return "ended"
	case l.text.Following():
		return "following"
	}
	return "paused"
}

func (l *Logs) Show() tea.Cmd {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	l.turn++
	l.ended, l.err = false, nil
	filter := l.text.Filter()
	l.text = components.NewText("", true)
	l.text.SetFilter(filter)
	turn := l.turn
	return func() tea.Msg {
		from, err := l.cluster.Logs(ctx, l.namespace, l.pod, l.previous)
		if err != nil {
			return logged{owner: l, turn: turn, batch: sources.LogBatch{Err: err}}
		}
		return l.next(turn, from)()
	}
}

func (l *Logs) next(turn int, from <-chan sources.LogBatch) tea.Cmd {
	return func() tea.Msg {
		batch, open := <-from
		return logged{owner: l, turn: turn, from: from, batch: batch, open: open}
	}
}

func (l *Logs) Hide() { l.stop() }

func (l *Logs) Update(msg tea.Msg, height int) tea.Cmd {
	switch msg := msg.(type) {
	case logged:
		if msg.owner != l || msg.turn != l.turn {
			return nil
		}
		if msg.batch.Err != nil {
			l.err = msg.batch.Err
		}
		if len(msg.batch.Lines) > 0 {
			l.text.Add(msg.batch.Lines)
		}
		if !msg.open {
			l.ended = true
			return nil
		}
		return l.next(msg.turn, msg.from)
	case tea.KeyPressMsg:
		l.text.Update(msg, height)
	}
	return nil
}

func (l *Logs) View(width, height int) string { return l.text.View(width, height) }
func (l *Logs) Keys() []key.Binding {
	return []key.Binding{keys.Follow, keys.Filter, keys.Top, keys.Bottom, keys.Left, keys.Right}
}
func (l *Logs) SetFilter(text string) { l.text.SetFilter(text) }
func (l *Logs) Filter() string        { return l.text.Filter() }
