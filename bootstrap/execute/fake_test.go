package execute

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bundle/payload"
	"clusterctl/hostop"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// host is a host in memory with its hand.
type host struct {
	name string

	mu        sync.Mutex
	facts     hostop.Facts
	files     map[string][]byte // the authorities
	keys      []byte            // of encryption
	applied   map[string]string // operations by what they describe: their JSON without secrets
	have      map[string]bool   // blobs
	puts      int
	applies   int
	calls     int
	busy      bool
	overlap   bool // two calls at once
	lock      string
	listening []string
	closed    bool

	fail  func(hostop.Op) error                           // an operation's failure
	pause func(ctx context.Context, ops hostop.Ops) error // runs during apply
	deaf  map[string]string                               // addresses that cannot be dialled
}

func newHost(name string) *host {
	return &host{
		name: name, applied: map[string]string{}, have: map[string]bool{},
		facts: hostop.Facts{Hostname: name, Arch: "amd64", Clock: now},
	}
}

// essence is an operation without what is filled in on the way.
func essence(op hostop.Op) string {
	switch o := op.(type) {
	case *hostop.Authorities:
		return "authorities"
	case *hostop.Encryption:
		return "keys"
	case *hostop.Certificate:
		return fmt.Sprint(o.Pair, o.CommonName, o.DNSNames, o.IPs)
	case *hostop.TrustAnchor:
		return o.Path
	case *hostop.EtcdMember:
		return o.Fingerprint
	case *hostop.Manifests:
		return string(o.YAML)
	}
	raw, err := json.Marshal(hostop.Ops{op})
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func (h *host) Call(ctx context.Context, req hostop.Request, body io.Reader, onEvent func(hostop.Event)) (json.RawMessage, error) {
	h.mu.Lock()
	h.overlap = h.overlap || h.busy
	h.busy = true
	h.calls++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		h.busy = false
		h.mu.Unlock()
	}()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if onEvent == nil {
		onEvent = func(hostop.Event) {}
	}
	switch req.Method {
	case hostop.MethodFacts:
		return json.Marshal(h.facts)
	case hostop.MethodAuthorities:
		return json.Marshal(h.files)
	case hostop.MethodEncryption:
		return json.Marshal(h.keys)
	case hostop.MethodCheck:
		for i, op := range req.Ops {
			state := hostop.StateDiffers
			if h.applied[op.Describe()] == essence(op) {
				state = hostop.StateInPlace
			}
			onEvent(hostop.Event{Op: i, State: state})
		}
		return nil, nil
	case hostop.MethodHave:
		var digests []string
		if err := json.Unmarshal(req.Params, &digests); err != nil {
			return nil, err
		}
		return json.Marshal(slices.DeleteFunc(digests, func(d string) bool { return h.have[d] }))
	case hostop.MethodPut:
		var params hostop.PutParams
		if err := json.Unmarshal(req.Params, &params); err != nil {
			return nil, err
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			return nil, err
		}
		if int64(len(raw)) != req.BodySize {
			return nil, fmt.Errorf("a body of %d bytes instead of %d", len(raw), req.BodySize)
		}
		h.have[params.Digest] = true
		h.puts++
		return nil, nil
	case hostop.MethodApply:
		return nil, h.apply(ctx, req.Ops, onEvent)
	case hostop.MethodLock:
		if h.lock != "" {
			return nil, fmt.Errorf("held by %s", h.lock)
		}
		var params hostop.LockParams
		if err := json.Unmarshal(req.Params, &params); err != nil {
			return nil, err
		}
		h.lock = params.Holder
		return nil, nil
	case hostop.MethodListen:
		var params hostop.ListenParams
		if err := json.Unmarshal(req.Params, &params); err != nil {
			return nil, err
		}
		h.listening = nil
		for _, port := range params.TCP {
			h.listening = append(h.listening, fmt.Sprint("tcp ", port))
		}
		for _, port := range params.UDP {
			h.listening = append(h.listening, fmt.Sprint("udp ", port))
		}
		return json.RawMessage("[]"), nil
	case hostop.MethodDial:
		var params hostop.DialParams
		if err := json.Unmarshal(req.Params, &params); err != nil {
			return nil, err
		}
		faults := map[string]string{}
		for _, address := range slices.Concat(params.TCP, params.UDP) {
			if fault, ok := h.deaf[address]; ok {
				faults[address] = fault
			}
		}
		return json.Marshal(faults)
	}
	return nil, fmt.Errorf("unexpected method %s", req.Method)
}

func (h *host) apply(ctx context.Context, ops hostop.Ops, onEvent func(hostop.Event)) error {
	h.applies++
	if h.pause != nil {
		if err := h.pause(ctx, ops); err != nil {
			return err
		}
	}
	for i, op := range ops {
		for _, b := range blobs(hostop.Ops{op}) {
			if !h.have[b.digest] {
				return fmt.Errorf("blob %s was not uploaded", b.digest)
			}
		}
		if h.fail != nil {
			if err := h.fail(op); err != nil {
				onEvent(hostop.Event{Op: i, State: hostop.StateFailed, Error: err.Error()})
				return fmt.Errorf("operation %d failed", i)
			}
		}
		state := hostop.StateInPlace
		if h.applied[op.Describe()] != essence(op) {
			state = hostop.StateChanged
			h.applied[op.Describe()] = essence(op)
			if o, ok := op.(*hostop.Authorities); ok {
				h.files = o.Bundle
				h.facts.Authorities = o.Keys
			}
			if o, ok := op.(*hostop.Encryption); ok {
				h.keys = o.Content
			}
			if _, ok := op.(*hostop.EtcdMember); ok {
				h.facts.EtcdData = true
			}
		}
		onEvent(hostop.Event{Op: i, State: state})
	}
	return nil
}

func (h *host) Close() error {
	h.closed = true
	return nil
}

const demo = `apiVersion: clusterctl/v1
cluster: {name: demo}
hosts:
- {name: "cp[1:3]", address: "10.0.0.[1:3]", roles: [control-plane]}
- {name: "w[1:2]", address: "10.0.0.[11:12]", roles: [worker]}
`

// newCluster is an inventory and its fresh hosts.
func newCluster(t testing.TB) (*inventory.Inventory, map[string]*host, Hands) {
	t.Helper()
	inv, err := inventory.Parse("inventory.yaml", []byte(demo))
	if err != nil {
		t.Fatal(err)
	}
	hosts, hands := map[string]*host{}, Hands{}
	for _, h := range inv.Hosts {
		hosts[h.Name] = newHost(h.Name)
		hands[h.Name] = hosts[h.Name]
	}
	return inv, hosts, hands
}

func manifest() payload.Manifest {
	m := payload.Manifest{Version: "v1", Arch: "amd64"}
	for _, path := range []string{"controlplane", "nodeagent", "containerd", "containerd-shim-runc-v2", "runc", "cni/bridge"} {
		m.Entries = append(m.Entries, payload.Entry{Name: path, Path: path, Digest: "sha256:" + path, Size: int64(len("sha256:" + path)), SHA256: path})
	}
	for _, name := range []string{"pause", "coredns"} {
		m.Entries = append(m.Entries, payload.Entry{Name: name, Image: "clusterctl.dev/" + name + ":1", Digest: "sha256:" + name, Size: int64(len("sha256:" + name)), Target: "t"})
	}
	return m
}
