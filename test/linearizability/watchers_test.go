package linearizability

import (
	"context"
	"fmt"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
)

// last is the object whose appearance ends a run.
const last = "last"

// follow reads etcd's own history of the objects, until it has seen the last.
func (h *history) follow(ctx context.Context, etcd *clientv3.Client) error {
	const prefix = "/registry/configmaps/" + namespace + "/"
	decoder := scheme.Codecs.UniversalDeserializer()
	for answer := range etcd.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(h.from+1)) {
		if err := answer.Err(); err != nil {
			return fmt.Errorf("watch etcd: %w", err)
		}
		for _, event := range answer.Events {
			c := change{version: event.Kv.ModRevision, key: string(event.Kv.Key)[len(prefix):]}
			if event.Type == clientv3.EventTypePut {
				object, _, err := decoder.Decode(event.Kv.Value, nil, nil)
				if err != nil {
					return fmt.Errorf("decode %s: %w", event.Kv.Key, err)
				}
				c.state = stateOf(object.(*corev1.ConfigMap))
			}
			h.truth = append(h.truth, c)
			if c.key == last {
				return nil
			}
		}
	}
	return fmt.Errorf("watch etcd: %w", ctx.Err())
}

// watcher sees everything from a version on, at one server after another, as an
// informer does: it goes on where it was, and begins anew where no server lets it.
type watcher struct {
	system *system
	server int
	sights []sight
	from   int64 // the last version seen
	turns  int   // how often it went to another server
}

// run returns when it has seen the last object.
func (w *watcher) run(ctx context.Context) error {
	for tooOld := 0; ctx.Err() == nil; w.turns++ {
		ended, err := w.watch(ctx)
		switch {
		case ended:
			return nil
		case apierrors.IsResourceExpired(err) || apierrors.IsGone(err):
			tooOld++
		default:
			tooOld = 0
		}
		if tooOld == members {
			// A server keeps what it saw since it began; none goes back so far.
			if ended, err := w.list(ctx); ended {
				return nil
			} else if err == nil {
				tooOld = 0
			}
		}
		w.server = (w.server + 1) % members
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("a watcher at version %d never saw the last object: %w", w.from, ctx.Err())
}

func (w *watcher) list(ctx context.Context) (ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	answer, err := w.system.clients[w.server].CoreV1().ConfigMaps(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	l := newListing(answer)
	w.sights, w.from = append(w.sights, sight{anew: l}), l.version
	return l.states[last].exists, nil
}

// watch sees what one connection brings. A few seconds are enough for one:
// going on is what is tried here.
func (w *watcher) watch(ctx context.Context) (ended bool, err error) {
	seconds := int64(5)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Duration(seconds)*time.Second)
	defer cancel()
	stream, err := w.system.clients[w.server].CoreV1().ConfigMaps(namespace).Watch(ctx, metav1.ListOptions{
		ResourceVersion: strconv.FormatInt(w.from, 10), AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
	})
	if err != nil {
		return false, err
	}
	defer stream.Stop()
	for event := range stream.ResultChan() {
		if event.Type == watch.Error {
			return false, apierrors.FromObject(event.Object)
		}
		object, ok := event.Object.(*corev1.ConfigMap)
		if !ok {
			return false, fmt.Errorf("a watch brought a %T", event.Object)
		}
		w.from = versionOf(object.ResourceVersion)
		if event.Type == watch.Bookmark {
			w.sights = append(w.sights, sight{bookmark: w.from})
			continue
		}
		c := &change{version: w.from, key: object.Name}
		if event.Type != watch.Deleted {
			c.state = stateOf(object)
		}
		w.sights = append(w.sights, sight{change: c})
		if object.Name == last {
			return true, nil
		}
	}
	return false, nil
}
