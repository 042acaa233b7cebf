package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"clusterctl/hostop"
)

// Hand is the remote hand on one host. Calls are made one at a time.
type Hand interface {
	// Call sends a request, with body behind it when BodySize is set, passes on
	// the events that come back, and returns the result. onEvent may be nil and
	// is not called after Call has returned. When ctx ends the hand stops at
	// its next safe point.
	Call(ctx context.Context, req hostop.Request, body io.Reader, onEvent func(hostop.Event)) (json.RawMessage, error)
	Close() error
}

// Hands are the connected hosts by name.
type Hands map[string]Hand

// call makes a request with parameters and decodes its result, each of which
// may be nil.
func call(ctx context.Context, hand Hand, method hostop.Method, params, result any) error {
	request := hostop.Request{Method: method}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("encode parameters of %s: %w", method, err)
		}
		request.Params = raw
	}
	raw, err := hand.Call(ctx, request, nil, nil)
	if err != nil {
		return err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("decode result of %s: %w", method, err)
	}
	return nil
}

// each runs f for every host at once and joins the errors in the hosts' order,
// each with its host's name.
func (hands Hands) each(f func(host string, hand Hand) error) error {
	names := slices.Sorted(maps.Keys(hands))
	faults := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			if err := f(name, hands[name]); err != nil {
				faults[i] = fmt.Errorf("%s: %w", name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(faults...)
}

// Close closes every hand.
func (hands Hands) Close() error {
	return hands.each(func(_ string, hand Hand) error { return hand.Close() })
}

// Lock takes the run lock of every host, for as long as the hands are open.
// holder says who we are to whoever comes second. A refusal names every host
// that refused, and who works on it.
func Lock(ctx context.Context, hands Hands, holder string) error {
	return hands.each(func(_ string, hand Hand) error {
		return call(ctx, hand, hostop.MethodLock, hostop.LockParams{Holder: holder}, nil)
	})
}
