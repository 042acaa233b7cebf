package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis"

	"clusterctl/nodeagent/checkpoint"
)

// pulls remembers with which credentials images were pulled, so that an image which
// a registry gave to one pod is not given to another that may not have it. Images
// that were there before, or were loaded by an operator, are anybody's (Kubernetes'
// policy NeverVerifyPreloadedImages). Safe for concurrent use.
type pulls struct {
	dir string

	mu    sync.Mutex
	begun map[string]int // pulls under way, by the image's name
}

// pulled is what is known of one image.
type pulled struct {
	Ref     string            `json:"ref"` // the runtime's, without names
	Updated time.Time         `json:"updated"`
	Access  map[string]access `json:"access"` // by the image's name without tag and digest
}

// access is who may use an image under a name.
type access struct {
	Everybody bool     `json:"everybody,omitempty"` // it was given without credentials
	Secrets   []source `json:"secrets,omitempty"`
}

// source is the secret that credentials are from, and their hash.
type source struct {
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Hash      string    `json:"hash"`
}

func (s source) sameSecret(o source) bool {
	return s.UID == o.UID && s.Namespace == o.Namespace && s.Name == o.Name
}

// sourcesKept bounds how many secrets are remembered beyond those that an image was
// pulled with.
const sourcesKept = 100

func newPulls(dir string) *pulls { return &pulls{dir: dir, begun: map[string]int{}} }

func (p *pulls) file(kind, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(p.dir, kind, hex.EncodeToString(sum[:])+".json")
}

func (p *pulls) recordFile(ref string) string   { return p.file("pulled", ref) }
func (p *pulls) intentFile(image string) string { return p.file("pulling", image) }

// begin notes that an image is about to be pulled: should the agent end before the
// pull does, the image is not taken for one that was always there.
func (p *pulls) begin(image string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun[image] == 0 {
		if err := checkpoint.Store(p.intentFile(image), image); err != nil {
			return err
		}
	}
	p.begun[image]++
	return nil
}

// end notes how a pull ended: from which secret the credentials were that opened the
// registry, nil for none; an empty ref: it failed.
func (p *pulls) end(image, ref string, from *source) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if ref != "" {
		err = p.allow(image, ref, from)
	}
	if p.begun[image]--; p.begun[image] > 0 {
		return err
	}
	delete(p.begun, image)
	if err == nil { // else the image is not known to be anybody's after a restart either
		err = remove(p.intentFile(image))
	}
	return err
}

// allow adds to who may use an image. p.mu is held.
func (p *pulls) allow(image, ref string, from *source) error {
	file := p.recordFile(ref)
	record := pulled{}
	if err := checkpoint.Load(file, &record); err != nil {
		record = pulled{} // nobody can read it: who may is found out anew
	}
	if record.Access == nil {
		record.Access = map[string]access{}
	}
	name := bare(image)
	a := record.Access[name]
	switch {
	case a.Everybody:
		return nil
	case from == nil:
		a = access{Everybody: true}
	default:
		a.Secrets = slices.DeleteFunc(a.Secrets, func(s source) bool { return s.sameSecret(*from) })
		a.Secrets = append(a.Secrets, *from)
	}
	record.Ref, record.Updated, record.Access[name] = ref, time.Now(), a
	return checkpoint.Store(file, record)
}

// allowed says whether a pod with these credentials may use an image that is there.
// Where that cannot be found out the registry is to say.
func (p *pulls) allowed(image, ref string, credentials []Credential) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	record := pulled{}
	if err := checkpoint.Load(p.recordFile(ref), &record); err != nil {
		return false
	}
	if record.Ref == "" {
		_, err := os.Lstat(p.intentFile(image))
		return p.begun[image] == 0 && errors.Is(err, fs.ErrNotExist)
	}
	a := record.Access[bare(image)]
	if a.Everybody {
		return true
	}
	for _, c := range credentials {
		for _, known := range a.Secrets {
			// Another secret with the same credentials is as good, and so is one
			// that has new ones.
			same, equal := known.sameSecret(c.From), known.Hash == c.From.Hash
			if !same && !equal {
				continue
			}
			if same != equal && len(a.Secrets) < sourcesKept {
				_ = p.allow(image, ref, &c.From) // it spares a pull later, no more
			}
			return true
		}
	}
	return false
}

// recover does what is left to do of pulls during which the agent ended: an image
// that came is nobody's until a registry says so.
func (p *pulls) recover(ctx context.Context, images cri.ImageManagerService) error {
	intents, err := filepath.Glob(filepath.Join(p.dir, "pulling", "*.json"))
	if err != nil || len(intents) == 0 {
		return err
	}
	list, err := images.ListImages(ctx, nil)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	refs := map[string]string{}
	for _, image := range list {
		for _, name := range append(image.RepoTags, image.RepoDigests...) {
			refs[name] = image.Id
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, file := range intents {
		var image string
		if err := checkpoint.Load(file, &image); err != nil || image == "" {
			errs = append(errs, err, remove(file))
			continue
		}
		if p.begun[image] > 0 {
			continue
		}
		if ref := refs[image]; ref != "" {
			if err := p.disown(ref); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, remove(file))
	}
	return errors.Join(errs...)
}

// disown has an image be one that was pulled, if it is not known as such. p.mu is held.
func (p *pulls) disown(ref string) error {
	file := p.recordFile(ref)
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return checkpoint.Store(file, pulled{Ref: ref, Updated: time.Now()})
}

// forget drops what is known of images that are there no more. What was noted since
// then is kept: present may not have it yet.
func (p *pulls) forget(present map[string]bool, since time.Time) error {
	records, err := filepath.Glob(filepath.Join(p.dir, "pulled", "*.json"))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	for _, file := range records {
		var record pulled
		if err := checkpoint.Load(file, &record); err == nil && (present[record.Ref] || !record.Updated.Before(since)) {
			continue
		}
		errs = append(errs, remove(file))
	}
	return errors.Join(errs...)
}

// bare is an image's name, spelt out in full, without tag and digest.
func bare(image string) string {
	image, _, _ = strings.Cut(image, "@")
	if tag := strings.LastIndexByte(image, ':'); tag > strings.LastIndexByte(image, '/') {
		image = image[:tag]
	}
	return image
}

// hash tells credentials apart without telling them.
func hash(auth any) string {
	raw, err := json.Marshal(auth)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

func remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove what is known of an image: %w", err)
	}
	return nil
}
