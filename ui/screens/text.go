package screens

import (
	"context"
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"clusterctl/ui/components"
	"clusterctl/ui/keys"
)

// Text shows a text that is fetched when it is shown: a description, YAML.
type Text struct {
	title string
	fetch func(context.Context) (string, error)
	text  *components.Text
	err   error
}

// NewText shows what fetch returns.
func NewText(title string, fetch func(context.Context) (string, error)) *Text {
	return &Text{title: title, fetch: fetch, text: components.NewText("loading …", false)}
}

var _ Screen = (*Text)(nil)

func (t *Text) Title() string { return t.title }

func (t *Text) Status() string {
	if t.err != nil {
		return t.err.Error()
	}
	if f := t.text.Filter(); f != "" {
		return "lines with " + f
	}
	return ""
}

func (t *Text) Show() tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), actTimeout)
		defer cancel()
		text, err := t.fetch(ctx)
		return fetched{owner: t, text: text, err: err}
	}
}

func (t *Text) Hide() {}

func (t *Text) Update(msg tea.Msg, height int) tea.Cmd {
	switch msg := msg.(type) {
	case fetched:
		if msg.owner != t {
			return nil
		}
		t.err = msg.err
		filter := t.text.Filter()
		t.text = components.NewText(strings.TrimRight(msg.text, "\n"), false)
		t.text.SetFilter(filter)
	case tea.KeyPressMsg:
		t.text.Update(msg, height)
	}
	return nil
}

func (t *Text) View(width, height int) string { return t.text.View(width, height) }
func (t *Text) Keys() []key.Binding {
	return []key.Binding{keys.Filter, keys.Top, keys.Bottom, keys.Left, keys.Right}
}
func (t *Text) SetFilter(text string) { t.text.SetFilter(text) }
func (t *Text) Filter() string        { return t.text.Filter() }
