package components

import (
	"strings"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"clusterctl/ui/keys"
	"clusterctl/ui/theme"
)

// maxLines is how much of a followed text is kept.
const maxLines = 10000

// Text scrolls through lines, and follows the end of those that keep coming.
type Text struct {
	lines  []string
	shown  []int // indexes of lines that match the filter; nil: all
	filter string
	top    int
	left   int
	follow bool
}

// NewText returns a text; with follow it shows its end as lines are added.
func NewText(content string, follow bool) *Text {
	t := &Text{follow: follow}
	if content != "" {
		t.Add(strings.Split(strings.TrimRight(content, "\n"), "\n"))
	}
	return t
}

// Add appends lines; the oldest go once there are too many.
func (t *Text) Add(lines []string) {
	for _, line := range lines {
		t.lines = append(t.lines, strings.ReplaceAll(ansi.Strip(line), "\t", "    "))
	}
	if extra := len(t.lines) - maxLines; extra > 0 {
		t.lines = append([]string(nil), t.lines[extra:]...)
		t.top = max(0, t.top-extra)
	}
	t.SetFilter(t.filter)
}

// SetFilter shows only lines that contain text, case ignored.
func (t *Text) SetFilter(text string) {
	t.filter, t.shown = text, nil
	if text == "" {
		return
	}
	t.shown = []int{}
	needle := strings.ToLower(text)
	for i, line := range t.lines {
		if strings.Contains(strings.ToLower(line), needle) {
			t.shown = append(t.shown, i)
		}
	}
}

// Filter is the current one; Following says whether the end is shown.
func (t *Text) Filter() string  { return t.filter }
func (t *Text) Following() bool { return t.follow }

func (t *Text) count() int {
	if t.shown != nil {
		return len(t.shown)
	}
	return len(t.lines)
}

func (t *Text) line(i int) string {
	if t.shown != nil {
		i = t.shown[i]
	}
	return t.lines[i]
}

// Update scrolls; it reports whether the key was one of the text's.
func (t *Text) Update(msg tea.KeyPressMsg, height int) bool {
	last := max(0, t.count()-height)
	if t.follow {
		t.top = last
	}
	was := t.top
	switch {
	case key.Matches(msg, keys.Up):
		t.top--
	case key.Matches(msg, keys.Down):
		t.top++
	case key.Matches(msg, keys.PageUp):
		t.top -= height
	case key.Matches(msg, keys.PageDown):
		t.top += height
	case key.Matches(msg, keys.Top):
		t.top = 0
	case key.Matches(msg, keys.Bottom):
		t.top = last
	case key.Matches(msg, keys.Left):
		t.left = max(0, t.left-8)
	case key.Matches(msg, keys.Right):
		t.left += 8
	case key.Matches(msg, keys.Follow):
		t.follow = !t.follow
		return true
	default:
		return false
	}
	t.top = min(max(0, t.top), last)
	if t.top < was {
		t.follow = false // who scrolls back wants to read
	}
	return true
}

// View draws the visible lines.
func (t *Text) View(width, height int) string {
	if t.follow {
		t.top = max(0, t.count()-height)
	}
	if t.count() == 0 {
		return theme.Faint.Render("(nothing)")
	}
	var visible []string
	for i := t.top; i < min(t.count(), t.top+height); i++ {
		visible = append(visible, ansi.Cut(t.line(i), t.left, t.left+width))
	}
	return strings.Join(visible, "\n")
}
