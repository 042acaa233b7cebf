package integration

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
)

func deviceClaim(name string) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}},
	}}}
}

func TestSlicesAreSelectedByNodeAndDriver(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.ResourceV1().ResourceSlices()
	for _, s := range []struct{ node, driver string }{{"slice-a", "one.example.com"}, {"slice-a", "two.example.com"}, {"slice-b", "one.example.com"}} {
		must(all.Create(ctx, &resourcev1.ResourceSlice{
			ObjectMeta: metav1.ObjectMeta{Name: s.node + "-" + s.driver},
			Spec: resourcev1.ResourceSliceSpec{Driver: s.driver, NodeName: &s.node,
				Pool: resourcev1.ResourcePool{Name: s.node, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "d"}}},
		}, metav1.CreateOptions{}))(t)
	}
	for selector, want := range map[string]int{
		"spec.nodeName=slice-a": 2, "spec.driver=one.example.com": 2, "spec.nodeName=slice-b,spec.driver=two.example.com": 0,
	} {
		if got := must(all.List(ctx, metav1.ListOptions{FieldSelector: selector}))(t); len(got.Items) != want {
			t.Errorf("%s selects %d, want %d", selector, len(got.Items), want)
		}
	}
	if err := all.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.nodeName=slice-a"}); err != nil {
		t.Fatal(err)
	}
	if got := must(all.List(ctx, metav1.ListOptions{FieldSelector: "spec.driver=one.example.com"}))(t); len(got.Items) != 1 {
		t.Errorf("left %d slices", len(got.Items))
	}
}

// Access to devices that others use is for namespaces that say so.
func TestAdminAccessNeedsItsNamespace(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	claim := deviceClaim("admin")
	claim.Spec.Devices.Requests[0].Exactly.AdminAccess = ptr.To(true)
	_, err := c.Client.ResourceV1().ResourceClaims(ns).Create(ctx, claim, metav1.CreateOptions{})
	want := "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("created: %v", err)
	}
	patch := []byte(`{"metadata":{"labels":{"resource.kubernetes.io/admin-access":"true"}}}`)
	must(c.Client.CoreV1().Namespaces().Patch(ctx, ns, types.MergePatchType, patch, metav1.PatchOptions{}))(t)
	must(c.Client.ResourceV1().ResourceClaims(ns).Create(ctx, claim, metav1.CreateOptions{}))(t)
}

// Who may write the status of claims may not therefore bind them, nor speak for
// every driver.
func TestStatusOfClaimsHasTwoOwners(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	must(c.Client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: ns}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims", "resourceclaims/status"}, Verbs: []string{"*"}},
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims/driver"}, ResourceNames: []string{"mine.example.com"}, Verbs: []string{"arbitrary-node:update"}},
	}}, metav1.CreateOptions{}))(t)
	must(c.Client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: ns},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: ns},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: ns}},
	}, metav1.CreateOptions{}))(t)
	config := rest.CopyConfig(c.Admin)
	config.Impersonate = rest.ImpersonationConfig{UserName: ns}
	driver := clients(t, config).ResourceV1().ResourceClaims(ns)

	claim := must(c.Client.ResourceV1().ResourceClaims(ns).Create(ctx, deviceClaim("c"), metav1.CreateOptions{}))(t)
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r", Driver: "mine.example.com", Pool: "p", Device: "d"}, {Request: "r", Driver: "yours.example.com", Pool: "p", Device: "d"},
	}}}
	eventually(t, "rights", func(ctx context.Context) (bool, error) {
		_, err := driver.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
		return err != nil && strings.Contains(err.Error(), `changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="update" permission`), err
	})
	claim = must(c.Client.ResourceV1().ResourceClaims(ns).UpdateStatus(ctx, claim, metav1.UpdateOptions{}))(t)
	claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "yours.example.com", Pool: "p", Device: "d"}}
	_, err := driver.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `changing status.devices requires resource="resourceclaims/driver", verb="[arbitrary-node:update]" permission`) {
		t.Errorf("spoke for another driver: %v", err)
	}
	claim.Status.Devices[0].Driver = "mine.example.com"
	claim = must(driver.UpdateStatus(ctx, claim, metav1.UpdateOptions{}))(t)
	claim.Status.Allocation = nil
	claim = must(c.Client.ResourceV1().ResourceClaims(ns).UpdateStatus(ctx, claim, metav1.UpdateOptions{}))(t)
	if claim.Status.Devices != nil {
		t.Errorf("status of devices that the claim has no more: %+v", claim.Status.Devices)
	}
}

// A pod's claim is made from its template, and goes with the pod.
func TestClaimsOfPodsComeAndGo(t *testing.T) {
	c, ctx := Start(t), t.Context()
	c.startControllers(t)
	ns := freshNamespace(t, c.Client, "devices")
	must(c.Client.ResourceV1().ResourceClaimTemplates(ns).Create(ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: deviceClaim("").Spec}}, metav1.CreateOptions{}))(t)
	must(c.Client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers:     []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "dev"}}}}},
		ResourceClaims: []corev1.PodResourceClaim{{Name: "dev", ResourceClaimTemplateName: ptr.To("t")}, {Name: "more", ResourceClaimTemplateName: ptr.To("t")}},
	}}, metav1.CreateOptions{}))(t)
	var pod *corev1.Pod
	eventually(t, "names of claims in the pod's status", func(ctx context.Context) (bool, error) {
		var err error
		pod, err = c.Client.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{})
		return err == nil && len(pod.Status.ResourceClaimStatuses) == 2, err
	})
	for _, s := range pod.Status.ResourceClaimStatuses {
		claim := must(c.Client.ResourceV1().ResourceClaims(ns).Get(ctx, *s.ResourceClaimName, metav1.GetOptions{}))(t)
		// As the scheduler would.
		claim.Finalizers = []string{resourcev1.Finalizer}
		claim = must(c.Client.ResourceV1().ResourceClaims(ns).Update(ctx, claim, metav1.UpdateOptions{}))(t)
		claim.Status.Allocation = &resourcev1.AllocationResult{}
		claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p", UID: pod.UID}}
		must(c.Client.ResourceV1().ResourceClaims(ns).UpdateStatus(ctx, claim, metav1.UpdateOptions{}))(t)
	}
	if err := c.Client.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "claims to go", func(ctx context.Context) (bool, error) {
		list, err := c.Client.ResourceV1().ResourceClaims(ns).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
}
