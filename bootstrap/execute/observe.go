package execute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"clusterctl/bootstrap/encryption"
	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/pki"
	"clusterctl/bootstrap/plan"
	"clusterctl/hostop"
)

// Observation is what hosts said of themselves.
type Observation struct {
	Facts    map[string]hostop.Facts
	Gathered map[string]time.Time // this machine's time when each arrived
}

// Observe asks every host for its facts, all at once. The observation holds
// those that answered even when the error names some that did not.
func Observe(ctx context.Context, hands Hands) (*Observation, error) {
	seen := &Observation{Facts: map[string]hostop.Facts{}, Gathered: map[string]time.Time{}}
	var mu sync.Mutex
	err := hands.each(func(host string, hand Hand) error {
		var facts hostop.Facts
		if err := call(ctx, hand, hostop.MethodFacts, nil, &facts); err != nil {
			return fmt.Errorf("gather facts: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		seen.Facts[host], seen.Gathered[host] = facts, time.Now()
		return nil
	})
	return seen, err
}

// Errors of Authorities.
var (
	ErrAuthoritiesDiffer = errors.New("the control planes have different certificate authorities")
	ErrAuthoritiesLost   = errors.New("there is etcd data, and no control plane has the certificate authorities it was made with")
)

// Authorities reads the cluster's certificate authorities from a control plane
// that has them, or makes them when the cluster is new (fresh). It refuses when
// two control planes differ, and when there is etcd data but no authority left:
// new ones would lock everybody out of what is there. Control planes that the
// inventory wants absent count as well.
func Authorities(ctx context.Context, inv *inventory.Inventory, facts map[string]hostop.Facts, hands Hands, now time.Time) (bundle pki.Bundle, fresh bool, err error) {
	holder := ""
	for _, h := range inv.Hosts {
		have := facts[h.Name].Authorities
		switch {
		case !h.Has(inventory.ControlPlane) || len(have) == 0:
		case holder == "":
			holder = h.Name
		case !maps.Equal(facts[holder].Authorities, have):
			return nil, false, fmt.Errorf("%w: %s and %s; remove /etc/clusterctl/pki/ca on the one that does not belong to cluster %s",
				ErrAuthoritiesDiffer, holder, h.Name, inv.Cluster.Name)
		}
	}
	if holder != "" {
		hand, ok := hands[holder]
		if !ok {
			return nil, false, fmt.Errorf("read the certificate authorities of %s: not connected", holder)
		}
		var found map[string][]byte
		if err := call(ctx, hand, hostop.MethodAuthorities, nil, &found); err != nil {
			return nil, false, fmt.Errorf("read the certificate authorities of %s: %w", holder, err)
		}
		if bundle, err = pki.ParseBundle(found, now); err != nil {
			return nil, false, fmt.Errorf("read the certificate authorities of %s: %w", holder, err)
		}
		return bundle, false, nil
	}
	for _, h := range inv.Hosts {
		if facts[h.Name].EtcdData {
			return nil, false, fmt.Errorf("%w: on %s; put /etc/clusterctl/pki/ca back on a control plane, or start anew with `clusterctl reset`",
				ErrAuthoritiesLost, h.Name)
		}
	}
	if bundle, err = pki.NewBundle(inv.Cluster.Name, now); err != nil {
		return nil, false, fmt.Errorf("make the certificate authorities: %w", err)
	}
	return bundle, true, nil
}

// Encryption reads the keys that Secrets are encrypted with from the control
// planes, and gives what one that has none is to have. Those of a new cluster
// are made.
func Encryption(ctx context.Context, inv *inventory.Inventory, facts map[string]hostop.Facts, hands Hands) ([]byte, error) {
	files := map[string][]byte{}
	var mu sync.Mutex
	err := hands.each(func(host string, hand Hand) error {
		if h, ok := inv.Host(host); !ok || !h.Has(inventory.ControlPlane) {
			return nil
		}
		var file []byte
		if err := call(ctx, hand, hostop.MethodEncryption, nil, &file); err != nil {
			return fmt.Errorf("read encryption keys: %w", err)
		}
		if len(file) > 0 {
			mu.Lock()
			defer mu.Unlock()
			files[host] = file
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	found := slices.SortedFunc(maps.Values(files), bytes.Compare)
	switch {
	case len(found) == 0:
		servers := slices.ContainsFunc(inv.Hosts, func(h inventory.Host) bool { return facts[h.Name].EtcdData })
		return encryption.New(servers).Marshal()
	case bytes.Equal(found[0], found[len(found)-1]):
		return found[0], nil // whoever wrote it
	}
	var all []encryption.Keys
	for host, file := range files {
		keys, err := encryption.Parse(file)
		if err != nil {
			return nil, fmt.Errorf("read encryption keys of %s: %w", host, err)
		}
		all = append(all, keys)
	}
	joined, err := encryption.Join(all)
	if err != nil {
		return nil, err
	}
	return joined.Marshal()
}

// Check has the hands compare every operation of the plan with what is there,
// all hosts at once, and gives the state of each operation by step ID. Nothing
// is changed. The results are for plan.Prune. As long as there is no certificate
// authority, no certificate is in place: what a host has is of another cluster.
func Check(ctx context.Context, p *plan.Plan, hands Hands) (map[string][]hostop.State, error) {
	bySteps := map[string][]plan.Step{}
	for _, step := range p.Steps {
		bySteps[step.Hand()] = append(bySteps[step.Hand()], step)
	}
	for host := range bySteps {
		if hands[host] == nil {
			return nil, fmt.Errorf("check the plan: %s is not connected", host)
		}
	}
	results := map[string][]hostop.State{}
	var mu sync.Mutex
	err := hands.each(func(host string, hand Hand) error {
		var ops hostop.Ops
		for _, step := range bySteps[host] {
			ops = append(ops, step.Ops...)
		}
		if len(ops) == 0 {
			return nil
		}
		states := make([]hostop.State, len(ops))
		_, err := hand.Call(ctx, hostop.Request{Method: hostop.MethodCheck, Ops: ops}, nil, func(e hostop.Event) {
			if e.Op >= 0 && e.Op < len(states) {
				states[e.Op] = e.State
			}
		})
		for i, op := range ops {
			if unsigned(op) {
				states[i] = hostop.StateDiffers
			}
		}
		if err != nil {
			return fmt.Errorf("check the plan: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, step := range bySteps[host] {
			results[step.ID] = states[:len(step.Ops):len(step.Ops)]
			states = states[len(step.Ops):]
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

// unsigned says whether an operation wants something of an authority that is
// still to be made.
func unsigned(op hostop.Op) bool {
	switch o := op.(type) {
	case *hostop.Certificate:
		return o.AuthorityKey == ""
	case *hostop.TrustAnchor:
		return o.AuthorityKey == ""
	}
	return false
}
