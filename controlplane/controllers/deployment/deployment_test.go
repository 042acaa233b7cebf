package deployment

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/controlplane/controllers/controllertest"
)

func web(image string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	d := rolling(replicas, intstr.FromInt32(1), intstr.FromInt32(0))
	deadline, limit := int32(600), int32(1)
	d.ObjectMeta = metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "d", Generation: 1, Annotations: map[string]string{"note": "kept", corev1.LastAppliedConfigAnnotation: "{}"}}
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: labels}
	d.Spec.ProgressDeadlineSeconds, d.Spec.RevisionHistoryLimit = &deadline, &limit
	d.Spec.Template = corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}},
	}
	return d
}

// cluster plays the replica set controller, whose pods are available at once.
type cluster struct {
	*controllertest.Fixture
	t *testing.T
}

func (c cluster) sets() map[string]*appsv1.ReplicaSet {
	list, err := c.Client.AppsV1().ReplicaSets("ns").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	byImage := map[string]*appsv1.ReplicaSet{}
	for i := range list.Items {
		rs := &list.Items[i]
		byImage[rs.Spec.Template.Spec.Containers[0].Image] = rs
	}
	return byImage
}

func (c cluster) settle() {
	for _, rs := range c.sets() {
		n := *rs.Spec.Replicas
		if rs.Status.AvailableReplicas == n && rs.Status.Replicas == n {
			continue
		}
		rs.Status = appsv1.ReplicaSetStatus{Replicas: n, ReadyReplicas: n, AvailableReplicas: n, ObservedGeneration: rs.Generation}
		_, _ = c.Client.AppsV1().ReplicaSets("ns").UpdateStatus(context.Background(), rs, metav1.UpdateOptions{})
	}
}

func (c cluster) deployment() *appsv1.Deployment {
	d, err := c.Client.AppsV1().Deployments("ns").Get(context.Background(), "web", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c cluster) change(f func(*appsv1.Deployment)) {
	controllertest.Eventually(c.t, "a write", func() bool {
		d := c.deployment()
		f(d)
		d.Generation++
		_, err := c.Client.AppsV1().Deployments("ns").Update(context.Background(), d, metav1.UpdateOptions{})
		return err == nil
	})
}

// rolled waits until all replicas are of image.
func (c cluster) rolled(image string, replicas int32) {
	c.t.Helper()
	controllertest.Eventually(c.t, "rollout of "+image, func() bool {
		c.settle()
		d := c.deployment()
		progress := condition(&d.Status, appsv1.DeploymentProgressing)
		rs := c.sets()[image]
		return rs != nil && *rs.Spec.Replicas == replicas && d.Status.UpdatedReplicas == replicas && d.Status.Replicas == replicas &&
			d.Status.ObservedGeneration == d.Generation && progress != nil && progress.Reason == reasonAvailable &&
			d.Annotations[revisionAnnotation] == rs.Annotations[revisionAnnotation]
	})
}

func TestRollout(t *testing.T) {
	f := controllertest.New(t, web("v1", 3))
	controller, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, controller)
	c := cluster{f, t}

	c.rolled("v1", 3)
	v1 := c.sets()["v1"]
	hash := v1.Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if v1.Name != "web-"+hash || v1.Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash || v1.Spec.Template.Labels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
		t.Errorf("hash %q is not everywhere in %+v", hash, v1)
	}
	if v1.Annotations["note"] != "kept" || v1.Annotations[corev1.LastAppliedConfigAnnotation] != "" || v1.Annotations[revisionAnnotation] != "1" {
		t.Errorf("annotations %v", v1.Annotations)
	}

	c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
	c.rolled("v2", 3)
	if n := *c.sets()["v1"].Spec.Replicas; n != 0 {
		t.Errorf("old set keeps %d", n)
	}

	c.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 5 })
	c.rolled("v2", 5)

	// Going back takes the old set up again, under a new revision.
	c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v1" })
	c.rolled("v1", 5)
	if back := c.sets()["v1"]; back.Name != v1.Name || back.Annotations[revisionAnnotation] != "3" || back.Annotations[revisionHistoryAnnotation] != "1" {
		t.Errorf("went back to %s with %v", back.Name, back.Annotations)
	}

	// While paused, a new template starts nothing; a new size is followed.
	c.change(func(d *appsv1.Deployment) {
		d.Spec.Paused = true
		d.Spec.Template.Spec.Containers[0].Image = "v3"
		*d.Spec.Replicas = 2
	})
	controllertest.Eventually(t, "the resize", func() bool { c.settle(); return *c.sets()["v1"].Spec.Replicas == 2 })
	if c.sets()["v3"] != nil {
		t.Error("a paused deployment rolled on")
	}
	c.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
	c.rolled("v3", 2)
	controllertest.Eventually(t, "the history to be trimmed", func() bool {
		c.settle()
		sets := c.sets()
		return len(sets) == 2 && sets["v2"] == nil
	})
}

func TestRecreateWaitsForOldPods(t *testing.T) {
	d := web("v1", 2)
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	f := controllertest.New(t, d)
	controller, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, controller)
	c := cluster{f, t}
	c.rolled("v1", 2)
	v1 := c.sets()["v1"]
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "last", Namespace: "ns", OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(v1, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))}}}
	if _, err := f.Client.CoreV1().Pods("ns").Create(context.Background(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "v2" })
	controllertest.Eventually(t, "the old set to shrink", func() bool { c.settle(); return *c.sets()["v1"].Spec.Replicas == 0 })
	time.Sleep(50 * time.Millisecond)
	if c.sets()["v2"] != nil {
		t.Error("new pods start beside an old one")
	}
	if err := f.Client.CoreV1().Pods("ns").Delete(context.Background(), "last", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.rolled("v2", 2)
}

func TestCollisionIsSalted(t *testing.T) {
	d := web("v1", 1)
	stranger := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web-" + templateHash(&d.Spec.Template, nil), Namespace: "ns"},
		Spec: appsv1.ReplicaSetSpec{Replicas: new(int32), Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: "theirs"}}}}}}
	f := controllertest.New(t, d, stranger)
	controller, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, controller)
	c := cluster{f, t}
	c.rolled("v1", 1)
	if n := c.deployment().Status.CollisionCount; n == nil || *n != 1 {
		t.Errorf("collision count %v", n)
	}
	if c.sets()["theirs"] == nil {
		t.Error("the other set is gone")
	}
}

func TestTemplateHash(t *testing.T) {
	template := web("v1", 1).Spec.Template
	one := int32(1)
	plain, salted := templateHash(&template, nil), templateHash(&template, &one)
	if plain == salted {
		t.Error("the collision count does not matter")
	}
	if again := templateHash(template.DeepCopy(), nil); again != plain {
		t.Errorf("%s, then %s", plain, again)
	}
	if strings.Trim(plain, "bcdfghjklmnpqrstvwxz2456789") != "" {
		t.Errorf("%q has letters that the encoding leaves out", plain)
	}
}

func TestAnnotateBoundsHistory(t *testing.T) {
	rs := &appsv1.ReplicaSet{}
	d := web("v1", 1)
	for revision := range int64(2000) {
		annotate(rs, d, revision+1)
	}
	history := rs.Annotations[revisionHistoryAnnotation]
	if len(history) > historyLimit || !strings.HasSuffix(history, ",1999") || rs.Annotations[revisionAnnotation] != "2000" {
		t.Errorf("history of %d characters ends in %q", len(history), history[max(0, len(history)-10):])
	}
	before := maps.Clone(rs.Annotations)
	annotate(rs, d, 5)
	if !maps.Equal(before, rs.Annotations) {
		t.Error("a lower revision changed something")
	}
}

func TestDeadline(t *testing.T) {
	now := time.Now()
	for name, test := range map[string]struct {
		reason string
		age    time.Duration
		want   bool
	}{
		"young":           {reasonUpdated, time.Minute, false},
		"too old":         {reasonUpdated, 11 * time.Minute, true},
		"complete before": {reasonAvailable, time.Hour, false},
		"still out":       {reasonTimedOut, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rollout{d: web("v1", 1)}
			c := appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Reason: test.reason, LastUpdateTime: metav1.NewTime(now.Add(-test.age))}
			if got := r.timedOut(&c, now); got != test.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
