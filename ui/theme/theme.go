package theme

import (
	"strings"

	"charm.land/lipgloss/v2"
)

// Styles. With NO_COLOR set the terminal library leaves colours out; what they
// say is always in the words too.
var (
	Title    = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("#7dcfff"))
	Crumb    = lipgloss.NewStyle().Bold(true)
	Faint    = lipgloss.NewStyle().Foreground(lipgloss.Color("#737aa2"))
	Heading  = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("#bb9af7"))
	Selected = lipgloss.NewStyle().Bold(true).Reverse(true)
	Good     = lipgloss.NewStyle().Foreground(lipgloss.Color("#9ece6a"))
	Warning  = lipgloss.NewStyle().Foreground(lipgloss.Color("#e0af68"))
	Bad      = lipgloss.NewStyle().Foreground(lipgloss.Color("#f7768e"))
	Question = lipgloss.NewStyle().Bold(true).Foreground(lipgloss.Color("#e0af68"))
)

// words that say how something is; what is not here has no colour.
var words = map[string]lipgloss.Style{
	"Running": Good, "Ready": Good, "Active": Good, "Available": Good, "True": Good, "Succeeded": Good, "Completed": Faint,
	"healthy": Good, "active": Good, "leader": Good, "in quorum": Good,
	"Pending": Warning, "ContainerCreating": Warning, "PodInitializing": Warning, "Terminating": Warning, "Warning": Warning,
	"Unknown": Warning, "learner": Warning, "activating": Warning, "inactive": Warning,
	"Failed": Bad, "Error": Bad, "Evicted": Bad, "OOMKilled": Bad, "failed": Bad, "unreachable": Bad, "no quorum": Bad,
}

// Word styles a cell by what it says: "Running", "CrashLoopBackOff",
// "NotReady,SchedulingDisabled".
func Word(cell string) lipgloss.Style {
	first, _, _ := strings.Cut(cell, ",")
	if style, ok := words[first]; ok {
		return style
	}
	switch {
	case strings.HasSuffix(first, "BackOff"), strings.HasPrefix(first, "NotReady"), strings.HasPrefix(first, "Err"), strings.HasSuffix(first, "Error"):
		return Bad
	case strings.HasPrefix(first, "Init:"):
		return Warning
	}
	return lipgloss.NewStyle()
}
