package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/remote"
	"clusterctl/bootstrap/ssh"
	"clusterctl/hostop"
)

// fleet is every host of an inventory that answers, with its hand.
type fleet struct {
	inventory *inventory.Inventory
	dialer    *ssh.Dialer
	hand      *remote.Hand              // what is brought to hosts
	hands     map[string]*remote.Remote // by host name
}

// connect loads the inventory and connects to its hosts (or those named), all
// at once; every host that cannot be reached is told, not only the first.
// Close the fleet even after an error, where it is not nil.
func connect(ctx context.Context, path string, only ...string) (*fleet, error) {
	inv, err := inventory.Load(path)
	if err != nil {
		return nil, err
	}
	return connectTo(ctx, inv, only...)
}

func connectTo(ctx context.Context, inv *inventory.Inventory, only ...string) (*fleet, error) {
	for _, name := range only {
		if _, ok := inv.Host(name); !ok {
			return nil, fmt.Errorf("%s has no host %q", inv.File, name)
		}
	}
	dialer, err := ssh.NewDialer(ssh.Options{Prompt: ssh.TerminalPrompt})
	if err != nil {
		return nil, err
	}
	hand, err := remote.PayloadHand()
	if err != nil {
		return nil, errors.Join(err, dialer.Close())
	}
	f := &fleet{inventory: inv, dialer: dialer, hand: hand, hands: map[string]*remote.Remote{}}
	failures := f.reach(ctx, inv.Present(), only...)
	return f, failures
}

// reach connects to hosts, all at once, and puts their hands into the fleet.
func (f *fleet) reach(ctx context.Context, hosts []inventory.Host, only ...string) error {
	var mu sync.Mutex
	return eachHost(hosts, only, func(h inventory.Host) error {
		r, err := remote.Connect(ctx, f.dialer, target(h), f.hand)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		f.hands[h.Name] = r
		return nil
	})
}

// eachHost runs f for hosts at once and joins what failed, by host.
func eachHost(hosts []inventory.Host, only []string, f func(inventory.Host) error) error {
	errs := make([]error, len(hosts))
	var group sync.WaitGroup
	for i, h := range hosts {
		if len(only) > 0 && !slices.Contains(only, h.Name) {
			continue
		}
		group.Go(func() {
			if err := f(h); err != nil {
				errs[i] = fmt.Errorf("%s: %w", h.Name, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// Close ends every connection.
func (f *fleet) Close() error {
	var errs []error
	for _, r := range f.hands {
		errs = append(errs, r.Close())
	}
	return errors.Join(append(errs, f.dialer.Close())...)
}

// call sends a request without operations to one host's hand and decodes the
// result into result, unless that is nil.
func (f *fleet) call(ctx context.Context, host string, method hostop.Method, params, result any) error {
	request := hostop.Request{Method: method}
	if params != nil {
		raw, err := json.Marshal(params)
		if err != nil {
			return fmt.Errorf("marshal parameters: %w", err)
		}
		request.Params = raw
	}
	raw, err := f.hands[host].Call(ctx, request, nil, nil)
	if err != nil {
		return err
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("decode the answer of %s: %w", host, err)
	}
	return nil
}

// stream sends body with a request to one host's hand.
func (f *fleet) stream(ctx context.Context, host string, method hostop.Method, body io.Reader, size int64, result any) error {
	raw, err := f.hands[host].Call(ctx, hostop.Request{Method: method, BodySize: size}, body, nil)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, result); err != nil {
		return fmt.Errorf("decode the answer of %s: %w", host, err)
	}
	return nil
}

// target is how the inventory says to reach a host.
func target(h inventory.Host) ssh.Target {
	t := ssh.Target{
		Host: h.SSH.Host, Port: h.SSH.Port, User: h.SSH.User, Keys: h.SSH.KeyFiles, Jump: h.SSH.Jump,
		Pinned: h.SSH.HostKeys, KnownHosts: h.SSH.KnownHosts, Password: h.SSH.Password != nil && *h.SSH.Password,
		NoSudo: h.SSH.Sudo == "never",
	}
	if h.SSH.HostKeyPolicy != "pinned" {
		t.HostKeys = ssh.HostKeyPolicy(h.SSH.HostKeyPolicy)
	}
	return t
}

// hostList reads a comma-separated flag.
func hostList(flag string) []string {
	if flag == "" {
		return nil
	}
	return strings.Split(flag, ",")
}
