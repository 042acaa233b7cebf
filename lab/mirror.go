//go:build linux

package lab

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source is one entry of apt's configuration.
type source struct {
	uri        string
	suites     []string
	components []string
}

// aptMirror finds the Debian mirror in the machine's apt configuration.
func aptMirror(etcApt string) (string, error) {
	files, _ := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*"))
	files = append([]string{filepath.Join(etcApt, "sources.list")}, files...)
	var sources []source
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if strings.HasSuffix(file, ".sources") {
			sources = append(sources, parseDeb822(string(raw))...)
		} else {
			sources = append(sources, parseOneLine(string(raw))...)
		}
	}
	var fallback string
	for _, s := range sources {
		if !slices.Contains(s.components, "main") || !strings.HasPrefix(s.uri, "http") {
			continue
		}
		if slices.Contains(s.suites, treeSuite) {
			return s.uri, nil
		}
		if fallback == "" && strings.HasSuffix(strings.TrimRight(s.uri, "/"), "/debian") {
			fallback = s.uri // another release of Debian: its mirror has ours as well
		}
	}
	if fallback != "" {
		return fallback, nil
	}
	return "", errors.New("apt is configured with no Debian mirror: name one with --mirror")
}

// parseOneLine reads the classic format: deb [options] uri suite component…
func parseOneLine(text string) []source {
	var sources []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
			_, rest, _ = strings.Cut(rest, "]")
		}
		if fields := strings.Fields(rest); len(fields) >= 3 {
			sources = append(sources, source{uri: fields[0], suites: fields[1:2], components: fields[2:]})
		}
	}
	return sources
}

// parseDeb822 reads the format of .sources files: stanzas of fields.
func parseDeb822(text string) []source {
	var sources []source
	fields := map[string][]string{}
	flush := func() {
		if slices.Contains(fields["types"], "deb") && !slices.Contains(fields["enabled"], "no") {
			for _, uri := range fields["uris"] {
				sources = append(sources, source{uri: uri, suites: fields["suites"], components: fields["components"]})
			}
		}
		clear(fields)
	}
	var key string
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "":
			flush()
		case strings.HasPrefix(trimmed, "#"):
		case line[0] == ' ' || line[0] == '\t':
			fields[key] = append(fields[key], strings.Fields(trimmed)...)
		default:
			name, value, _ := strings.Cut(trimmed, ":")
			key = strings.ToLower(name)
			fields[key] = strings.Fields(value)
		}
	}
	flush()
	return sources
}
