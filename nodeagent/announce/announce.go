package announce

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// Config is what Run needs to know. The informers are started by the caller.
type Config struct {
	NodeName string
	Address  string // of this node: addresses that no link's network has are announced on its link
	Services coreinformers.ServiceInformer
	Slices   discoveryinformers.EndpointSliceInformer
	Nodes    coreinformers.NodeInformer
	Log      *slog.Logger
}

// settle is how long to wait for more after a change.
const settle = 50 * time.Millisecond

// Run announces the addresses that are this node's to announce, until ctx ends.
// While no service has one there is no socket, and nothing happens.
func Run(ctx context.Context, config Config) error {
	a := &announcer{config: config, turns: turns{}, links: map[linkKey]*openLink{}, heard: make(chan netip.Addr, 64), changed: make(chan struct{}, 1)}
	defer a.close()
	synced, stop, err := a.watch()
	if err != nil {
		return err
	}
	defer stop()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	a.loop(ctx)
	return nil
}

type announcer struct {
	config  Config
	turns   turns
	links   map[linkKey]*openLink
	heard   chan netip.Addr // claims of others
	changed chan struct{}   // services, endpoints or nodes
	failed  string          // the last failure that was logged

	opened time.Time // when it was last seen to that links are as they should be
	said   map[netip.Addr]bool
}

// inspect is how often to see whether links or addresses of the host changed.
const inspect = 10 * time.Second

// watch wakes the loop when something changes that matters.
func (a *announcer) watch() (synced []cache.InformerSynced, stop func(), err error) {
	wake := func() {
		select {
		case a.changed <- struct{}{}:
		default:
		}
	}
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	for _, source := range []struct {
		informer cache.SharedIndexInformer
		matters  func(object any) bool
		same     func(old, new any) bool
	}{
		{a.config.Services.Informer(), func(o any) bool { s, ok := o.(*corev1.Service); return ok && len(addresses(s)) > 0 }, func(any, any) bool { return false }},
		{a.config.Slices.Informer(), func(o any) bool {
			slice, ok := o.(*discoveryv1.EndpointSlice)
			if !ok {
				return false
			}
			s, err := a.config.Services.Lister().Services(slice.Namespace).Get(slice.Labels[discoveryv1.LabelServiceName])
			return err == nil && local(s) && len(addresses(s)) > 0
		}, func(any, any) bool { return false }},
		{a.config.Nodes.Informer(), func(any) bool { return true }, func(old, new any) bool {
			return mayAnnounce(old.(*corev1.Node)) == mayAnnounce(new.(*corev1.Node))
		}},
	} {
		registration, err := source.informer.AddEventHandler(cache.FilteringResourceEventHandler{
			FilterFunc: func(object any) bool {
				if gone, ok := object.(cache.DeletedFinalStateUnknown); ok {
					object = gone.Obj
				}
				return source.matters(object)
			},
			Handler: cache.ResourceEventHandlerFuncs{
				AddFunc: func(any) { wake() },
				UpdateFunc: func(old, new any) {
					if !source.same(old, new) {
						wake()
					}
				},
				DeleteFunc: func(any) { wake() },
			},
		})
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("watch load balancers: %w", err)
		}
		undo = append(undo, func() { _ = source.informer.RemoveEventHandler(registration) })
		synced = append(synced, registration.HasSynced)
	}
	return synced, stop, nil
}

func (a *announcer) loop(ctx context.Context) {
	ticks := time.NewTicker(beat / 4)
	ticks.Stop()
	defer ticks.Stop()
	var claimed time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.changed:
			select { // more may come
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
			select {
			case <-a.changed:
			default:
			}
			before := len(a.turns)
			ranks, err := a.ranks()
			if err != nil {
				a.warn(err)
				continue
			}
			a.turns.follow(ranks, time.Now())
			if len(a.turns) > 0 && before == 0 {
				ticks.Reset(beat / 4)
			}
			a.opened = time.Time{}
		case address := <-a.heard:
			a.turns.heard(address, time.Now())
		case <-ticks.C:
			a.turns.pass(time.Now())
		}
		if len(a.turns) == 0 {
			ticks.Stop()
			a.close()
			continue
		}
		var fresh map[netip.Addr]bool // those that were not announced before
		if a.stale() {
			fresh = a.open()
		}
		for _, link := range a.links {
			for _, address := range link.mine() {
				if fresh[address] || time.Since(claimed) >= beat {
					if err := link.claim(address); err != nil {
						a.warn(err)
					}
				}
			}
		}
		if time.Since(claimed) >= beat {
			claimed = time.Now()
		}
	}
}

// stale says whether there may be something for open to do.
func (a *announcer) stale() bool {
	for _, link := range a.links {
		select {
		case <-link.ended:
			return true
		default:
		}
	}
	return time.Since(a.opened) >= inspect || !maps.Equal(a.said, a.turns.mine())
}

// ranks is this node's place for each address that it may announce.
func (a *announcer) ranks() (map[netip.Addr]int, error) {
	services, err := a.config.Services.Lister().List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list services: %w", err)
	}
	nodes, err := a.config.Nodes.Lister().List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list nodes: %w", err)
	}
	var able []string
	for _, n := range nodes {
		if mayAnnounce(n) {
			able = append(able, n.Name)
		}
	}
	ranks := map[netip.Addr]int{}
	for _, s := range services {
		mine := addresses(s)
		if len(mine) == 0 {
			continue
		}
		candidates := able
		if local(s) {
			endpoints, err := a.config.Slices.Lister().EndpointSlices(s.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: s.Name}))
			if err != nil {
				return nil, fmt.Errorf("list endpoints: %w", err)
			}
			with := withEndpoints(endpoints)
			candidates = slices.DeleteFunc(slices.Clone(able), func(n string) bool { return !with[n] })
		}
		for _, address := range mine {
			if r := rank(a.config.NodeName, candidates, address); r >= 0 {
				ranks[address] = r
			}
		}
	}
	return ranks, nil
}

// linkKey is a link as one family has it.
type linkKey struct {
	index int
	v6    bool
}

// openLink is a speaker that listens.
type openLink struct {
	speaker
	ended chan struct{}

	mu        sync.Mutex
	announced map[netip.Addr]bool
	followed  map[netip.Addr]bool // claims of these matter
}

func (l *openLink) follows(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.followed[a]
}

func (l *openLink) answers(a netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.announced[a]
}

func (l *openLink) mine() []netip.Addr {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.announced))
}

// set says of each address that matters on the link whether it is announced,
// and returns what was not before.
func (l *openLink) set(addresses map[netip.Addr]bool) (fresh []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	announced := maps.Clone(addresses)
	maps.DeleteFunc(announced, func(_ netip.Addr, is bool) bool { return !is })
	for a := range announced {
		if !l.announced[a] {
			fresh = append(fresh, a)
		}
	}
	l.announced, l.followed = announced, map[netip.Addr]bool{}
	for a := range addresses {
		l.followed[a] = true
	}
	return fresh
}

// open listens on the links of all addresses in whose ranking this node is, and
// answers for its own. It returns the addresses that it has begun to announce.
func (a *announcer) open() map[netip.Addr]bool {
	wanted := map[linkKey]map[netip.Addr]bool{} // whether each address is announced
	all, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		a.warn(fmt.Errorf("list the host's addresses: %w", err))
		return nil
	}
	mine := a.turns.mine()
	a.opened, a.said = time.Now(), mine
	for address := range a.turns {
		index := linkOf(address, all, a.config.Address)
		key := linkKey{index, address.Is6()}
		if index == 0 {
			a.warn(fmt.Errorf("no link of this host leads to %s", address))
			continue
		}
		if wanted[key] == nil {
			wanted[key] = map[netip.Addr]bool{}
		}
		wanted[key][address] = mine[address]
	}
	for key, link := range a.links {
		gone := wanted[key] == nil
		select {
		case <-link.ended:
			gone = true // open it anew, if it is there
		default:
		}
		if gone {
			link.close()
			<-link.ended
			delete(a.links, key)
		}
	}
	fresh := map[netip.Addr]bool{}
	for key, addresses := range wanted {
		if a.links[key] == nil {
			link, err := a.listen(key)
			if err != nil {
				a.warn(err)
				continue
			}
			a.links[key] = link
		}
		for _, address := range a.links[key].set(addresses) {
			fresh[address] = true
			a.config.Log.Info("announces", "address", address, "rank", a.turns[address].rank)
		}
	}
	return fresh
}

// listen opens a link.
func (a *announcer) listen(key linkKey) (*openLink, error) {
	link, err := net.InterfaceByIndex(key.index)
	if err != nil {
		return nil, fmt.Errorf("find link %d: %w", key.index, err)
	}
	speak := newARPSpeaker
	if key.v6 {
		speak = newNDPSpeaker
	}
	speaker, err := speak(link)
	if err != nil {
		return nil, err
	}
	open := &openLink{speaker: speaker, ended: make(chan struct{})}
	go func() {
		defer close(open.ended)
		_ = speaker.listen(open.answers, func(claimed netip.Addr) { // it ends when it is closed, or is opened anew
			if !open.follows(claimed) {
				return
			}
			select {
			case a.heard <- claimed:
			default: // it will be claimed again
			}
		})
	}()
	return open, nil
}

// close leaves all links.
func (a *announcer) close() {
	for key, link := range a.links {
		link.close()
		<-link.ended
		delete(a.links, key)
	}
}

// warn logs a failure once, until there is another.
func (a *announcer) warn(err error) {
	if text := err.Error(); text != a.failed {
		a.failed = text
		a.config.Log.Warn("load-balancer addresses", "error", err)
	}
}

// linkOf is the index of the link whose network has an address, or of the one
// with the node's own address; 0: there is none.
func linkOf(address netip.Addr, all []netlink.Addr, own string) int {
	best, length, home := 0, -1, 0
	for _, a := range all {
		if a.IPNet == nil {
			continue
		}
		if a.IP.String() == own {
			home = a.LinkIndex
		}
		// A network of one address leads nowhere.
		if ones, bits := a.Mask.Size(); a.Contains(address.AsSlice()) && ones < bits && ones > length {
			best, length = a.LinkIndex, ones
		}
	}
	if best == 0 {
		return home
	}
	return best
}
