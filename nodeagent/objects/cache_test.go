package objects

import (
	"context"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
)

func TestCacheFollowsAnObjectWhileItIsUsed(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client := fake.NewClientset(&v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "a"}, Data: map[string]string{"k": "1"}})
	woken := make(chan types.UID, 10)
	c := New(ctx, client, func(uid types.UID) { woken <- uid })
	cm, err := c.ConfigMap(ctx, "u", "n", "a")
	if err != nil || cm.Data["k"] != "1" {
		t.Fatalf("got %v %v", cm, err)
	}
	<-woken // the watch has listed
	cm = cm.DeepCopy()
	cm.Data["k"] = "2"
	if _, err := client.CoreV1().ConfigMaps("n").Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case uid := <-woken:
		if uid != "u" {
			t.Errorf("woke %s", uid)
		}
	case <-ctx.Done():
		t.Fatal("the update woke nobody")
	}
	if cm, err := c.ConfigMap(ctx, "u", "n", "a"); err != nil || cm.Data["k"] != "2" {
		t.Errorf("after the update: got %v %v", cm, err)
	}
	if _, err := c.Secret(ctx, "u", "n", "none"); !apierrors.IsNotFound(err) {
		t.Errorf("missing secret: got %v", err)
	}
	c.Release("u")
	if len(c.entries) != 0 {
		t.Errorf("still watching %v", c.entries)
	}
}
