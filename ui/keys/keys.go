package keys

import "charm.land/bubbles/v2/key"

func bind(help string, names ...string) key.Binding {
	return key.NewBinding(key.WithKeys(names...), key.WithHelp(names[0], help))
}

// Everywhere.
var (
	Quit    = bind("quit", "ctrl+c")
	Back    = bind("back", "esc")
	Help    = bind("help", "?")
	Command = bind("go to", ":")
)

// In lists and texts.
var (
	Up       = bind("up", "up", "k")
	Down     = bind("down", "down", "j")
	PageUp   = bind("page up", "pgup", "ctrl+b")
	PageDown = bind("page down", "pgdown", "ctrl+f", "space")
	Top      = bind("first", "home", "g")
	Bottom   = bind("last", "end", "G")
	Filter   = bind("filter", "/")
	Sort     = bind("sort by next column", "s")
	Reverse  = bind("reverse order", "S")
	Left     = bind("left", "left", "h")
	Right    = bind("right", "right")
)

// On an object.
var (
	Open      = bind("open", "enter")
	Describe  = bind("describe", "d")
	YAML      = bind("yaml", "y")
	Logs      = bind("logs", "l")
	Previous  = bind("previous logs", "p")
	Scale     = bind("scale", "c")
	Delete    = bind("delete", "ctrl+d")
	Namespace = bind("all namespaces", "0")
	Follow    = bind("follow", "f")
)

// In answers.
var (
	Yes    = bind("yes", "y")
	Submit = bind("ok", "enter")
)
