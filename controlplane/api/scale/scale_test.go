package scale

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
)

func TestScale(t *testing.T) {
	ctx := context.Background()
	store := &registry.Store{DefaultQualifiedResource: schema.GroupResource{Group: "apps", Resource: "deployments"}}
	r := New(store, Numbers[*appsv1.Deployment]{
		Replicas: func(d *appsv1.Deployment) **int32 { return &d.Spec.Replicas },
		Current:  func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
		Selector: func(d *appsv1.Deployment) (string, error) { return metav1.FormatLabelSelector(d.Spec.Selector), nil },
	}).(*scale[*appsv1.Deployment])
	one := int32(1)
	stored := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "x", Namespace: "ns"}, Spec: appsv1.DeploymentSpec{
		Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}
	stored.ResourceVersion, stored.UID = "7", "uid"
	stored.Status.Replicas = 4
	stored.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "apps/v1",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{},"f:minReadySeconds":{}}}`)}}

	update := func(edit func(*autoscalingv1.Scale)) (*appsv1.Deployment, error) {
		info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			now := old.(*autoscalingv1.Scale).DeepCopy()
			edit(now)
			return now, nil
		})
		obj, err := (&change[*appsv1.Deployment]{r, info, "x"}).UpdatedObject(ctx, stored)
		if err != nil {
			return nil, err
		}
		return obj.(*appsv1.Deployment), nil
	}

	d, err := update(func(s *autoscalingv1.Scale) {
		if s.Spec.Replicas != 1 || s.Status.Replicas != 4 || s.Status.Selector != "app=x" || s.UID != "uid" || s.ResourceVersion != "7" {
			t.Errorf("scale is %+v", s)
		}
		if len(s.ManagedFields) != 1 || !strings.Contains(s.ManagedFields[0].FieldsV1.GetRawString(), "f:replicas") || s.ManagedFields[0].APIVersion != "autoscaling/v1" {
			t.Errorf("scale has managed fields %v", s.ManagedFields)
		}
		s.Spec.Replicas = 9
	})
	if err != nil {
		t.Fatal(err)
	}
	if *d.Spec.Replicas != 9 || d.ResourceVersion != "7" || *stored.Spec.Replicas != 1 {
		t.Errorf("scaled to %d at %s (stored: %d)", *d.Spec.Replicas, d.ResourceVersion, *stored.Spec.Replicas)
	}
	if len(d.ManagedFields) != 1 || d.ManagedFields[0].APIVersion != "apps/v1" {
		t.Errorf("deployment has managed fields %v", d.ManagedFields)
	}

	_, err = update(func(s *autoscalingv1.Scale) { s.Spec.Replicas = -1 })
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0") {
		t.Errorf("negative replicas: %v", err)
	}
	if _, err = update(func(s *autoscalingv1.Scale) { s.UID = "other" }); !apierrors.IsConflict(err) {
		t.Errorf("another object's scale: %v", err)
	}
	stored.ResourceVersion = ""
	if _, err = update(func(*autoscalingv1.Scale) {}); !apierrors.IsNotFound(err) {
		t.Errorf("scale of nothing: %v", err)
	}
}
