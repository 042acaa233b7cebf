package progress

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"clusterctl/bootstrap/execute"
	"clusterctl/bootstrap/plan"
	"clusterctl/ui/keys"
	"clusterctl/ui/theme"
)

// Run shows the events of work until it returns, and gives its error. Ctrl-C
// cancels work's context; work then comes to its own safe end.
func Run(ctx context.Context, p *plan.Plan, work func(context.Context, execute.Sink) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	program := tea.NewProgram(newModel(p, time.Now(), cancel))
	ended := make(chan error, 1)
	go func() {
		err := work(ctx, func(e execute.Event) { program.Send(e) })
		program.Send(finished{})
		ended <- err
	}()
	if _, err := program.Run(); err != nil {
		cancel()
		<-ended
		return fmt.Errorf("show progress: %w", err)
	}
	return <-ended
}

// finished says that the work is over; tick moves the clock.
type (
	finished struct{}
	tick     time.Time
)

// line is a host's.
type line struct {
	host        string
	total, done int
	title       string // of the step under way, or of the last one
	detail      string
	since       time.Time // the step's begin; zero: none under way
	failed      string
}

type model struct {
	cluster     string
	lines       []line
	begun, now  time.Time
	total, done int
	stopping    bool
	over        bool
	summary     *execute.Summary
	width       int
	cancel      func()
}

func newModel(p *plan.Plan, now time.Time, cancel func()) model {
	m := model{cluster: p.Cluster, begun: now, now: now, total: len(p.Steps), width: 100, cancel: cancel}
	for _, step := range p.Steps {
		i := slices.IndexFunc(m.lines, func(l line) bool { return l.host == step.Host })
		if i < 0 {
			i = len(m.lines)
			m.lines = append(m.lines, line{host: step.Host})
		}
		m.lines[i].total++
	}
	slices.SortFunc(m.lines, func(a, b line) int { return strings.Compare(a.host, b.host) })
	return m
}

func everySoOften() tea.Cmd {
	return tea.Tick(200*time.Millisecond, func(t time.Time) tea.Msg { return tick(t) })
}

func (m model) Init() tea.Cmd { return everySoOften() }

func (m model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width = msg.Width
	case tea.KeyPressMsg:
		if key.Matches(msg, keys.Quit) {
			m.stopping = true
			m.cancel()
		}
	case tick:
		m.now = time.Time(msg)
		if m.over {
			return m, nil
		}
		return m, everySoOften()
	case execute.Event:
		m.lines = slices.Clone(m.lines)
		m.take(msg)
	case finished:
		m.over = true
		return m, tea.Quit
	}
	return m, nil
}

func (m *model) take(e execute.Event) {
	switch e.Kind {
	case execute.KindStopping:
		m.stopping = true
	case execute.KindSummary:
		m.summary = e.Summary
		m.now = e.Time
	}
	i := slices.IndexFunc(m.lines, func(l line) bool { return l.host == e.Host })
	if i < 0 {
		return
	}
	l := &m.lines[i]
	m.now = e.Time
	switch e.Kind {
	case execute.KindStart:
		l.title, l.detail, l.since = e.Title, "", e.Time
	case execute.KindUpload:
		l.detail = fmt.Sprintf("%s %d%%", e.Detail, e.Bytes*100/max(1, e.Size))
	case execute.KindProgress:
		l.detail = e.Op
		if e.Detail != "" {
			l.detail += ": " + e.Detail
		}
	case execute.KindDone, execute.KindFailed, execute.KindSkipped:
		m.done++
		l.done++
		l.since, l.detail = time.Time{}, ""
		if e.Kind == execute.KindFailed {
			l.failed = e.Title + ": " + e.Error
		}
	}
}

// View implements tea.Model.
func (m model) View() tea.View {
	var b strings.Builder
	b.WriteString(m.heading() + "\n")
	widest := 0
	for _, l := range m.lines {
		widest = max(widest, ansi.StringWidth(l.host))
	}
	for _, l := range m.lines {
		text := fmt.Sprintf("  %-*s  %2d/%-2d  %s", widest, l.host, l.done, l.total, l.say(m.now))
		b.WriteString(ansi.Truncate(text, m.width, "…") + "\n")
	}
	if m.over && m.summary != nil {
		fmt.Fprintf(&b, "%s\n", m.ending())
	}
	return tea.NewView(b.String())
}

func (m model) heading() string {
	const width = 30
	filled := width * m.done / max(1, m.total)
	text := fmt.Sprintf("%s %s%s %d/%d steps, %s", theme.Title.Render(m.cluster),
		theme.Good.Render(strings.Repeat("━", filled)), theme.Faint.Render(strings.Repeat("━", width-filled)),
		m.done, m.total, m.now.Sub(m.begun).Round(100*time.Millisecond))
	if m.stopping && !m.over {
		text += theme.Warning.Render("  stopping at a safe point …")
	}
	return text
}

func (l line) say(now time.Time) string {
	switch {
	case l.failed != "":
		return theme.Bad.Render("failed: " + l.failed)
	case !l.since.IsZero():
		text := fmt.Sprintf("%s  %s", l.title, theme.Faint.Render(now.Sub(l.since).Round(100*time.Millisecond).String()))
		if l.detail != "" {
			text += "  " + theme.Faint.Render(l.detail)
		}
		return text
	case l.done == l.total:
		return theme.Good.Render("done")
	default:
		return theme.Faint.Render("waiting")
	}
}

func (m model) ending() string {
	s := m.summary
	text := fmt.Sprintf("%d steps changed something, %d found everything in place, %d failed, %d skipped, in %s",
		s.Changed, s.InPlace, len(s.Failed), len(s.Skipped), s.Elapsed.Round(100*time.Millisecond))
	if len(s.Failed)+len(s.Skipped) > 0 {
		return theme.Bad.Render(text)
	}
	return theme.Good.Render(text)
}
