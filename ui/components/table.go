package components

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"charm.land/bubbles/v2/key"
	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"clusterctl/ui/keys"
	"clusterctl/ui/theme"
)

// Row is a line of a Table.
type Row struct {
	ID    string // stable, unique: what selection and updates go by
	Cells []string
}

// Table shows rows that come and go under a selection that stays. Only the
// visible lines are ever drawn, whatever the number of rows.
type Table struct {
	columns []string
	rows    map[string]Row
	order   []string // IDs, filtered and sorted; rebuilt when dirty
	dirty   bool

	selected string // ID
	cursor   int    // index of selected in order
	offset   int    // first visible line
	left     int    // first visible column beyond the first

	sortBy  int
	reverse bool
	filter  string
}

// NewTable returns an empty table.
func NewTable() *Table { return &Table{rows: map[string]Row{}} }

// SetColumns names the columns.
func (t *Table) SetColumns(columns []string) { t.columns = columns }

// Replace sets all rows.
func (t *Table) Replace(rows []Row) {
	t.rows = make(map[string]Row, len(rows))
	for _, r := range rows {
		t.rows[r.ID] = r
	}
	t.dirty = true
}

// Set adds or changes a row; Remove takes one away.
func (t *Table) Set(row Row)      { t.rows[row.ID] = row; t.dirty = true }
func (t *Table) Remove(id string) { delete(t.rows, id); t.dirty = true }

// SetFilter shows only rows with a cell that contains text, case ignored; a
// leading ! turns it around.
func (t *Table) SetFilter(text string) { t.filter = text; t.dirty = true }

// Filter is the current one.
func (t *Table) Filter() string { return t.filter }

// Selected is the row under the cursor.
func (t *Table) Selected() (Row, bool) {
	t.arrange()
	if len(t.order) == 0 {
		return Row{}, false
	}
	return t.rows[t.selected], true
}

// Count is how many rows are shown, and how many there are.
func (t *Table) Count() (shown, all int) {
	t.arrange()
	return len(t.order), len(t.rows)
}

// Update moves and sorts by the keys of package keys; it reports whether the
// key was one of the table's.
func (t *Table) Update(msg tea.KeyPressMsg, height int) bool {
	t.arrange()
	page := max(1, height-2)
	switch {
	case key.Matches(msg, keys.Up):
		t.move(-1)
	case key.Matches(msg, keys.Down):
		t.move(1)
	case key.Matches(msg, keys.PageUp):
		t.move(-page)
	case key.Matches(msg, keys.PageDown):
		t.move(page)
	case key.Matches(msg, keys.Top):
		t.move(-len(t.order))
	case key.Matches(msg, keys.Bottom):
		t.move(len(t.order))
	case key.Matches(msg, keys.Left):
		t.left = max(0, t.left-1)
	case key.Matches(msg, keys.Right):
		t.left = min(max(0, len(t.columns)-2), t.left+1)
	case key.Matches(msg, keys.Sort):
		t.sortBy = (t.sortBy + 1) % max(1, len(t.columns))
		t.dirty = true
	case key.Matches(msg, keys.Reverse):
		t.reverse = !t.reverse
		t.dirty = true
	default:
		return false
	}
	return true
}

func (t *Table) move(by int) {
	if len(t.order) == 0 {
		return
	}
	t.cursor = min(max(0, t.cursor+by), len(t.order)-1)
	t.selected = t.order[t.cursor]
}

// arrange brings order up to date and keeps the selection on its row, or on the
// row that took its place.
func (t *Table) arrange() {
	if !t.dirty {
		return
	}
	t.dirty = false
	t.order = t.order[:0]
	needle, not := strings.CutPrefix(strings.ToLower(t.filter), "!")
	for id, row := range t.rows {
		if needle == "" || strings.Contains(strings.ToLower(strings.Join(row.Cells, "\x00")), needle) != not {
			t.order = append(t.order, id)
		}
	}
	slices.SortFunc(t.order, func(a, b string) int {
		order := compareCells(t.cell(a), t.cell(b))
		if t.reverse {
			order = -order
		}
		return cmp.Or(order, cmp.Compare(a, b))
	})
	if i := slices.Index(t.order, t.selected); i >= 0 {
		t.cursor = i
	}
	t.move(0)
}

func (t *Table) cell(id string) string {
	if cells := t.rows[id].Cells; t.sortBy < len(cells) {
		return cells[t.sortBy]
	}
	return ""
}

// compareCells orders numbers and durations ("5d3h", "12m", "3/3") by size and
// all else by letters.
func compareCells(a, b string) int {
	x, okX := size(a)
	y, okY := size(b)
	if okX && okY {
		return cmp.Compare(x, y)
	}
	return cmp.Compare(a, b)
}

func size(s string) (float64, bool) {
	s, _, _ = strings.Cut(s, " ")
	s, _, _ = strings.Cut(s, "/")
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		return n, true
	}
	// An age: days and years are not time.ParseDuration's.
	var total time.Duration
	rest := s
	for _, unit := range []struct {
		name string
		span time.Duration
	}{{"y", 365 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		if head, tail, found := strings.Cut(rest, unit.name); found {
			n, err := strconv.Atoi(head)
			if err != nil {
				return 0, false
			}
			total += time.Duration(n) * unit.span
			rest = tail
		}
	}
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil {
			return 0, false
		}
		total += d
	}
	return total.Seconds(), s != ""
}

// maxCell is the widest that a column gets.
const maxCell = 48

// View draws the heading and as many rows as fit.
func (t *Table) View(width, height int) string {
	t.arrange()
	lines := max(0, height-1)
	t.offset = min(t.offset, t.cursor)
	if t.cursor >= t.offset+lines {
		t.offset = t.cursor - lines + 1
	}
	t.offset = max(0, min(t.offset, len(t.order)-lines))
	visible := t.order[t.offset:min(len(t.order), t.offset+lines)]

	columns := t.shownColumns()
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = ansi.StringWidth(t.heading(c))
		for _, id := range visible {
			if cells := t.rows[id].Cells; c < len(cells) {
				widths[i] = max(widths[i], min(maxCell, ansi.StringWidth(cells[c])))
			}
		}
	}
	var b strings.Builder
	var heading strings.Builder
	for i, c := range columns {
		heading.WriteString(pad(t.heading(c), widths[i]) + "  ")
	}
	b.WriteString(theme.Heading.Render(ansi.Truncate(heading.String(), width, "…")))
	for i, id := range visible {
		b.WriteByte('\n')
		selected := t.offset+i == t.cursor
		var line strings.Builder
		for j, c := range columns {
			cell := ""
			if cells := t.rows[id].Cells; c < len(cells) {
				cell = cells[c]
			}
			text := pad(cell, widths[j])
			if !selected {
				text = theme.Word(cell).Render(text)
			}
			line.WriteString(text + "  ")
		}
		text := ansi.Truncate(line.String(), width, "…")
		if selected {
			text = theme.Selected.Render(pad(text, width))
		}
		b.WriteString(text)
	}
	return b.String()
}

// shownColumns are the first, which stays, and those from t.left on.
func (t *Table) shownColumns() []int {
	var shown []int
	for c := range t.columns {
		if c == 0 || c > t.left {
			shown = append(shown, c)
		}
	}
	return shown
}

func (t *Table) heading(c int) string {
	if c != t.sortBy {
		return t.columns[c]
	}
	if t.reverse {
		return t.columns[c] + "↓"
	}
	return t.columns[c] + "↑"
}

// pad fills s up to width, or cuts it there.
func pad(s string, width int) string {
	if w := ansi.StringWidth(s); w > width {
		return ansi.Truncate(s, width, "…")
	} else if w < width {
		return s + strings.Repeat(" ", width-w)
	}
	return s
}
