package scheduler

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"

	"clusterctl/controlplane/scheduler/plugins"
)

func podOf(t *testing.T, client *fake.Clientset, name string) *v1.Pod {
	t.Helper()
	p, err := client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A pod goes where its status says that room was made for it, whoever wrote that.
func TestRunFollowsNominations(t *testing.T) {
	shunned := node("b", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectPreferNoSchedule}} })
	client := fakeCluster(node("a"), shunned, newPod("first"))
	runScheduler(t, client)
	eventually(t, "the scheduler works", func() bool { return podOf(t, client, "first").Spec.NodeName == "a" })
	promised := newPod("promised", func(p *v1.Pod) { p.Status.NominatedNodeName = "b" })
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), promised, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bound", func() bool { return podOf(t, client, "promised").Spec.NodeName != "" })
	if got := podOf(t, client, "promised").Spec.NodeName; got != "b" {
		t.Errorf("bound to %s, want b", got)
	}
}

func TestFollowNominationOfOurOwn(t *testing.T) {
	s := newScheduler(plugins.Default(nil))
	s.picture.SetNode(node("a"))
	s.picture.SetNode(node("b"))
	at := func(name string) *v1.Pod { return newPod("p", func(p *v1.Pod) { p.Status.NominatedNodeName = name }) }
	for _, step := range []struct {
		what, was, is string
		freed         bool
		kept          string
	}{
		{"somebody's", "", "a", false, "a"},
		{"no news", "a", "a", false, "a"},
		{"moved", "a", "b", true, "b"},
		{"what is so already", "a", "b", false, "b"},
		{"given up", "b", "", true, ""},
		{"again", "b", "", false, ""},
	} {
		if freed := s.followNomination(at(step.was), at(step.is)); freed != step.freed {
			t.Errorf("%s: freed %t", step.what, freed)
		}
		if kept := s.picture.NominatedTo("p"); kept != step.kept {
			t.Errorf("%s: room kept on %q, want %q", step.what, kept, step.kept)
		}
	}
}

// A pod that cannot be bound is told so, and tried again.
func TestRunTellsWhyBindingFailed(t *testing.T) {
	client := fakeCluster(node("a"), newPod("p"))
	var failing atomic.Bool
	failing.Store(true)
	client.PrependReactor("create", "pods", func(action kubetesting.Action) (bool, runtime.Object, error) {
		if failing.Load() && action.GetSubresource() == "binding" {
			return true, nil, errors.New("the disk is full")
		}
		return false, nil, nil
	})
	runScheduler(t, client)
	eventually(t, "a condition", func() bool {
		return slices.ContainsFunc(podOf(t, client, "p").Status.Conditions, func(c v1.PodCondition) bool {
			return c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonSchedulerError && strings.HasSuffix(c.Message, "the disk is full")
		})
	})
	failing.Store(false)
	eventually(t, "bound", func() bool { return podOf(t, client, "p").Spec.NodeName == "a" })
}

// awaitsVolume is a cluster of one node and a pod whose volume nobody makes.
func awaitsVolume(pod *v1.Pod) *fake.Clientset {
	late := storagev1.VolumeBindingWaitForFirstConsumer
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: "example.com/csi", VolumeBindingMode: &late}
	claim := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c", UID: "c"},
		Spec:       v1.PersistentVolumeClaimSpec{StorageClassName: new("late"), AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}},
	}
	pod.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}}}
	return fakeCluster(node("a"), class, claim, pod)
}

// Where a pod will go is told before what may take long: here a volume that has to
// be made first.
func TestRunAnnouncesWhereAPodWillGo(t *testing.T) {
	client := awaitsVolume(newPod("p"))
	runScheduler(t, client)
	eventually(t, "announced", func() bool { return podOf(t, client, "p").Status.NominatedNodeName == "a" })
	if p := podOf(t, client, "p"); p.Spec.NodeName != "" {
		t.Errorf("bound to %s without its volume", p.Spec.NodeName)
	}
}

// A pod that is not bound yet has to make room, but not to go.
func TestRunPreemptsWhatIsNotBound(t *testing.T) {
	client := awaitsVolume(newPod("low", requests("2", "1Gi"), func(p *v1.Pod) { p.Spec.Priority = new(int32(1)) }))
	runScheduler(t, client)
	eventually(t, "announced", func() bool { return podOf(t, client, "low").Status.NominatedNodeName == "a" })
	high := newPod("high", requests("2", "1Gi"), func(p *v1.Pod) { p.Spec.Priority = new(int32(5)) })
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), high, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "room", func() bool { return podOf(t, client, "high").Spec.NodeName == "a" })
	eventually(t, "a word to who made it", func() bool {
		p := podOf(t, client, "low") // which must be there
		return p.Spec.NodeName == "" && p.Status.NominatedNodeName == "" && len(p.Status.Conditions) == 1 && p.Status.Conditions[0].Status == v1.ConditionFalse
	})
}
