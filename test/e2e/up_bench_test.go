package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"clusterctl/bootstrap/execute"
)

// BenchmarkUp times a first and a second `up` of five hosts, and prints how
// long each phase of the first took.
func BenchmarkUp(b *testing.B) {
	for i := range b.N {
		c := newLab(b, fmt.Sprint("bench", i), 3, 2, 0)
		started := time.Now()
		out := c.run(b, "up", c.inventory, "--kubeconfig", c.kubeconfig, "--output", "json")
		first := time.Since(started)
		for _, p := range phases(b, out) {
			b.Logf("%-14s from %5.1f s to %5.1f s", p.Phase, p.Begin.Seconds(), p.End.Seconds())
		}
		c.wantNodesReady(b, 5)
		b.ReportMetric(first.Seconds(), "up-s")
		b.ReportMetric(c.up(b).Seconds(), "second-up-s")
		b.Logf("idle, by host:\n%s", c.hosts(b, idleScript))
	}
}

// idleScript waits for a quiet minute and then prints, for each of our
// programs, its memory (all, and what is not backed by its file) and its share
// of one core over the following half minute.
const idleScript = `sleep 60
ticks() { awk '{print $14+$15}' /proc/$1/stat; }
list=$(pgrep -f '/usr/local/lib/clusterctl/current/(controlplane|nodeagent|containerd) ')
for p in $list; do eval "t$p=$(ticks $p)"; done
sleep 30
for p in $list; do
	eval "before=\$t$p"
	name=$(tr '\0' ' ' </proc/$p/cmdline | awk '{n=split($1,a,"/"); print a[n], $2}')
	awk -v name="$name" -v used=$(($(ticks $p)-before)) '/^VmRSS/{rss=$2} /^RssAnon/{anon=$2} END {printf "%-22s %6.1f MB RSS %6.1f MB anonymous %5.2f %% of a core\n", name, rss/1024, anon/1024, used/30}' /proc/$p/status
done`

// phases is what the summary of `up --output json` says of them.
func phases(b *testing.B, out string) []execute.PhaseTime {
	b.Helper()
	for line := range strings.Lines(out) {
		var e execute.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.Fatalf("up --output json printed %q: %v", line, err)
		}
		if e.Kind == execute.KindSummary {
			return e.Summary.Phases
		}
	}
	b.Fatal("no summary among the events")
	return nil
}
