package screens

import (
	"context"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"

	"clusterctl/ui/sources"
)

// Screen is one thing that can be shown.
type Screen interface {
	// Title is what the path at the top says.
	Title() string
	// Status is a few words about what is shown: counts, filters, errors.
	Status() string
	// Show begins to watch; Hide ends that. They may alternate.
	Show() tea.Cmd
	Hide()
	// Update takes messages; those of watches begun before the last Show are
	// ignored. It runs on the terminal's loop and must not block.
	Update(msg tea.Msg, height int) tea.Cmd
	View(width, height int) string
	// Keys are what this screen understands beside the root's.
	Keys() []key.Binding
	// SetFilter shows only what contains text.
	SetFilter(text string)
	Filter() string
}

// Requests of a screen to the root.
type (
	// Push opens a screen on top of this one.
	Push struct{ Screen Screen }
	// Ask wants a yes before Then is run.
	Ask struct {
		Question string
		Then     tea.Cmd
	}
	// AskText wants a line of text; Then is run with it.
	AskText struct {
		Question, Initial string
		Then              func(answer string) tea.Cmd
	}
	// Told is the outcome of an action: a message or an error.
	Told struct {
		Message string
		Err     error
	}
)

// actTimeout bounds an action on the cluster.
const actTimeout = 15 * time.Second

func request(msg tea.Msg) tea.Cmd { return func() tea.Msg { return msg } }

// act runs f off the loop and tells how it went.
func act(done string, f func(context.Context) error) tea.Cmd {
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(context.Background(), actTimeout)
		defer cancel()
		if err := f(ctx); err != nil {
			return Told{Err: err}
		}
		return Told{Message: done}
	}
}

// fetched is a text that was asked for by owner's turn.
type fetched struct {
	owner *Text
	text  string
	err   error
}

// batched is a batch of a watch; from tells whose.
type batched struct {
	from  <-chan sources.Batch
	batch sources.Batch
	open  bool
}

func nextBatch(from <-chan sources.Batch) tea.Cmd {
	return func() tea.Msg {
		batch, open := <-from
		return batched{from: from, batch: batch, open: open}
	}
}
