package encryption

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Cluster is the running cluster that a rotation works on. Write and Loaded are
// called for several hosts at once.
type Cluster interface {
	// Read gives the file of every control plane, by host; empty where there is
	// none.
	Read(ctx context.Context) (map[string][]byte, error)
	// Write replaces a host's file, atomically.
	Write(ctx context.Context, host string, file []byte) error
	// Loaded tells whether the host's API server works with the file of this
	// hash, as Hash makes it.
	Loaded(ctx context.Context, host, hash string) (bool, error)
	// Rewrite has the API write every Secret anew that is not encrypted with
	// the first key of all servers, and counts those that changed.
	Rewrite(ctx context.Context) (int, error)
}

// Hash names a file as API servers do in their metrics.
func Hash(file []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(file)) }

// How long API servers may take to read a changed file, and how often they are
// asked.
const (
	loadTimeout  = 2 * time.Minute
	loadInterval = 300 * time.Millisecond
)

// Before Secrets are written anew, writes that were under way when the key
// changed are given settleTime to end; and whoever still changes Secrets after
// maxPasses does it with the new key.
const (
	settleTime = 2 * time.Second
	maxPasses  = 5
)

// Rotate brings a new key to every control plane, has every Secret written with
// it, and takes the older keys away; or carries on where an earlier rotation
// was interrupted, with its key. tell is told of each step.
func Rotate(ctx context.Context, cluster Cluster, tell func(string)) error {
	files, err := cluster.Read(ctx)
	if err != nil {
		return fmt.Errorf("read encryption keys: %w", err)
	}
	have := map[string]Keys{}
	for host, file := range files {
		if len(file) == 0 {
			return fmt.Errorf("%s has no encryption keys yet; run `clusterctl up` first", host)
		}
		if have[host], err = Parse(file); err != nil {
			return fmt.Errorf("read encryption keys of %s: %w", host, err)
		}
	}
	// A rotation that was interrupted may have left a server that has not read
	// its file yet.
	if err := each(files, func(host string, file []byte) error {
		return awaitLoaded(ctx, cluster, host, Hash(file))
	}); err != nil {
		return err
	}
	steps, err := plan(slices.Collect(maps.Values(have)))
	if err != nil {
		return err
	}
	for i, step := range steps {
		if i == len(steps)-1 {
			if err := rewrite(ctx, cluster, tell); err != nil {
				return err
			}
		}
		tell(step.does)
		if err := spread(ctx, cluster, files, step.keys); err != nil {
			return fmt.Errorf("%s: %w", step.does, err)
		}
	}
	return nil
}

// step is what all servers have before the next one begins.
type step struct {
	does string
	keys Keys
}

// plan is what is left to do. Before the last step every Secret is written
// anew. Neighbouring steps read what the other writes, so that servers may
// stand at either.
func plan(have []Keys) ([]step, error) {
	all, err := union(have)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, errors.New("there is no control plane")
	}
	if len(all) == 1 && every(have, func(k Keys) bool { return k.writes(all[0]) }) {
		all = append([]Key{newKey(all[0].Number + 1)}, all...)
	}
	newest := all[0]
	var steps []step
	if !every(have, func(k Keys) bool { return k.has(newest.Number) }) {
		steps = append(steps, step{fmt.Sprintf("every API server learns to read key %d", newest.Number), learning(all, have)})
	}
	if !every(have, func(k Keys) bool { return k.writes(newest) }) {
		steps = append(steps, step{
			fmt.Sprintf("every API server writes with key %d", newest.Number),
			Keys{List: all},
		})
	}
	return append(steps, step{
		fmt.Sprintf("every API server knows key %d only", newest.Number),
		Keys{List: []Key{newest}},
	}), nil
}

func every(have []Keys, is func(Keys) bool) bool {
	return !slices.ContainsFunc(have, func(k Keys) bool { return !is(k) })
}

// spread writes keys on every host, and waits until every server works with
// them.
func spread(ctx context.Context, cluster Cluster, files map[string][]byte, keys Keys) error {
	file, err := keys.Marshal()
	if err != nil {
		return err
	}
	err = each(files, func(host string, known []byte) error {
		if !bytes.Equal(known, file) {
			if err := cluster.Write(ctx, host, file); err != nil {
				return fmt.Errorf("%s: write encryption keys: %w", host, err)
			}
		}
		return awaitLoaded(ctx, cluster, host, Hash(file))
	})
	if err != nil {
		return err
	}
	for host := range files {
		files[host] = file
	}
	return nil
}

// each calls f for all hosts at once.
func each(files map[string][]byte, f func(host string, file []byte) error) error {
	hosts := slices.Sorted(maps.Keys(files))
	faults := make([]error, len(hosts))
	var all sync.WaitGroup
	for i, host := range hosts {
		all.Go(func() { faults[i] = f(host, files[host]) })
	}
	all.Wait()
	return errors.Join(faults...)
}

func awaitLoaded(ctx context.Context, cluster Cluster, host, hash string) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	for {
		loaded, err := cluster.Loaded(ctx, host, hash)
		if loaded {
			return nil
		}
		select {
		case <-ctx.Done():
			if err == nil {
				err = ctx.Err()
			}
			return fmt.Errorf("%s: the API server does not work with its encryption keys: %w", host, err)
		case <-time.After(loadInterval):
		}
	}
}

// rewrite writes Secrets anew until there is none left to.
func rewrite(ctx context.Context, cluster Cluster, tell func(string)) error {
	tell("every Secret is written anew")
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleTime):
	}
	for range maxPasses {
		changed, err := cluster.Rewrite(ctx)
		if err != nil {
			return fmt.Errorf("write Secrets anew: %w", err)
		}
		if changed == 0 {
			return nil
		}
		tell(fmt.Sprintf("%d Secrets are encrypted anew", changed))
	}
	return nil
}
