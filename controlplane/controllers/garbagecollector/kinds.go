package garbagecollector

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// served is one resource as the API server offers it.
type served struct {
	resource   schema.GroupVersionResource
	kind       string
	namespaced bool
}

// kinds knows the resource of every kind, in all versions. It is safe for
// concurrent use.
type kinds struct {
	mu     sync.Mutex
	byKind map[schema.GroupVersionKind]served
}

// lookup finds the resource that an owner reference points to.
func (k *kinds) lookup(apiVersion, kind string) (served, bool) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return served{}, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.byKind[gv.WithKind(kind)]
	return s, ok
}

// ignored are resources that own nothing, are owned by nothing and come and go
// by themselves.
var ignored = []schema.GroupResource{{Group: "", Resource: "events"}, {Group: "events.k8s.io", Resource: "events"}}

// refresh asks the API server what it serves. It returns, for each resource
// that can be listed, watched and deleted, the version its group prefers, and
// the groups that could not be asked.
func (k *kinds) refresh(client discovery.DiscoveryInterface) (monitored []served, failed map[string]bool, err error) {
	groups, lists, err := client.ServerGroupsAndResources()
	failed = map[string]bool{}
	var partial *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &partial) {
		for gv := range partial.Groups {
			failed[gv.Group] = true
		}
	} else if err != nil {
		return nil, nil, fmt.Errorf("discover kinds: %w", err)
	}
	byKind := map[schema.GroupVersionKind]served{}
	best := map[schema.GroupResource]served{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, nil, fmt.Errorf("parse group version: %w", err)
		}
		for _, r := range list.APIResources {
			s := served{resource: gv.WithResource(r.Name), kind: r.Kind, namespaced: r.Namespaced}
			if !can(r, "get") && !can(r, "delete") {
				continue // subresources and reviews have kinds too
			}
			byKind[gv.WithKind(r.Kind)] = s
			gr := s.resource.GroupResource()
			if !can(r, "list", "watch", "delete") || slices.Contains(ignored, gr) {
				continue
			}
			if current, ok := best[gr]; !ok || prefers(groups, gv, current.resource.GroupVersion()) {
				best[gr] = s
			}
		}
	}
	if len(best) == 0 && len(failed) == 0 {
		return nil, nil, errors.New("discover kinds: the API server names none")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for gvk, s := range k.byKind {
		if failed[gvk.Group] {
			byKind[gvk] = s
		}
	}
	k.byKind = byKind
	for _, s := range best {
		monitored = append(monitored, s)
	}
	return monitored, failed, nil
}

// can reports whether r is a resource of its own that supports all verbs.
func can(r metav1.APIResource, verbs ...string) bool {
	for _, verb := range verbs {
		if !slices.Contains(r.Verbs, verb) {
			return false
		}
	}
	return !slices.Contains([]byte(r.Name), '/')
}

// prefers reports whether the group of both puts a before b.
func prefers(groups []*metav1.APIGroup, a, b schema.GroupVersion) bool {
	for _, group := range groups {
		if group.Name != a.Group {
			continue
		}
		if group.PreferredVersion.GroupVersion == a.String() {
			return true
		}
		if group.PreferredVersion.GroupVersion == b.String() {
			return false
		}
		for _, version := range group.Versions {
			if version.GroupVersion == a.String() || version.GroupVersion == b.String() {
				return version.GroupVersion == a.String()
			}
		}
	}
	return false
}
