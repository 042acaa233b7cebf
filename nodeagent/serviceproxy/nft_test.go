package serviceproxy

import (
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/netnstest"
)

// table is what a kernel would have after differences.
type table struct {
	elements map[place]string
	chains   map[string]bool
}

// take carries a difference out, as strictly as the kernel does.
func (k *table) take(d delta) error {
	for _, name := range d.newChains {
		if k.chains[name] {
			return fmt.Errorf("chain %s is there already", name)
		}
		k.chains[name] = true
	}
	for _, list := range d.remove {
		for _, e := range list {
			if value, there := k.elements[e.place]; !there || value != e.value {
				return fmt.Errorf("element %q of %s is not there to be removed", e.key, e.set)
			}
			delete(k.elements, e.place)
		}
	}
	for _, list := range d.add {
		for _, e := range list {
			if _, there := k.elements[e.place]; there {
				return fmt.Errorf("element %q of %s is there already", e.key, e.set)
			}
			if leads(e.set) && !k.chains[e.value] {
				return fmt.Errorf("element of %s leads to chain %s, which is not there", e.set, e.value)
			}
			k.elements[e.place] = e.value
		}
	}
	for _, name := range d.oldChains {
		for at, value := range k.elements {
			if leads(at.set) && value == name {
				return fmt.Errorf("chain %s goes though %s leads there", name, at.set)
			}
		}
		delete(k.chains, name)
	}
	return nil
}

// anyPort draws a port of a service out of few, so that services clash.
func anyPort(service string) *rapid.Generator[servicePort] {
	return rapid.Custom(func(t *rapid.T) servicePort {
		ip := func(network byte) *rapid.Generator[netip.Addr] {
			return rapid.Map(rapid.ByteRange(1, 3), func(b byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, network, b}) })
		}
		endpoint := rapid.Map(ip(7), func(a netip.Addr) netip.AddrPort { return netip.AddrPortFrom(a, 8080) })
		p := servicePort{
			service: service, name: service + ":http", protocol: corev1.ProtocolTCP,
			clusterIP: ip(1).Draw(t, "cluster IP"), port: 80,
			nodePort:      rapid.Uint16Range(0, 2).Draw(t, "node port"),
			externalIPs:   rapid.SliceOfNDistinct(ip(2), 0, 2, rapid.ID).Draw(t, "external"),
			balancerIPs:   rapid.SliceOfNDistinct(ip(2), 0, 2, rapid.ID).Draw(t, "balancer"),
			internalLocal: rapid.Bool().Draw(t, "internal local"),
			externalLocal: rapid.Bool().Draw(t, "external local"),
			endpoints:     rapid.SliceOfNDistinct(endpoint, 0, 3, rapid.ID).Draw(t, "endpoints"),
			own:           rapid.SliceOfNDistinct(ip(7), 0, 2, rapid.ID).Draw(t, "own"),
		}
		if rapid.Bool().Draw(t, "guarded") {
			p.sourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
		if rapid.Bool().Draw(t, "sticky") {
			p.affinity = 5e9
		}
		if len(p.endpoints) > 0 {
			p.local = p.endpoints[:rapid.IntRange(0, len(p.endpoints)).Draw(t, "local")]
		}
		return p
	})
}

// TestLedgerFollowsServices changes services at random, many of which ask for
// the same: the table has to have what one of them asks for in every place,
// and nothing else.
func TestLedgerFollowsServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		books := newLedger(testLayout)
		kernel := &table{elements: map[place]string{}, chains: map[string]bool{}}
		current := map[string][]servicePort{}
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			changes := map[string]change{}
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3, rapid.ID).Draw(t, "changed") {
				new := rapid.SliceOfN(anyPort(name), 0, 1).Draw(t, "ports")
				changes[name] = change{current[name], new}
				current[name] = new
			}
			restart := rapid.Bool().Draw(t, "restart")
			if restart {
				// A new process finds what the old one left.
				books = newLedger(testLayout)
				for at, value := range kernel.elements {
					books.find(element{at, value})
				}
				changes = map[string]change{}
				for name, ports := range current {
					changes[name] = change{new: ports}
				}
			}
			if err := kernel.take(books.enter(changes, restart)); err != nil {
				t.Fatal(err)
			}
			wanted := map[place][]string{}
			chains := map[string]bool{}
			for _, ports := range current {
				for at, value := range books.elements(ports) {
					wanted[at] = append(wanted[at], value)
				}
			}
			for at, values := range wanted {
				if value, there := kernel.elements[at]; !there || !slices.Contains(values, value) {
					t.Fatalf("%s has %q at %q, want one of %q", at.set, value, at.key, values)
				}
			}
			for at, value := range kernel.elements {
				if len(wanted[at]) == 0 {
					t.Fatalf("%s still has %q", at.set, at.key)
				}
				if leads(at.set) {
					chains[value] = true
				}
			}
			if diff := cmp.Diff(chains, kernel.chains); diff != "" {
				t.Fatalf("chains: %s", diff)
			}
		}
	})
}

func TestArrangeKeepsPlaces(t *testing.T) {
	at := func(text string) []netip.AddrPort {
		var list []netip.AddrPort
		for word := range strings.FieldsSeq(text) {
			list = append(list, netip.MustParseAddrPort("10.0.0."+word+":80"))
		}
		return list
	}
	for _, test := range []struct{ old, now, want string }{
		{"", "1 2", "1 2"},
		{"1 2 3", "1 2 3", "1 2 3"},
		{"1 2 3", "2 3", "3 2"},
		{"3 2", "1 2 3", "3 2 1"},
		{"1 2", "5 6", "5 6"},
		{"1 2", "", ""},
	} {
		if diff := cmp.Diff(fmt.Sprint(at(test.want)), fmt.Sprint(arrange(at(test.old), at(test.now)))); diff != "" {
			t.Errorf("%q after %q: %s", test.now, test.old, diff)
		}
	}
}

func TestOneEndpointCostsFewElements(t *testing.T) {
	books := newLedger(testLayout)
	ports := func(edit func(*corev1.Service), endpoints ...endpoint) []servicePort {
		return buildModel([]*corev1.Service{service(edit)}, slicesOf(slice(endpoints...)), here)
	}
	first := ports(nodePort, up("10.244.1.2", "there"), up("10.244.1.3", "there"))
	books.enter(map[string]change{"home/web": {new: first}}, true)
	second := ports(nodePort, up("10.244.1.3", "there"), up("10.244.1.4", "there"))
	keepOrder(first, second)
	d := books.enter(map[string]change{"home/web": {first, second}}, false)
	if len(d.remove) != 1 || len(d.add) != 1 || len(d.remove[setEndpoints]) != 1 || len(d.add[setEndpoints]) != 1 || len(d.newChains) != 0 {
		t.Errorf("one endpoint of two is another: %d and %d sets change", len(d.remove), len(d.add))
	}
	if d := books.enter(map[string]change{"home/web": {second, second}}, false); !d.empty() {
		t.Errorf("no change changes something: %+v", d)
	}
}

func elementsOf(t *testing.T, n *nftablesBackend) map[place]string {
	t.Helper()
	books, err := n.read()
	if err != nil || books == nil {
		t.Fatalf("read the table: %v, %v", books, err)
	}
	all := map[place]string{}
	for at, c := range books.held {
		all[at] = c.value
	}
	return all
}

func TestNftablesAreReadAfterARestart(t *testing.T) {
	w := newWorld(t, hostconfig.ProxyNftables)
	both := slice(up("10.244.0.2", "here"), up("10.244.0.3", "here"))
	all := byName(buildModel([]*corev1.Service{
		service(nodePort),
		service(balanced, affine, externalLocal, func(s *corev1.Service) {
			s.Name, s.Spec.ClusterIP, s.Spec.Ports[0].NodePort = "db", "10.96.0.30", 30090
			s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
		}),
	}, slicesOf(both), here))
	w.applyAll(all)
	foreign := &nftables.Table{Name: "foreign", Family: nftables.TableFamilyIPv4}
	w.must(netnstest.Within(w.node, func() error {
		conn, err := openNftables()
		if err != nil {
			return err
		}
		conn.AddTable(foreign)
		if err := conn.Flush(); err != nil {
			return err
		}
		before := elementsOf(t, w.backend.(*nftablesBackend))
		fresh := newNftables(testLayout)
		if changed, err := fresh.apply(all, nil); err != nil || changed {
			t.Errorf("a new process with the same services: changed %v, %v", changed, err)
		}
		if diff := cmp.Diff(before, elementsOf(t, fresh)); diff != "" {
			t.Errorf("a new process changed the table: %s", diff)
		}
		// One that knows less removes what nobody asks for.
		less := maps.Clone(all)
		delete(less, "home/db")
		fresh = newNftables(testLayout)
		if changed, err := fresh.apply(less, nil); err != nil || !changed {
			t.Errorf("a new process with fewer services: changed %v, %v", changed, err)
		}
		books := newLedger(testLayout)
		books.enter(map[string]change{"home/web": {new: less["home/web"]}}, true)
		if got := elementsOf(t, fresh); len(got) != len(books.held) {
			t.Errorf("%d elements are left, want %d", len(got), len(books.held))
		}
		chains, _, err := fresh.exists(conn)
		if err != nil {
			return err
		}
		if text := strings.Join(chains, " "); strings.Contains(text, "sticky") || strings.Contains(text, "from-") {
			t.Errorf("chains of a service that has gone are still there: %s", text)
		}
		// Another layout replaces all of it.
		other := testLayout
		other.pods = netip.MustParsePrefix("10.245.0.0/16")
		moved := newNftables(other)
		if intact, err := moved.intact(); err != nil || intact {
			t.Errorf("another layout's table: intact %v, %v", intact, err)
		}
		if changed, err := moved.apply(less, nil); err != nil || !changed {
			t.Errorf("another layout: changed %v, %v", changed, err)
		}
		for range 2 {
			if err := moved.remove(); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		tables, err := conn.ListTablesOfFamily(nftables.TableFamilyIPv4)
		if err != nil {
			return err
		}
		var names []string
		for _, table := range tables {
			names = append(names, table.Name)
		}
		if slices.Contains(names, tableName) || !slices.Contains(names, foreign.Name) {
			t.Errorf("tables %v are left, want the foreign one and not ours", names)
		}
		return nil
	}))
}

func TestStickyClientsLeaveAnEndpointThatHasGone(t *testing.T) {
	modes(t, func(t *testing.T, w *world) {
		w.serve(0)
		w.serve(1)
		for i := range w.pods {
			w.apply(service(affine), slice(up(fmt.Sprintf("10.244.0.%d", i+2), "here")))
			want := fmt.Sprintf("pod%d", i)
			for range 2 {
				if pod, _, err := w.ask(w.node, clusterAddr); err != nil || pod != want {
					t.Errorf("got %s, %v, want %s, the only one there is", pod, err, want)
				}
			}
		}
		// With both there, the client keeps to where it was led last.
		w.apply(service(affine), slice(up("10.244.0.2", "here"), up("10.244.0.3", "here")))
		for range 10 {
			if pod, _, err := w.ask(w.node, clusterAddr); err != nil || pod != "pod1" {
				t.Fatalf("got %s, %v, want pod1, where the client was led last", pod, err)
			}
		}
	})
}

func TestUnknownPortsAndServices(t *testing.T) {
	w := newWorld(t, hostconfig.ProxyNftables)
	w.serve(0)
	w.apply(service(), slice(up("10.244.0.2", "here")))
	if _, _, err := w.ask(w.node, "10.96.0.20:81"); !refused(err) {
		t.Errorf("another port of a service: got %v, want a refusal", err)
	}
	if err := w.silence(w.pods[1], "10.96.0.21:80"); err != nil {
		t.Errorf("a service nobody knows: %v", err)
	}
}

func TestNodePortAddresses(t *testing.T) {
	modes(t, func(t *testing.T, w *world) {
		w.serve(0)
		l := testLayout
		l.nodeNets = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		w.backend = newNftables(l)
		if strings.HasSuffix(t.Name(), hostconfig.ProxyIptables) {
			w.must(netnstest.Within(w.node, func() (err error) {
				w.backend, err = newIptables(l)
				return err
			}))
		}
		w.apply(service(nodePort), slice(up("10.244.0.2", "here")))
		if _, _, err := w.ask(w.client, nodeAddress+":30080"); err != nil {
			t.Errorf("at an address of the networks: %v", err)
		}
		if _, _, err := w.ask(w.pods[1], "10.244.0.1:30080"); !refused(err) {
			t.Errorf("at another address: got %v, want a refusal", err)
		}
	})
}

// TestModesReplaceEachOther goes from one mode to the other and back: services
// answer, and the rules of the former mode are gone.
func TestModesReplaceEachOther(t *testing.T) {
	w := newWorld(t, hostconfig.ProxyNftables)
	w.serve(0)
	all := byName(buildModel([]*corev1.Service{service(nodePort)}, slicesOf(slice(up("10.244.0.2", "here"))), here))
	for _, mode := range []string{hostconfig.ProxyIptables, hostconfig.ProxyNftables, hostconfig.ProxyIptables, hostconfig.ProxyAuto} {
		var rules []byte
		w.must(netnstest.Within(w.node, func() error {
			h, err := newHalf(mode, testLayout, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if _, err := h.chosen.apply(all, nil); err != nil {
				return err
			}
			if h.other == nil {
				t.Skip("only one mode here")
			}
			if err := h.other.remove(); err != nil {
				return err
			}
			if intact, err := h.chosen.intact(); err != nil || !intact {
				t.Errorf("%s: intact %v, %v", mode, intact, err)
			}
			if intact, err := h.other.intact(); err != nil || intact {
				t.Errorf("%s: the other mode's rules are there: %v, %v", mode, intact, err)
			}
			rules, err = exec.Command("iptables", "-t", "nat", "-S").Output()
			return err
		}))
		if has := strings.Contains(string(rules), chainServices); has != (mode == hostconfig.ProxyIptables) {
			t.Errorf("%s: iptables' nat table is\n%s", mode, rules)
		}
		for _, to := range []string{clusterAddr, nodeAddress + ":30080"} {
			if pod, _, err := w.ask(w.node, to); err != nil || pod != "pod0" {
				t.Errorf("%s: %s answers %s, %v", mode, to, pod, err)
			}
		}
	}
}

func TestRemoveTakesBothModesAway(t *testing.T) {
	modes(t, func(t *testing.T, w *world) {
		w.apply(service(nodePort), slice(up("10.244.0.2", "here")))
		w.must(netnstest.Within(w.node, func() error {
			for range 2 {
				if err := Remove(slog.New(slog.DiscardHandler)); err != nil {
					return err
				}
			}
			intact, err := w.backend.intact()
			if intact {
				t.Error("rules are left")
			}
			return err
		}))
	})
}

// TestIPv6 leads packets between two namespaces whose addresses are all IPv6.
func TestIPv6(t *testing.T) {
	for _, mode := range []string{hostconfig.ProxyNftables, hostconfig.ProxyIptables} {
		t.Run(mode, func(t *testing.T) { testIPv6(t, mode) })
	}
}

func testIPv6(t *testing.T, mode string) {
	w := newWorld(t, mode)
	w.addIPv6(mode)
	w.serve(0)
	six := here
	six.family = ipv6
	s := service(affine, nodePort, dual)
	endpoints := slice(up("fd00:10:244::2", "here"))
	endpoints.AddressType = six.family.addressType()
	w.applyAll(byName(buildModel([]*corev1.Service{s}, slicesOf(endpoints), six)))
	for to, from := range map[string][]int{"[fd00:10:96::14]:80": {-1, 0}, "[fd00:10:244::1]:30080": {-1, 0}} {
		for _, i := range from {
			ns := w.node
			if i >= 0 {
				ns = w.pods[i]
			}
			if pod, source, err := w.ask(ns, to); err != nil || pod != "pod0" || source == "fd00:10:244::2" {
				t.Errorf("%s from %d: got %s from %s, %v, want pod0, masqueraded", to, i, pod, source, err)
			}
		}
	}
	w.applyAll(byName(buildModel([]*corev1.Service{s}, nil, six)))
	if _, _, err := w.ask(w.node, "[fd00:10:96::14]:80"); !refused(err) {
		t.Errorf("no endpoints: got %v, want a refusal", err)
	}
}

// TestOperatorsCanListTheTable has the nft that is installed read every kind of
// entry: Debian 12's aborts at what it cannot make sense of, and shows nothing
// of anybody's tables then.
func TestOperatorsCanListTheTable(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("no nft is installed")
	}
	four := slice(up("10.244.0.2", "here"), up("10.244.0.3", "there"))
	six := slice(up("fd00:10:244::2", "here"), up("fd00:10:244::3", "there"))
	six.AddressType = ipv6.addressType()
	plain := func(*corev1.Service) {}
	keep := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
	list := func(t *testing.T, w *world, of self, endpoints *discoveryv1.EndpointSlice) {
		for _, sticky := range []func(*corev1.Service){plain, affine} {
			for _, policy := range []func(*corev1.Service){plain, keep} {
				s := service(nodePort, dual, sticky, policy)
				s.Spec.ExternalIPs = []string{"192.0.2.80", "2001:db8::80"}
				w.applyAll(byName(buildModel([]*corev1.Service{s}, slicesOf(endpoints), of)))
				w.must(netnstest.Within(w.node, func() error {
					out, err := exec.CommandContext(t.Context(), nft, "list", "ruleset").CombinedOutput()
					if err != nil || !strings.Contains(string(out), "chain outer-") {
						t.Errorf("nft list ruleset: %v\n%s", err, out)
					}
					return nil
				}))
			}
		}
	}
	t.Run("IPv4", func(t *testing.T) {
		list(t, newWorld(t, hostconfig.ProxyNftables), here, four)
	})
	t.Run("IPv6", func(t *testing.T) {
		w := newWorld(t, hostconfig.ProxyNftables)
		w.addIPv6(hostconfig.ProxyNftables)
		of := here
		of.family = ipv6
		list(t, w, of, six)
	})
}
