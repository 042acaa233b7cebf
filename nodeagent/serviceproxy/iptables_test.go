package serviceproxy

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// restored carries out the input of iptables-restore --noflush, as strictly as
// the program does.
func restored(table ruleset, input string) error {
	for line := range strings.Lines(input) {
		line = strings.TrimSuffix(line, "\n")
		switch verb, rest, _ := strings.Cut(line, " "); {
		case strings.HasPrefix(line, ":"):
			table[verb[1:]] = nil
		case verb == "-A":
			chain, rule, _ := strings.Cut(rest, " ")
			if _, exists := table[chain]; !exists {
				return fmt.Errorf("there is no chain %s for a rule", chain)
			}
			if _, target, _ := strings.Cut(rule, "-j "+chainPrefix); target != "" {
				target, _, _ = strings.Cut(target, " ")
				if _, exists := table[chainPrefix+target]; !exists {
					return fmt.Errorf("rule of %s leads to %s, which is not there", chain, chainPrefix+target)
				}
			}
			table[chain] = append(table[chain], rule)
		case verb == "-X":
			delete(table, rest)
			for chain, rules := range table {
				if strings.Contains(strings.Join(rules, "\n")+"\n", rest+"\n") {
					return fmt.Errorf("chain %s goes though %s leads there", rest, chain)
				}
			}
		}
	}
	return nil
}

// TestPartialRulesFollowServices changes services at random: what is written of
// the changes alone has to leave the same rules as writing everything.
func TestPartialRulesFollowServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRenderer(testLayout, true)
		current := map[string][]servicePort{}
		begun := r.render(portsIn(current))
		kernel := rules{ruleset{}, ruleset{}}
		write := func(old, want rules) {
			if err := restored(kernel.nat, string(difference("nat", old.nat, want.nat, false))); err != nil {
				t.Fatal(err)
			}
			if err := restored(kernel.filter, string(difference("filter", old.filter, want.filter, false))); err != nil {
				t.Fatal(err)
			}
		}
		write(rules{}, begun)
		for range rapid.IntRange(1, 6).Draw(t, "steps") {
			changes := map[string]change{}
			for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3, rapid.ID).Draw(t, "changed") {
				new := rapid.SliceOfN(anyPort(name), 0, 1).Draw(t, "ports")
				changes[name] = change{current[name], new}
				current[name] = new
			}
			write(r.partial(current, changes))
			want := r.render(portsIn(current))
			if diff := cmp.Diff(want.nat, kernel.nat, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("nat: %s", diff)
			}
			if diff := cmp.Diff(want.filter, kernel.filter, cmpopts.EquateEmpty()); diff != "" {
				t.Fatalf("filter: %s", diff)
			}
		}
	})
}

// TestOneEndpointCostsFewRules has one of many services get another endpoint.
func TestOneEndpointCostsFewRules(t *testing.T) {
	all := manyServices(1000)
	const name = "bench/service-00500"
	old := all[name]
	now := []servicePort{old[0]}
	now[0].endpoints = []netip.AddrPort{old[0].endpoints[0], netip.MustParseAddrPort("10.246.0.9:8080")}
	all[name] = now
	was, want := newRenderer(testLayout, true).partial(all, map[string]change{name: {old, now}})
	text := string(difference("nat", was.nat, want.nat, false))
	if lines := strings.Count(text, "\n"); lines == 0 || lines > 15 {
		t.Errorf("%d lines for iptables-restore:\n%s", lines, text)
	}
	if text := difference("filter", was.filter, want.filter, false); text != nil {
		t.Errorf("rules of the filter table changed:\n%s", text)
	}
}
