package linearizability

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
)

const (
	namespace = "linearizability"
	resource  = "configmaps"
	// keys are few, so that clients meet.
	keys = 4
	// Each era has keys of its own: what has to be explained at once stays short.
	era = 10 * time.Second
	// callTime is how long a client waits for an answer.
	callTime = 3 * time.Second
)

// client is one user who does one thing after another, at any server.
type client struct {
	id      int
	system  *system
	history *history
	begin   time.Time
	values  *atomic.Int64 // makes values that nobody else writes
}

func stateOf(m *corev1.ConfigMap) state {
	return state{exists: true, main: m.Data["main"], side: m.Data["side"]}
}

func versionOf(text string) int64 {
	v, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1 // no version of etcd's: the checks will say so
	}
	return v
}

func (c *client) now() time.Duration { return time.Since(c.begin) }

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		at := int(c.now() / era)
		key := fmt.Sprintf("era-%d-%d", at, rand.IntN(keys))
		server := c.system.clients[rand.IntN(members)].CoreV1().RESTClient()
		switch n := rand.IntN(100); {
		case n < 20:
			c.write(server, input{key: key, kind: create}, "")
		case n < 32:
			c.write(server, input{key: key, kind: put}, "")
		case n < 44:
			c.write(server, input{key: key, kind: patch}, "")
		case n < 50:
			c.write(server, input{key: key, kind: remove}, "")
		case n < 75:
			seen, version, ok := c.get(server, key)
			if !ok || !seen.exists {
				continue
			}
			in := input{key: key, kind: swap, expect: seen}
			if n < 55 {
				in.kind = removeVersion
			}
			// At another server: it must know the version too.
			c.write(c.system.clients[rand.IntN(members)].CoreV1().RESTClient(), in, version)
		case n < 85:
			c.get(server, key)
		case n < 92:
			c.find(server, key)
		default:
			c.list(server, at)
		}
	}
}

// outcomeOf says what an error means for the object. refused says that the call
// has never been carried out, nor will be.
func outcomeOf(err error) (out outcome, refused bool) {
	var status apierrors.APIStatus
	ofObject := errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Kind == resource
	switch {
	case err == nil:
		return done, false
	case ofObject && apierrors.IsNotFound(err):
		return missing, false
	case ofObject && apierrors.IsAlreadyExists(err):
		return exists, false
	case ofObject && apierrors.IsConflict(err):
		return conflict, false
	case errors.Is(err, syscall.ECONNREFUSED), apierrors.IsTooManyRequests(err), apierrors.IsUnauthorized(err):
		return unknown, true
	}
	return unknown, false
}

// finish records a call that was begun at start.
func (c *client) finish(start time.Duration, in input, out output, version int64, err error) {
	var refused bool
	if out.outcome, refused = outcomeOf(err); refused {
		c.history.refuse(err)
		time.Sleep(20 * time.Millisecond) // the server is away
		return
	}
	done := call{client: c.id, start: start, end: c.now(), in: in, out: out, version: version}
	if err != nil {
		done.errorMessage = err.Error()
	}
	c.history.record(done)
}

// write does what in says, to the version that was read where in is about one.
// A call is sent once: that a second attempt fails tells nothing of the first.
func (c *client) write(server rest.Interface, in input, version string) {
	if in.kind != remove && in.kind != removeVersion {
		in.value = fmt.Sprintf("%d-%d", c.id, c.values.Add(1))
	}
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: in.key, Namespace: namespace, ResourceVersion: version}, Data: map[string]string{"main": in.value}}
	var request *rest.Request
	switch in.kind {
	case create:
		request = server.Post().Body(object)
	case put, swap:
		request = server.Put().Name(in.key).Body(object)
	case patch:
		request = server.Patch(types.MergePatchType).Name(in.key).Body([]byte(`{"data":{"side":"` + in.value + `"}}`))
	case remove:
		request = server.Delete().Name(in.key)
	case removeVersion:
		request = server.Delete().Name(in.key).Body(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &version}})
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	start := c.now()
	result := request.Namespace(namespace).Resource(resource).MaxRetries(0).Do(ctx)
	var out output
	err, told := result.Error(), int64(0)
	if err == nil && in.kind != remove && in.kind != removeVersion {
		answer := &corev1.ConfigMap{}
		err = result.Into(answer)
		out.state, told = stateOf(answer), versionOf(answer.ResourceVersion)
	}
	c.finish(start, in, out, told, err)
}

func (c *client) get(server rest.Interface, key string) (seen state, version string, ok bool) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	answer := &corev1.ConfigMap{}
	start := c.now()
	err := server.Get().Namespace(namespace).Resource(resource).Name(key).MaxRetries(0).Do(ctx).Into(answer)
	if out, _ := outcomeOf(err); out == missing {
		err = nil
	} else if err == nil {
		seen, version = stateOf(answer), answer.ResourceVersion
	}
	c.finish(start, input{key: key, kind: read}, output{state: seen}, 0, err)
	return seen, version, err == nil
}

// find reads an object by a list of one, which the server answers from memory.
func (c *client) find(server rest.Interface, key string) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	answer := &corev1.ConfigMapList{}
	start := c.now()
	err := server.Get().Namespace(namespace).Resource(resource).MaxRetries(0).
		VersionedParams(&metav1.ListOptions{FieldSelector: "metadata.name=" + key}, scheme.ParameterCodec).Do(ctx).Into(answer)
	var seen state
	if len(answer.Items) > 0 {
		seen = stateOf(&answer.Items[0])
	}
	c.finish(start, input{key: key, kind: read}, output{state: seen}, 0, err)
}

// list reads everything: each object of the era is a read of its own to the
// model, and all together are to be the state at the list's version.
func (c *client) list(server rest.Interface, at int) {
	ctx, cancel := context.WithTimeout(context.Background(), callTime)
	defer cancel()
	answer := &corev1.ConfigMapList{}
	start := c.now()
	if err := server.Get().Namespace(namespace).Resource(resource).MaxRetries(0).Do(ctx).Into(answer); err != nil {
		if _, refused := outcomeOf(err); refused {
			c.history.refuse(err)
			time.Sleep(20 * time.Millisecond)
		}
		return
	}
	end := c.now()
	l := newListing(answer)
	c.history.mu.Lock()
	defer c.history.mu.Unlock()
	c.history.listings = append(c.history.listings, *l)
	for i := range keys {
		key := fmt.Sprintf("era-%d-%d", at, i)
		c.history.calls = append(c.history.calls, call{
			client: c.id, start: start, end: end, in: input{key: key, kind: read}, out: output{state: l.states[key]},
		})
	}
}

func newListing(answer *corev1.ConfigMapList) *listing {
	l := &listing{version: versionOf(answer.ResourceVersion), states: map[string]state{}}
	for i := range answer.Items {
		l.states[answer.Items[i].Name] = stateOf(&answer.Items[i])
	}
	return l
}
