package stats

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"clusterctl/nodeagent/volumes"
)

func TestVolumesThatDoNotAnswerAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, answer := map[string]int{}, make(chan struct{})
		v := NewVolumes(func() []volumes.Claimed {
			return []volumes.Claimed{{Pod: "u", Claim: "good", Path: "/good"}, {Pod: "u", Claim: "hung", Path: "/hung"}, {Pod: "u", Claim: "bad", Path: "/bad"}}
		})
		v.read = func(path string) (Disk, error) {
			v.mu.Lock()
			asked[path]++
			v.mu.Unlock()
			switch path {
			case "/hung":
				<-answer
			case "/bad":
				return Disk{}, errors.New("no such directory")
			}
			return Disk{Total: 1}, nil
		}
		for range 3 {
			if disks := v.measure(); len(disks) != 1 {
				t.Errorf("measured %v", disks)
			}
		}
		if asked["/hung"] != 1 || asked["/good"] != 3 {
			t.Errorf("asked %v", asked)
		}
		close(answer)
		synctest.Wait()
		if disks := v.measure(); len(disks) != 2 {
			t.Errorf("after it answered: %v", disks)
		}
	})
}

func TestAClaimOfSeveralPodsCountsOnce(t *testing.T) {
	v := NewVolumes(func() []volumes.Claimed {
		return []volumes.Claimed{{Pod: "u1", Namespace: "n", Claim: "c", Path: "/1"}, {Pod: "u2", Namespace: "n", Claim: "c", Path: "/2"}}
	})
	v.read = func(string) (Disk, error) { return Disk{Total: 100, Available: 60, BlocksUsed: 40}, nil }
	want := `
# HELP kubelet_volume_stats_available_bytes Number of available bytes in the volume
# TYPE kubelet_volume_stats_available_bytes gauge
kubelet_volume_stats_available_bytes{namespace="n",persistentvolumeclaim="c"} 60
# HELP kubelet_volume_stats_capacity_bytes Capacity in bytes of the volume
# TYPE kubelet_volume_stats_capacity_bytes gauge
kubelet_volume_stats_capacity_bytes{namespace="n",persistentvolumeclaim="c"} 100
# HELP kubelet_volume_stats_used_bytes Number of used bytes in the volume
# TYPE kubelet_volume_stats_used_bytes gauge
kubelet_volume_stats_used_bytes{namespace="n",persistentvolumeclaim="c"} 40
`
	if err := testutil.GatherAndCompare(gathered(t, v), strings.NewReader(want), "kubelet_volume_stats_capacity_bytes",
		"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_used_bytes"); err != nil {
		t.Error(err)
	}
}

func TestVolumeCount(t *testing.T) {
	count := &VolumeCount{Count: func() (wanted, inPlace map[string]int) {
		return map[string]int{"kubernetes.io/secret": 2, "kubernetes.io/csi:d": 1}, map[string]int{"kubernetes.io/secret": 1}
	}}
	const want = `
# HELP volume_manager_total_volumes Number of volumes in Volume Manager
# TYPE volume_manager_total_volumes gauge
volume_manager_total_volumes{plugin_name="kubernetes.io/csi:d",state="desired_state_of_world"} 1
volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="actual_state_of_world"} 1
volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="desired_state_of_world"} 2
`
	if err := testutil.CollectAndCompare(count, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
