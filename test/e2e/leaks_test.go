package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// census prints what pods make on a host, one thing a line, its kind first.
// What can be told apart by pod names the pod's UID or an ID of the runtime,
// whose UID the line "of ID UID" says; the rest is counted.
const census = `shopt -s nullglob 2>/dev/null
test -e /etc/clusterctl/nodeagent.yaml || exit 0
cri=/var/lib/clusterctl/containerd/io.containerd.grpc.v1.cri
task=/run/clusterctl/containerd/io.containerd.runtime.v2.task/k8s.io
for d in $cri/sandboxes/*; do echo "sandbox ${d##*/}"; done
for d in $cri/containers/*; do echo "container ${d##*/}"; done
for d in /run/clusterctl/runc/k8s.io/* $task/*; do echo "bundle ${d##*/}"; done
grep -o '"io.kubernetes.cri.sandbox-uid":"[^"]*"' $task/*/config.json /dev/null 2>/dev/null | sed -E 's|.*/([0-9a-f]+)/config.json:.*:"(.*)"|of \1 \2|'
ps -eo args= | sed -n -E 's|^[^ ]*/containerd-shim-runc-v2 .* -id ([0-9a-f]+) .*|shim \1|p'
cat /proc/[0-9]*/cgroup 2>/dev/null | sed -n -E 's|.*(kubepods.*)|process \1|p' | sort -u
ps -eo stat=,ppid=,comm= | awk '$1 ~ /^Z/ {print "zombie", $3, "child of", $2}'
awk '{print $2}' /proc/mounts | grep -E '/pods/|io.containerd|netns|kubelet' | sed 's/^/mount /'
find /sys/fs/cgroup -type d -path '*kubepods*' -name '*pod*-*' | sed 's/^/cgroup /'
for d in /var/lib/clusterctl/nodeagent/pods/*; do echo "directory ${d##*/}"; done
for d in /var/log/clusterctl/pods/*; do echo "logs ${d##*_}"; done
for f in /run/clusterctl/cni/clusterctl/[0-9]*.*; do echo "address ${f##*/}"; done
for f in /run/clusterctl/containerd/io.containerd.grpc.v1.cri/netns/*; do echo "netns ${f##*/}"; done
ls -d /var/lib/clusterctl/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/[0-9]* 2>/dev/null | sed 's/^/snapshot /'
ip -o link show type veth | grep -v ': eth0@' | awk '{print "veth", $2}'
ip -o link | awk '{print $2}' | grep -v -E '^(veth|eth0)' | sed 's/^/link /'
ip -o addr show | grep -v -E ': (veth|eth0)|inet6 fe80' | awk '{print "host-address", $2, $4}'
{ ip route show; ip -6 route show proto 204; } | sed 's/^/route /'
ip neigh show dev cctl-vx | awk '{print "neighbour", $1, $3}'
{ iptables-save; ip6tables-save; nft list ruleset; } 2>/dev/null | grep -v '^#' | sed 's/^/rule /'
grep -E 'ESTABLISHED|udp' /proc/net/nf_conntrack 2>/dev/null | sed 's/^/flow /'
true`

// look takes the census of every host.
func (c *cluster) look(t testing.TB) (map[string][]string, error) {
	t.Helper()
	out, err := c.try(t.Context(), t, "hosts", "exec", c.inventory, "--", "bash -c '"+strings.ReplaceAll(census, "'", `'\''`)+"'")
	if err != nil {
		return nil, err
	}
	hosts, host := map[string][]string{}, ""
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "--- "); ok {
			host = name
			continue
		}
		hosts[host] = append(hosts[host], line)
	}
	return hosts, nil
}

// leakCheck compares what hosts have with what pods that the API knows account
// for, and the rest with what there was at first.
type leakCheck struct {
	cluster *cluster
	before  map[string]map[string]int // per host: how many of what is not a pod's
}

// newLeakCheck remembers what hosts have now. Everything that runs now and is
// not of a pod has to be there at every check.
func newLeakCheck(t testing.TB, c *cluster) *leakCheck {
	t.Helper()
	l := &leakCheck{cluster: c}
	eventually(t, time.Minute, "a first census without leaks", func(context.Context) error {
		hosts, err := c.look(t)
		if err != nil {
			return err
		}
		l.before = map[string]map[string]int{}
		for host, lines := range hosts {
			l.before[host] = unowned(lines)
		}
		return l.check(t)
	})
	return l
}

// wantNone fails unless every leftover is gone in time.
func (l *leakCheck) wantNone(t testing.TB, within time.Duration) {
	t.Helper()
	took := eventually(t, within, "nothing left behind on any node", func(context.Context) error { return l.check(t) })
	t.Logf("nothing was left behind after %s", took.Round(100*time.Millisecond))
}

func (l *leakCheck) check(t testing.TB) error {
	hosts, err := l.cluster.look(t)
	if err != nil {
		return err
	}
	pods, err := l.cluster.client(t, "").CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	addresses := map[string]bool{}
	for i := range pods.Items {
		for _, ip := range pods.Items[i].Status.PodIPs {
			addresses[ip.IP] = true
		}
	}
	var found []string
	for host, lines := range hosts {
		var own []*v1.Pod
		for i := range pods.Items {
			if p := &pods.Items[i]; p.Spec.NodeName == host {
				own = append(own, p)
			}
		}
		for _, leak := range l.leaks(host, lines, own, addresses) {
			found = append(found, host+": "+leak)
		}
	}
	if len(found) > 0 {
		slices.Sort(found)
		return fmt.Errorf("%d things too many or too few:\n%s", len(found), strings.Join(found[:min(len(found), 30)], "\n"))
	}
	return nil
}

var (
	podUID     = regexp.MustCompile(`[0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}`)
	runtimeID  = regexp.MustCompile(`[0-9a-f]{64}`)
	ipAddress  = regexp.MustCompile(`\b[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+\b`)
	kindsOfPod = []string{"of", "sandbox", "container", "bundle", "shim", "process", "zombie", "mount", "cgroup", "directory", "logs",
		"address", "netns", "snapshot", "veth", "flow"}
)

// layers are snapshots beside those of containers: of images, which nodes may
// collect, and what containerd has not cleared away yet. It looks after every
// hundredth change of its data.
const (
	layers     = "snapshots of images"
	moreLayers = 100
)

// unowned counts what is no pod's, by what it is; rules by their words, since
// some programs print many elements in a line.
func unowned(lines []string) map[string]int {
	count := map[string]int{}
	for _, line := range lines {
		kind, _, _ := strings.Cut(line, " ")
		switch {
		case kind == "snapshot":
			count[layers]++
		case kind == "sandbox", kind == "container":
			count[layers]-- // each has one of its own
		case slices.Contains(kindsOfPod, kind):
		case strings.Contains(line, " cctl0"): // the bridge is made for the first pod
		case kind == "rule":
			count["words in rules"] += len(ruleWords(line))
		default:
			count[line]++
		}
	}
	return count
}

// ruleWords are those of a line of rules, but for elements of sets that name a pod:
// whose address that is leaks looks after, and those of the cluster's own pods move
// from node to node.
func ruleWords(line string) []string {
	rule := strings.TrimPrefix(line, "rule ")
	if _, elements, ok := strings.Cut(rule, "elements = {"); ok {
		rule = elements
	}
	var words []string
	for element := range strings.SplitSeq(rule, ",") {
		if !slices.ContainsFunc(ipAddress.FindAllString(element, -1), isPods) {
			words = append(words, strings.Fields(strings.TrimSuffix(element, " }"))...)
		}
	}
	return words
}

var podRange = netip.MustParsePrefix("10.244.0.0/16")

// isPods tells pods' addresses from those of networks and bridges.
func isPods(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && podRange.Contains(ip) && ip.As4()[3] > 1
}

// leaks lists what a host has beside what own, its pods, account for.
// Addresses are those of every pod of the cluster.
func (l *leakCheck) leaks(host string, lines []string, own []*v1.Pod, addresses map[string]bool) []string {
	uids, ips, containers := map[string]bool{}, map[string]bool{}, map[string]bool{}
	running, networked := 0, 0
	earlier := 0 // pods and containers that ended; each may keep a sandbox that ended with it
	for _, pod := range own {
		uids[string(pod.UID)] = true
		if mirrored := pod.Annotations[v1.MirrorPodAnnotationKey]; mirrored != "" {
			uids[mirrored] = true
		}
		for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
			for _, status := range list {
				containers[runtimeID.FindString(status.ContainerID)] = true
				if ended := status.LastTerminationState.Terminated; ended != nil {
					containers[runtimeID.FindString(ended.ContainerID)] = true
					earlier++
				}
			}
		}
		if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
			earlier++
			continue
		}
		running++
		if !pod.Spec.HostNetwork {
			networked++
			ips[pod.Status.PodIP] = true
		}
	}
	uidOf := map[string]string{}
	for _, line := range lines {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "of" {
			uidOf[f[1]] = f[2]
		}
	}
	var found []string
	count := map[string]int{}
	for _, line := range lines {
		kind, what, _ := strings.Cut(line, " ")
		count[kind]++
		switch kind {
		case "of", "netns", "veth":
		case "zombie":
			found = append(found, line)
		case "address":
			if !ips[what] {
				found = append(found, line+" of no pod here")
			}
		case "container":
			if !containers[what] {
				found = append(found, line+" of no pod here")
			}
		case "rule", "flow":
			for _, address := range ipAddress.FindAllString(what, -1) {
				if isPods(address) && !addresses[address] {
					found = append(found, fmt.Sprintf("%s to or from %s, which no pod has: %s", kind, address, what))
					break
				}
			}
		default:
			if !slices.Contains(kindsOfPod, kind) {
				continue
			}
			if uid := podUID.FindString(what); kind != "mount" && kind != "snapshot" && uid != "" || strings.Contains(what, "/pods/") {
				if !uids[strings.ReplaceAll(uid, "_", "-")] {
					found = append(found, line+" of no pod here")
				}
			} else if id := runtimeID.FindString(what); id != "" && !uids[uidOf[id]] && (kind != "sandbox" || uidOf[id] != "") {
				found = append(found, line+" of no pod here")
			}
		}
	}
	if got := count["sandbox"]; got < running || got > running+earlier {
		found = append(found, fmt.Sprintf("%d sandboxes, %d expected and up to %d that ended", got, running, earlier))
	}
	for kind, want := range map[string]int{"shim": running, "netns": networked, "veth": networked, "address": networked} {
		if got := count[kind]; got != want {
			found = append(found, fmt.Sprintf("%d of kind %s, %d expected", got, kind, want))
		}
	}
	after := unowned(lines)
	for what, had := range l.before[host] {
		if has := after[what]; has != had && (what != layers || has > had+moreLayers) {
			found = append(found, fmt.Sprintf("%d instead of %d: %s", has, had, what))
		}
	}
	for what, has := range after {
		if l.before[host][what] == 0 {
			found = append(found, fmt.Sprintf("%d more: %s", has, what))
		}
	}
	return found
}
