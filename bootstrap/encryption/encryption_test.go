package encryption

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"pgregory.net/rapid"
)

func TestMarshalParse(t *testing.T) {
	for _, keys := range []Keys{New(false), New(true), {List: []Key{newKey(3), newKey(2)}}} {
		raw, err := keys.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(raw)
		if err != nil || got.WritePlain != keys.WritePlain || len(got.List) != len(keys.List) || got.List[0] != keys.List[0] {
			t.Errorf("parse of\n%s: %v, %v", raw, got, err)
		}
		if plain := bytes.Index(raw, []byte("identity")) < bytes.Index(raw, []byte("secretbox")); plain != keys.WritePlain {
			t.Errorf("written in plain text: %t, want %t\n%s", plain, keys.WritePlain, raw)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := New(false).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"empty":          "",
		"not YAML":       "\t",
		"other provider": strings.Replace(string(good), "secretbox", "aesgcm", 1),
		"other resource": strings.Replace(string(good), "- secrets", "- configmaps", 1),
		"other name":     strings.Replace(string(good), "key1", "mine", 1),
		"short key":      strings.Replace(string(good), "secret: ", "secret: AAAA #", 1),
	} {
		if keys, err := Parse([]byte(raw)); !errors.Is(err, errForeign) {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
	}
}

var errKilled = errors.New("killed")

// fake is a cluster in memory, whose servers load files at once or when asked.
// Before everything that a rotation does, other clients write, and everybody
// reads all there is.
type fake struct {
	t       *rapid.T
	mu      sync.Mutex
	files   map[string][]byte // by host
	loaded  map[string]Keys
	secrets map[string]int // key number by name; 0: plain text
	left    int            // things to do before it is killed
}

func (f *fake) do(what func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.traffic()
	if f.left == 0 {
		return errKilled
	}
	f.left--
	what()
	f.traffic()
	return nil
}

// traffic has each server write one secret and read all.
func (f *fake) traffic() {
	for host, keys := range f.loaded {
		f.secrets[fmt.Sprint("of ", host, len(f.secrets)%3)] = writes(keys)
	}
	for host, keys := range f.loaded {
		for name, key := range f.secrets {
			if key != 0 && !keys.has(key) {
				f.t.Fatalf("%s, with %v, cannot read %q, written with key %d", host, numbers(keys), name, key)
			}
		}
	}
}

func writes(keys Keys) int {
	if keys.WritePlain {
		return 0
	}
	return keys.List[0].Number
}

func numbers(keys Keys) (all []int) {
	for _, key := range keys.List {
		all = append(all, key.Number)
	}
	return all
}

func (f *fake) Read(context.Context) (map[string][]byte, error) {
	files := map[string][]byte{}
	return files, f.do(func() {
		for host, file := range f.files {
			files[host] = file
		}
	})
}

func (f *fake) Write(_ context.Context, host string, file []byte) error {
	return f.do(func() { f.files[host] = file })
}

func (f *fake) Loaded(_ context.Context, host, hash string) (is bool, err error) {
	err = f.do(func() {
		f.load(host)
		is = Hash(f.files[host]) == hash
	})
	return is, err
}

func (f *fake) load(host string) {
	keys, err := Parse(f.files[host])
	if err != nil {
		f.t.Fatalf("%s: %v", host, err)
	}
	f.loaded[host] = keys
}

func (f *fake) Rewrite(context.Context) (changed int, err error) {
	for {
		done := true
		if err := f.do(func() {
			for name, key := range f.secrets {
				if now := writes(f.loaded["cp0"]); key != now {
					f.secrets[name] = now
					changed++
					done = false
					return // one at a time, so that it is killed in between
				}
			}
		}); err != nil || done {
			return changed, err
		}
	}
}

// TestRotationSurvivesInterruption kills rotations anywhere, lets servers join
// in between, and rotates once more to the end.
func TestRotationSurvivesInterruption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { rapid.Check(struct{ testing.TB }{t}, rotationSurvives) }) // time flies in there
}

func rotationSurvives(t *rapid.T) {
	f := &fake{t: t, files: map[string][]byte{}, loaded: map[string]Keys{}, secrets: map[string]int{"old": 0}}
	begin, err := New(rapid.Bool().Draw(t, "servers run")).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "servers") {
		host := fmt.Sprint("cp", i)
		f.files[host] = begin
		f.load(host)
	}
	for range rapid.IntRange(0, 4).Draw(t, "interruptions") {
		f.left = rapid.IntRange(0, 40).Draw(t, "until killed")
		ctx, cancel := context.WithCancel(t.Context())
		err := Rotate(ctx, killer{f, cancel}, func(string) {})
		cancel()
		if err != nil && !errors.Is(err, errKilled) && !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted rotation: %v", err)
		}
		// A server may load late: when it is asked, or when it starts again.
		for host := range f.files {
			if rapid.Bool().Draw(t, "loads") {
				f.load(host)
			}
		}
		if rapid.Bool().Draw(t, "a server joins") {
			f.join(fmt.Sprint("cp", len(f.files)))
		}
		f.traffic()
	}
	f.left = -1
	if err := Rotate(t.Context(), f, func(string) {}); err != nil {
		t.Fatal(err)
	}
	first := f.loaded["cp0"]
	if len(first.List) != 1 || first.WritePlain {
		t.Fatalf("at the end there are the keys %v, plain text first: %t", numbers(first), first.WritePlain)
	}
	for host, file := range f.files {
		if !bytes.Equal(file, f.files["cp0"]) || len(f.loaded[host].List) != 1 || f.loaded[host].List[0] != first.List[0] {
			t.Errorf("%s has another file", host)
		}
	}
	for name, key := range f.secrets {
		if key != first.List[0].Number {
			t.Errorf("%q is still encrypted with key %d", name, key)
		}
	}
}

// killer ends the rotation's context with the first failure, as a kill would.
type killer struct {
	*fake
	cancel func()
}

func (k killer) Loaded(ctx context.Context, host, hash string) (bool, error) {
	is, err := k.fake.Loaded(ctx, host, hash)
	if err != nil {
		k.cancel()
	}
	return is, err
}

// join adds a server as `up` does.
func (f *fake) join(host string) {
	var others []Keys
	for _, file := range f.files {
		keys, err := Parse(file)
		if err != nil {
			f.t.Fatal(err)
		}
		others = append(others, keys)
	}
	joined, err := Join(others)
	if err != nil {
		f.t.Fatal(err)
	}
	if f.files[host], err = joined.Marshal(); err != nil {
		f.t.Fatal(err)
	}
	f.load(host)
}

func TestRotateRefuses(t *testing.T) {
	one, two := New(false), New(false)
	marshal := func(k Keys) []byte {
		raw, err := k.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	for want, files := range map[string]map[string][]byte{
		"cp2 has no encryption keys yet; run `clusterctl up` first":            {"cp1": marshal(one), "cp2": nil},
		"read encryption keys of cp1: the encryption configuration is not one": {"cp1": []byte("kind: x")},
		"the control planes have different keys of the number 1":               {"cp1": marshal(one), "cp2": marshal(two)},
		"there is no control plane":                                            {},
	} {
		err := Rotate(t.Context(), &fake{files: files, loaded: map[string]Keys{}, secrets: map[string]int{}, left: -1}, func(string) {})
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
