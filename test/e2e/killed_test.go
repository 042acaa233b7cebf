package e2e

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestKilledRuns ends `up` with SIGKILL at ten random moments, then lets one
// finish: the cluster has to be the one that an undisturbed run makes.
func TestKilledRuns(t *testing.T) {
	c := newLab(t, "e2e-kill", 3, 1, 0)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	kills, started := 0, time.Now()
	for kills < 10 {
		wait := time.Duration(random.Int64N(int64(8 * time.Second)))
		cmd := exec.Command(program(t), "up", c.inventory, "--kubeconfig", c.kubeconfig)
		cmd.Env = append(os.Environ(), "HOME="+c.dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() }) // it may have ended
		err := cmd.Wait()
		timer.Stop()
		switch {
		case cmd.ProcessState.ExitCode() == -1:
			kills++
		case err != nil:
			t.Fatalf("a run failed (killed runs before it: %d): %v\n%s", kills, err, tail(out.String()))
		default:
			// It came to its end: there is nothing left to interrupt.
			t.Logf("up complete with %d runs killed, starting over", kills)
			c.run(t, "reset", c.inventory, "--yes")
		}
		// The quicker the machine, the more runs come to their end.
		if time.Since(started) > 10*time.Minute {
			t.Fatalf("only %d runs killed in ten minutes", kills)
		}
	}
	t.Logf("the last up took %s", c.up(t).Round(100*time.Millisecond))
	c.wantNodesReady(t, 4)
	c.deploySample(t)
	c.wantSampleServed(t, 4)

	c.wantMembers(t, "cp1", "cp2", "cp3")
	if out := c.run(t, "plan", c.inventory); !strings.Contains(out, "nothing to do") {
		t.Errorf("plan after the last up says:\n%s", out)
	}
	leftovers := c.hosts(t, `find /etc/clusterctl /usr/local/lib/clusterctl /var/lib/clusterctl/host -name '*.part' -o -name '.*tmp*' -o -name '*.tmp*' | sed 's/^/left: /'`)
	if strings.Contains(leftovers, "left: ") {
		t.Errorf("killed runs left temporary files:\n%s", leftovers)
	}
}
