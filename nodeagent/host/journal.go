package host

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// The journal lists what was applied on this host, one line of JSON each, so
// that a person can see what happened and a reset finds files that do not lie
// in directories of ours. Contents never stand in it.
const journalFile = hostconfig.HandDir + "/journal"

// entry is a line of the journal.
type entry struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	What     string    `json:"what"`
	Path     string    `json:"path,omitempty"`     // outside our directories only
	Original string    `json:"original,omitempty"` // where a foreign file that stood there is kept
}

// ours are the directories that are clusterctl's alone.
var ours = []string{hostconfig.EtcDir, hostconfig.VarDir, hostconfig.RunDir, hostconfig.LibDir, hostconfig.LogDir}

// foreign is the path an operation writes outside our directories, if it does.
func (h *Hand) foreign(op hostop.Op) string {
	var path string
	switch o := op.(type) {
	case *hostop.File:
		path = o.Path
	case *hostop.Link:
		path = o.Path
	case *hostop.Blob:
		path = o.Path
	case *hostop.Directory:
		path = o.Path
	case *hostop.TrustAnchor:
		path = o.Path
	case *hostop.Unit:
		path = h.init.UnitPath(o.Name)
	}
	for _, directory := range ours {
		if path == directory || strings.HasPrefix(path, directory+"/") {
			return ""
		}
	}
	return path
}

// record writes down that op is about to be applied. The first time a path
// outside our directories is written, what stood there is kept.
func (h *Hand) record(op hostop.Op) error {
	e := entry{Time: time.Now().UTC(), Kind: hostop.Kind(op), What: op.Describe(), Path: h.foreign(op)}
	if e.Path != "" {
		known, err := h.foreignPaths()
		if err != nil {
			return err
		}
		if before, ok := known[e.Path]; ok {
			e.Original = before.Original
		} else if e.Original, err = h.keepOriginal(e.Path); err != nil {
			return err
		}
	}
	if err := h.ownDirectory(); err != nil {
		return err
	}
	file, err := os.OpenFile(h.path(journalFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	defer file.Close()
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if _, err := file.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write journal: %w", err)
	}
	if e.Path != "" {
		return file.Sync()
	}
	return nil
}

// ownDirectory makes the directory where the hand keeps its notes.
func (h *Hand) ownDirectory() error {
	if err := os.MkdirAll(h.path(hostconfig.VarDir), 0o755); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	return h.secretDirectory(hostconfig.HandDir)
}

// keepOriginal copies a foreign file aside and returns where, or nothing when
// there is none. A directory that exists already is "kept" as itself: a reset
// leaves it.
func (h *Hand) keepOriginal(path string) (string, error) {
	info, err := os.Stat(h.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look at %s: %w", path, err)
	case info.IsDir():
		return path, nil
	case !info.Mode().IsRegular():
		return "", nil
	}
	content, err := os.ReadFile(h.path(path))
	if err != nil {
		return "", fmt.Errorf("keep a copy of %s: %w", path, err)
	}
	kept := filepath.Join(hostconfig.HandDir, "originals", strings.ReplaceAll(strings.Trim(path, "/"), "/", "%"))
	if err := h.writeFile(kept, info.Mode(), content); err != nil {
		return "", fmt.Errorf("keep a copy of %s: %w", path, err)
	}
	return kept, nil
}

// foreignPaths lists the paths outside our directories that were ever written,
// with their first entries. A line that a crash cut short is passed over.
func (h *Hand) foreignPaths() (map[string]entry, error) {
	file, err := os.Open(h.path(journalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	defer file.Close()
	paths := map[string]entry{}
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var e entry
		if json.Unmarshal(scanner.Bytes(), &e) != nil || e.Path == "" {
			continue
		}
		if _, ok := paths[e.Path]; !ok {
			paths[e.Path] = e
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return paths, nil
}
