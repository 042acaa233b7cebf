package apps

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
	storages, err := deployment.Extend(nil, &registry.Store{DefaultQualifiedResource: schema.GroupResource{Group: "apps", Resource: "deployments"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := storages["deployments/scale"].(*scaleREST[*appsv1.Deployment])
	stored := newDeployment()
	stored.ResourceVersion, stored.UID = "7", "uid"
	stored.Status.Replicas = 4
	stored.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "apps/v1",
		FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(`{"f:spec":{"f:replicas":{},"f:minReadySeconds":{}}}`)}}

	update := func(change func(*autoscalingv1.Scale)) (*appsv1.Deployment, error) {
		info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, old runtime.Object) (runtime.Object, error) {
			scale := old.(*autoscalingv1.Scale).DeepCopy()
			change(scale)
			return scale, nil
		})
		obj, err := (&scaleInfo[*appsv1.Deployment]{r, info, "x"}).UpdatedObject(ctx, stored)
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
