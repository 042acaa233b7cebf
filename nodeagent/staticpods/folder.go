package staticpods

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// period is how often the folder is looked at. Only names and times are read
// unless they changed.
const period = 2 * time.Second

// Folder is a folder of manifests, one pod each.
type Folder struct {
	Dir    string
	Node   string // the pods' names end with it
	Logger *slog.Logger

	files map[string]manifest
}

type manifest struct {
	changed time.Time
	size    int64
	pod     *v1.Pod // nil where it never was readable
}

// Watch hands all pods of the folder to set, first at once and then whenever
// they change, until ctx ends. A manifest that cannot be read (any more)
// counts as it last could.
func (f *Folder) Watch(ctx context.Context, set func([]*v1.Pod)) {
	f.files = map[string]manifest{}
	f.look()
	set(f.pods())
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if f.look() {
			set(f.pods())
		}
	}
}

// look reads what changed, and says whether anything did.
func (f *Folder) look() (changed bool) {
	entries, err := os.ReadDir(f.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Logger.Warn("cannot read the folder of static pods; they stay as they are", "folder", f.Dir, "error", err)
		return false
	}
	present := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		name := filepath.Join(f.Dir, e.Name())
		info, err := os.Stat(name) // through links
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		present[name] = true
		old, known := f.files[name]
		if known && old.changed.Equal(info.ModTime()) && old.size == info.Size() {
			continue
		}
		now := manifest{info.ModTime(), info.Size(), old.pod}
		raw, err := os.ReadFile(name)
		if err == nil {
			now.pod, err = Parse(raw, name, f.Node, time.Now())
		}
		switch {
		case err != nil:
			now.pod = old.pod
			f.Logger.Warn("cannot use the manifest of a static pod", "file", name, "error", err)
		case old.pod != nil && old.pod.UID == now.pod.UID:
			now.pod = old.pod
		default:
			changed = true
		}
		f.files[name] = now
	}
	for name, old := range f.files {
		if !present[name] {
			delete(f.files, name)
			changed = changed || old.pod != nil
		}
	}
	return changed
}

// pods are the pods of the folder. Of two of one name none is better than the
// other, so the file that comes first wins.
func (f *Folder) pods() []*v1.Pod {
	first := map[string]string{}
	for name, m := range f.files {
		if m.pod == nil {
			continue
		}
		key := m.pod.Namespace + "/" + m.pod.Name
		if other, ok := first[key]; !ok || name < other {
			first[key] = name
		}
	}
	var pods []*v1.Pod
	for name, m := range f.files {
		if m.pod == nil {
			continue
		}
		if winner := first[m.pod.Namespace+"/"+m.pod.Name]; winner != name {
			f.Logger.Warn("two manifests describe the same static pod", "used", winner, "ignored", name)
			continue
		}
		pods = append(pods, m.pod.DeepCopy())
	}
	return pods
}
