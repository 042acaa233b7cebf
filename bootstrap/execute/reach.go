package execute

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"

	"clusterctl/bootstrap/preflight"
	"clusterctl/hostop"
)

// dialTimeout bounds all the connections that one host tries.
const dialTimeout = 3 * time.Second

// Reach tries every flow for real: the hosts open the ports that nobody holds
// yet, and each dials those of the others. It gives the flows that did not get
// through, in the order of flows. UDP ports in use are not tried, since what
// holds them does not answer.
func Reach(ctx context.Context, flows []preflight.Flow, hands Hands) ([]preflight.Unreachable, error) {
	wanted := map[string]*hostop.ListenParams{}
	for _, flow := range flows {
		if wanted[flow.To] == nil {
			wanted[flow.To] = &hostop.ListenParams{TCP: []int{}}
		}
		ports := &wanted[flow.To].TCP
		if flow.Port.Network == preflight.UDP {
			ports = &wanted[flow.To].UDP
		}
		if !slices.Contains(*ports, flow.Port.Number) {
			*ports = append(*ports, flow.Port.Number)
		}
	}
	var mu sync.Mutex
	taken := map[string][]string{}
	err := hands.each(func(host string, hand Hand) error {
		if wanted[host] == nil {
			return nil
		}
		var busy []string
		if err := call(ctx, hand, hostop.MethodListen, wanted[host], &busy); err != nil {
			return fmt.Errorf("open ports: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		taken[host] = busy
		return nil
	})
	// Any other request closes the ports; an empty one does when all is tried.
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		_ = hands.each(func(_ string, hand Hand) error {
			return call(ctx, hand, hostop.MethodListen, hostop.ListenParams{TCP: []int{}}, nil)
		})
	}()
	if err != nil {
		return nil, err
	}
	return dialAll(ctx, flows, taken, hands)
}

func dialAll(ctx context.Context, flows []preflight.Flow, taken map[string][]string, hands Hands) ([]preflight.Unreachable, error) {
	key := func(f preflight.Flow) string { return net.JoinHostPort(f.Address, strconv.Itoa(f.Port.Number)) }
	dials := map[string]*hostop.DialParams{}
	for _, flow := range flows {
		if flow.Port.Network == preflight.UDP && slices.Contains(taken[flow.To], flow.Port.String()) {
			continue
		}
		if dials[flow.From] == nil {
			dials[flow.From] = &hostop.DialParams{TCP: []string{}, TimeoutMillis: int(dialTimeout.Milliseconds())}
		}
		if flow.Port.Network == preflight.UDP {
			dials[flow.From].UDP = append(dials[flow.From].UDP, key(flow))
		} else {
			dials[flow.From].TCP = append(dials[flow.From].TCP, key(flow))
		}
	}
	var mu sync.Mutex
	faults := map[string]map[string]string{}
	err := hands.each(func(host string, hand Hand) error {
		if dials[host] == nil {
			return nil
		}
		var failed map[string]string
		if err := call(ctx, hand, hostop.MethodDial, dials[host], &failed); err != nil {
			return fmt.Errorf("try ports of other hosts: %w", err)
		}
		mu.Lock()
		defer mu.Unlock()
		faults[host] = failed
		return nil
	})
	if err != nil {
		return nil, err
	}
	var unreachable []preflight.Unreachable
	for _, flow := range flows {
		if fault := faults[flow.From][key(flow)]; fault != "" {
			unreachable = append(unreachable, preflight.Unreachable{Flow: flow, Error: fault})
		}
	}
	return unreachable, nil
}
