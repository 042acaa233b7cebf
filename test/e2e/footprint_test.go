package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostFootprint prints what `up` could leave on a host: files of ours, units,
// processes, mounts, links, rules, cgroups.
const hostFootprint = `for d in /etc/clusterctl /var/lib/clusterctl /usr/local/lib/clusterctl /run/clusterctl /var/log/clusterctl /var/lib/cni /run/containerd /var/lib/containerd /run/netns; do test -e $d && echo "path $d"; done
	ls /etc/systemd/system | grep clusterctl
	ps -eo comm= | grep -E 'controlplane|nodeagent|containerd|pause|coredns|sample' | sort | uniq -c
	awk '{print $2}' /proc/mounts | grep -E 'clusterctl|kubelet|netns|containerd'
	ip -o link | awk -F': ' '{print $2}' | sed 's/@.*//' | grep -v -E '^(lo|eth0|ifb|tunl|sit|gre|ip6)' | sort
	iptables-save 2>/dev/null | grep -v '^#' | grep -i -E 'cctl|cni' | sort
	nft list tables 2>/dev/null | grep clusterctl
	find /sys/fs/cgroup -maxdepth 4 -name 'kubepods*' 2>/dev/null | sort
	true`

// difference lists the lines that only one of two texts has.
func difference(want, got string) string {
	count := map[string]int{}
	for line := range strings.Lines(want) {
		count[line]--
	}
	for line := range strings.Lines(got) {
		count[line]++
	}
	var b strings.Builder
	for line := range strings.Lines(want + "\n" + got) {
		switch n := count[line]; {
		case n < 0:
			b.WriteString("- " + line)
		case n > 0:
			b.WriteString("+ " + line)
		}
		count[line] = 0
	}
	return b.String()
}

// address is a host's, from `lab list`.
func (c *cluster) address(t testing.TB, host string) string {
	t.Helper()
	for line := range strings.Lines(c.run(t, "lab", "list")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == c.name && f[1] == host {
			return f[2]
		}
	}
	t.Fatalf("lab %s has no host %s", c.name, host)
	return ""
}

// secretText is what no argument and no log may contain.
var secretText = regexp.MustCompile(`PRIVATE KEY-----|eyJhbGciOi[A-Za-z0-9_-]{20}`)

// secretWatch samples the arguments of every process of the machine (the lab
// hosts' are among them) while `up` runs.
type secretWatch struct {
	cluster *cluster
	stop    chan struct{}
	done    sync.WaitGroup
	samples int
	found   map[string]bool
}

func watchSecrets(t testing.TB, c *cluster) *secretWatch {
	t.Helper()
	w := &secretWatch{cluster: c, stop: make(chan struct{}), found: map[string]bool{}}
	w.done.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
			files, err := filepath.Glob("/proc/[0-9]*/cmdline")
			if err != nil {
				continue
			}
			w.samples++
			for _, file := range files {
				if raw, err := os.ReadFile(file); err == nil && secretText.Match(raw) {
					w.found[fmt.Sprintf("%.60q", raw)] = true
				}
			}
		}
	})
	return w
}

// wantNone ends the watch, and looks for secrets in logs and loose files.
func (w *secretWatch) wantNone(t testing.TB) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	if w.samples < 10 {
		t.Errorf("only %d samples of process arguments: this check sees nothing", w.samples)
	}
	for arguments := range w.found {
		t.Errorf("a process had a secret among its arguments: %s", arguments)
	}
	out := w.cluster.hosts(t, `journalctl --no-pager 2>/dev/null | grep -E 'PRIVATE KEY-----|eyJhbGciOi[A-Za-z0-9_-]{20}' | head -3 | sed 's/^/secret in journal: /'
		grep -rlE 'PRIVATE KEY-----' /var/log /run/clusterctl 2>/dev/null | sed 's/^/secret in file: /'
		for d in /etc/clusterctl /var/lib/clusterctl/host /var/lib/clusterctl/nodeagent /tmp /var/tmp; do
			grep -rlE 'PRIVATE KEY-----' $d 2>/dev/null | while read -r f; do
				m=$(stat -c %a "$f"); test "$m" = 600 || test "$m" = 400 || echo "loose key: $m $f"; done; done
		test ! -d /etc/clusterctl/pki || stat -c 'pki %a' /etc/clusterctl/pki
		true`)
	for _, bad := range []string{"secret in", "loose key"} {
		if strings.Contains(out, bad) {
			t.Errorf("secrets where they do not belong:\n%s", out)
			break
		}
	}
	if strings.Contains(strings.ReplaceAll(out, "pki 700", ""), "pki ") {
		t.Errorf("a pki directory is not 0700:\n%s", out)
	}
}
