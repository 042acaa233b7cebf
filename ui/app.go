package ui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	"charm.land/bubbles/v2/textinput"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"clusterctl/ui/keys"
	"clusterctl/ui/screens"
	"clusterctl/ui/sources"
	"clusterctl/ui/theme"
)

// Options is what the dashboard is opened with.
type Options struct {
	Cluster   *sources.Cluster
	Namespace string        // to begin with; empty: all
	Hosts     sources.Hosts // nil: no inventory was given
}

// Run shows the dashboard until it is left.
func Run(ctx context.Context, o Options) error {
	_, err := tea.NewProgram(newApp(o), tea.WithContext(ctx)).Run()
	if err != nil && !errors.Is(err, tea.ErrProgramKilled) {
		return fmt.Errorf("show the dashboard: %w", err)
	}
	return nil
}

// What the keys go to.
type mode int

const (
	browsing  mode = iota // the screen
	filtering             // the input, as a filter
	commanding
	answering // the input, as the answer to a question
	confirming
	helping
)

// app is the root model: a stack of screens, of which the last is shown, and
// one line of input.
type app struct {
	options   Options
	resources []sources.Resource
	stack     []screens.Screen
	width     int
	height    int

	mode     mode
	input    textinput.Model
	question string
	confirm  tea.Cmd
	answer   func(string) tea.Cmd
	askedAt  time.Time

	message string
	failure bool
	turn    int // of message, so that an old timer does not clear a new one
}

func newApp(o Options) *app {
	input := textinput.New()
	input.Prompt = ""
	return &app{
		options: o, width: 100, height: 30, input: input,
		stack: []screens.Screen{screens.NewList(o.Cluster, sources.Pods, o.Namespace)},
	}
}

type discovered struct {
	resources []sources.Resource
	err       error
}

type clearMessage int

func (a *app) Init() tea.Cmd {
	discover := func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
		defer cancel()
		resources, err := a.options.Cluster.Resources(ctx)
		return discovered{resources, err}
	}
	return tea.Batch(a.top().Show(), discover)
}

func (a *app) top() screens.Screen { return a.stack[len(a.stack)-1] }

// body is how many lines the screen has.
func (a *app) body() int { return max(1, a.height-3) }

func (a *app) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		a.width, a.height = msg.Width, msg.Height
		return a, nil
	case discovered:
		if msg.err != nil {
			return a, a.tell("", msg.err)
		}
		a.resources = msg.resources
		return a, nil
	case screens.Push:
		return a, a.push(msg.Screen)
	case screens.Ask:
		a.mode, a.question, a.confirm, a.askedAt = confirming, msg.Question, msg.Then, time.Now()
		return a, nil
	case screens.AskText:
		a.question, a.answer = msg.Question, msg.Then
		return a, a.ask(answering, msg.Initial)
	case screens.Told:
		return a, a.tell(msg.Message, msg.Err)
	case clearMessage:
		if int(msg) == a.turn {
			a.message = ""
		}
		return a, nil
	case tea.KeyPressMsg:
		return a, a.press(msg)
	}
	return a, a.top().Update(msg, a.body())
}

func (a *app) push(s screens.Screen) tea.Cmd {
	a.top().Hide()
	a.stack = append(a.stack, s)
	return s.Show()
}

func (a *app) pop() tea.Cmd {
	if len(a.stack) == 1 {
		return nil
	}
	a.top().Hide()
	a.stack = a.stack[:len(a.stack)-1]
	return a.top().Show()
}

// replace makes s the only screen.
func (a *app) replace(s screens.Screen) tea.Cmd {
	a.top().Hide()
	a.stack = []screens.Screen{s}
	return s.Show()
}

// tell shows a message, or an error, for a while.
func (a *app) tell(message string, err error) tea.Cmd {
	a.message, a.failure = message, err != nil
	if err != nil {
		a.message = err.Error()
	}
	a.turn++
	turn := a.turn
	return tea.Tick(6*time.Second, func(time.Time) tea.Msg { return clearMessage(turn) })
}

func (a *app) ask(m mode, initial string) tea.Cmd {
	a.mode = m
	a.input.SetValue(initial)
	a.input.CursorEnd()
	return a.input.Focus()
}

// inFlight is how long after a question keys are swallowed: they were meant for
// what was there before.
const inFlight = 250 * time.Millisecond

func (a *app) press(msg tea.KeyPressMsg) tea.Cmd {
	if key.Matches(msg, keys.Quit) {
		a.top().Hide()
		return tea.Quit
	}
	switch a.mode {
	case helping:
		a.mode = browsing
		return nil
	case confirming:
		if time.Since(a.askedAt) < inFlight {
			return nil
		}
		a.mode = browsing
		if key.Matches(msg, keys.Yes) {
			return a.confirm
		}
		return a.tell("nothing was done", nil)
	case filtering, commanding, answering:
		return a.typed(msg)
	}
	switch {
	case key.Matches(msg, keys.Back):
		if a.top().Filter() != "" {
			a.top().SetFilter("")
			return nil
		}
		return a.pop()
	case key.Matches(msg, keys.Help):
		a.mode = helping
		return nil
	case key.Matches(msg, keys.Command):
		return a.ask(commanding, "")
	case key.Matches(msg, keys.Filter):
		return a.ask(filtering, a.top().Filter())
	}
	return a.top().Update(msg, a.body())
}

// typed gives a key to the line of input.
func (a *app) typed(msg tea.KeyPressMsg) tea.Cmd {
	was := a.mode
	switch {
	case key.Matches(msg, keys.Back):
		a.mode = browsing
		if was == filtering {
			a.top().SetFilter("")
		}
		return nil
	case key.Matches(msg, keys.Submit):
		a.mode = browsing
		switch was {
		case commanding:
			return a.goTo(a.input.Value())
		case answering:
			return a.answer(a.input.Value())
		}
		return nil
	}
	var cmd tea.Cmd
	a.input, cmd = a.input.Update(msg)
	if was == filtering {
		a.top().SetFilter(a.input.Value())
	}
	return cmd
}

// goTo is `:resource [namespace]`, `:hosts`, `:etcd` or `:q`.
func (a *app) goTo(command string) tea.Cmd {
	words := strings.Fields(command)
	if len(words) == 0 {
		return nil
	}
	switch name := words[0]; name {
	case "q", "quit":
		a.top().Hide()
		return tea.Quit
	case "hosts", "etcd":
		if a.options.Hosts == nil {
			return a.tell("", fmt.Errorf("%s needs an inventory: clusterctl ui --inventory FILE", name))
		}
		if name == "hosts" {
			return a.replace(screens.NewHosts(a.options.Hosts))
		}
		return a.replace(screens.NewEtcd(a.options.Hosts))
	}
	resource, ok := sources.Find(a.resources, words[0])
	if !ok {
		return a.tell("", fmt.Errorf("the cluster has nothing called %q; try pods, deploy, svc, nodes, events, hosts, etcd", words[0]))
	}
	namespace := a.options.Namespace
	if len(words) > 1 {
		namespace = words[1]
	}
	return a.replace(screens.NewList(a.options.Cluster, resource, namespace))
}

// View implements tea.Model.
func (a *app) View() tea.View {
	body := a.top().View(a.width, a.body())
	if a.mode == helping {
		body = a.help()
	}
	lines := strings.Split(body, "\n")
	if len(lines) > a.body() {
		lines = lines[:a.body()]
	}
	for len(lines) < a.body() {
		lines = append(lines, "")
	}
	content := a.header() + "\n" + strings.Join(lines, "\n") + "\n" + a.footer()
	view := tea.NewView(content)
	view.AltScreen = true
	view.WindowTitle = "clusterctl " + a.options.Cluster.Name
	return view
}

func (a *app) header() string {
	path := make([]string, len(a.stack))
	for i, s := range a.stack {
		path[i] = s.Title()
	}
	left := theme.Title.Render(a.options.Cluster.Name) + " " + theme.Crumb.Render(strings.Join(path, " › ")) + "  " + theme.Faint.Render(a.top().Status())
	return ansi.Truncate(left, a.width, "…") + "\n"
}

func (a *app) footer() string {
	switch {
	case a.mode == confirming:
		return theme.Question.Render(a.question + " y: yes, any other key: no")
	case a.mode == answering:
		return theme.Question.Render(a.question+" ") + a.input.View()
	case a.mode == commanding:
		return theme.Question.Render(":") + a.input.View()
	case a.mode == filtering:
		return theme.Question.Render("/") + a.input.View()
	case a.message != "" && a.failure:
		return theme.Bad.Render(ansi.Truncate(strings.ReplaceAll(a.message, "\n", " "), a.width, "…"))
	case a.message != "":
		return theme.Good.Render(ansi.Truncate(a.message, a.width, "…"))
	}
	var hints []string
	for _, b := range slices.Concat(a.top().Keys(), []key.Binding{keys.Command, keys.Back, keys.Help}) {
		hints = append(hints, b.Help().Key+" "+b.Help().Desc)
	}
	return theme.Faint.Render(ansi.Truncate(strings.Join(hints, " · "), a.width, "…"))
}

func (a *app) help() string {
	var b strings.Builder
	section := func(title string, bindings []key.Binding) {
		b.WriteString(theme.Heading.Render(title) + "\n")
		for _, k := range bindings {
			fmt.Fprintf(&b, "  %-12s %s\n", strings.Join(k.Keys(), " "), k.Help().Desc)
		}
	}
	section("Here", a.top().Keys())
	section("Move", []key.Binding{keys.Up, keys.Down, keys.PageUp, keys.PageDown, keys.Top, keys.Bottom, keys.Left, keys.Right})
	section("Everywhere", []key.Binding{keys.Command, keys.Filter, keys.Back, keys.Help, keys.Quit})
	b.WriteString(theme.Faint.Render("  :pods :deploy web :svc :nodes :events :hosts :etcd :q — any resource, short name or kind, then a namespace"))
	return b.String()
}
