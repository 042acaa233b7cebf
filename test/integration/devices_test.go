package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
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

// More pods want devices than there are: as many run as can, each with devices
// of its own, and the others follow when devices come free.
func TestPodsShareDevicesOut(t *testing.T) {
	c, ctx := Start(t), t.Context()
	c.startControllers(t)
	ns := freshNamespace(t, c.Client, "shared-out")
	must(c.Client.ResourceV1().DeviceClasses().Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "` + ns + `.example.com" && device.attributes["` + ns + `.example.com"].good`}}},
	}}, metav1.CreateOptions{}))(t)
	const nodes, each, pods = 2, 2, 6
	for i := range nodes {
		name := fmt.Sprint(ns, "-", i)
		must(c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}}}, metav1.CreateOptions{}))(t)
		slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
			Driver: ns + ".example.com", NodeName: &name, Pool: resourcev1.ResourcePool{Name: name, ResourceSliceCount: 1}}}
		for j := range each + 1 {
			slice.Spec.Devices = append(slice.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("d", j),
				Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"good": {BoolValue: ptr.To(j < each)}}})
		}
		must(c.Client.ResourceV1().ResourceSlices().Create(ctx, slice, metav1.CreateOptions{}))(t)
		t.Cleanup(func() {
			_ = c.Client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
			_ = c.Client.ResourceV1().ResourceSlices().Delete(context.Background(), name, metav1.DeleteOptions{})
		})
	}
	template := deviceClaim("").Spec
	template.Devices.Requests[0].Exactly.DeviceClassName = ns
	must(c.Client.ResourceV1().ResourceClaimTemplates(ns).Create(ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: template}}, metav1.CreateOptions{}))(t)
	c.startScheduler(t)
	for i := range pods {
		must(c.Client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}, Spec: corev1.PodSpec{
			Containers:     []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "dev"}}}}},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "dev", ResourceClaimTemplateName: ptr.To("t")}},
		}}, metav1.CreateOptions{}))(t)
	}
	// bound are the pods with nodes; each has its own device there.
	bound := func(ctx context.Context) ([]corev1.Pod, error) {
		list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		var found []corev1.Pod
		owner := map[string]string{}
		for _, pod := range list.Items {
			if pod.Spec.NodeName == "" {
				continue
			}
			found = append(found, pod)
			claim, err := c.Client.ResourceV1().ResourceClaims(ns).Get(ctx, *pod.Status.ResourceClaimStatuses[0].ResourceClaimName, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			if claim.Status.Allocation == nil || len(claim.Status.ReservedFor) != 1 || claim.Status.ReservedFor[0].UID != pod.UID {
				t.Fatalf("pod %s is bound with a claim of status %+v", pod.Name, claim.Status)
			}
			device := claim.Status.Allocation.Devices.Results[0]
			if key := device.Pool + "/" + device.Device; owner[key] != "" || device.Pool != pod.Spec.NodeName || device.Device == fmt.Sprint("d", each) {
				t.Fatalf("pod %s on %s has %s, as has %q", pod.Name, pod.Spec.NodeName, key, owner[key])
			} else {
				owner[key] = pod.Name
			}
		}
		return found, nil
	}
	var running []corev1.Pod
	eventually(t, "all devices to be used", func(ctx context.Context) (bool, error) {
		var err error
		running, err = bound(ctx)
		return len(running) == nodes*each, err
	})
	eventually(t, "a word on why the others wait", func(ctx context.Context) (bool, error) {
		list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName="})
		waiting := 0
		for _, pod := range list.Items {
			if len(pod.Status.Conditions) > 0 && strings.Contains(pod.Status.Conditions[0].Message, "cannot allocate all claims") {
				waiting++
			}
		}
		return waiting == pods-nodes*each, err
	})
	for _, pod := range running[:2] {
		if err := c.Client.CoreV1().Pods(ns).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the others to follow", func(ctx context.Context) (bool, error) {
		running, err := bound(ctx)
		return len(running) == pods-2, err
	})
}

// Pods ask for devices by the name of an extended resource alone: they are given
// devices by a claim that is made for them, counted once by quotas, and that goes
// with them.
func TestExtendedResourcesAreDevices(t *testing.T) {
	c, ctx := Start(t), t.Context()
	c.startControllers(t)
	ns := freshNamespace(t, c.Client, "extended")
	driver, gpu := ns+".example.com", corev1.ResourceName(ns+".example.com/gpu")
	must(c.Client.ResourceV1().DeviceClasses().Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: resourcev1.DeviceClassSpec{
		Selectors:            []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "` + driver + `"`}}},
		ExtendedResourceName: ptr.To(string(gpu)),
	}}, metav1.CreateOptions{}))(t)
	must(c.Client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: ns}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}}}, metav1.CreateOptions{}))(t)
	must(c.Client.ResourceV1().ResourceSlices().Create(ctx, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, NodeName: &ns, Pool: resourcev1.ResourcePool{Name: ns, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}, {Name: "two"}},
	}}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = c.Client.CoreV1().Nodes().Delete(context.Background(), ns, metav1.DeleteOptions{})
		_ = c.Client.ResourceV1().ResourceSlices().Delete(context.Background(), ns, metav1.DeleteOptions{})
		_ = c.Client.ResourceV1().DeviceClasses().Delete(context.Background(), ns, metav1.DeleteOptions{})
	})
	counted := []corev1.ResourceName{"requests." + gpu, corev1.ResourceName("requests.deviceclass.resource.kubernetes.io/" + ns), corev1.ResourceName(ns + corev1.ResourceClaimsPerClass), corev1.ResourcePods}
	hard := corev1.ResourceList{}
	for _, name := range counted {
		hard[name] = resource.MustParse("3")
	}
	must(c.Client.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{}))(t)
	eventually(t, "the quota to count", func(ctx context.Context) (bool, error) {
		quota, err := c.Client.CoreV1().ResourceQuotas(ns).Get(ctx, "q", metav1.GetOptions{})
		return err == nil && len(quota.Status.Used) == len(hard), err
	})
	c.startScheduler(t)
	for _, name := range []string{"a", "b", "c"} {
		asks := corev1.ResourceList{gpu: resource.MustParse("1")}
		must(c.Client.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: asks, Limits: asks}}},
		}}, metav1.CreateOptions{}))(t)
	}
	// given is the pods with a node, of which each has another device.
	given := func(ctx context.Context) (map[string]string, error) {
		list, err := c.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		devices := map[string]string{}
		for _, pod := range list.Items {
			if pod.Spec.NodeName == "" {
				continue
			}
			status := pod.Status.ExtendedResourceClaimStatus
			if status == nil || len(status.RequestMappings) != 1 || status.RequestMappings[0] != (corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: string(gpu), RequestName: "container-0-request-0"}) {
				t.Fatalf("pod %s is bound with %+v", pod.Name, status)
			}
			claim, err := c.Client.ResourceV1().ResourceClaims(ns).Get(ctx, status.ResourceClaimName, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			if claim.Status.Allocation == nil || len(claim.Status.ReservedFor) != 1 || claim.Status.ReservedFor[0].UID != pod.UID || !strings.HasPrefix(claim.Name, pod.Name+"-extended-resources-") {
				t.Fatalf("pod %s is bound with claim %+v", pod.Name, claim)
			}
			device := claim.Status.Allocation.Devices.Results[0].Device
			if devices[device] != "" {
				t.Fatalf("pods %s and %s have %s", pod.Name, devices[device], device)
			}
			devices[device] = pod.Name
		}
		return devices, nil
	}
	var devices map[string]string
	eventually(t, "two of three to be given a device", func(ctx context.Context) (_ bool, err error) {
		devices, err = given(ctx)
		return len(devices) == 2, err
	})
	eventually(t, "the quota to count each device once", func(ctx context.Context) (bool, error) {
		quota, err := c.Client.CoreV1().ResourceQuotas(ns).Get(ctx, "q", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		var used []int64
		for _, name := range counted {
			quantity := quota.Status.Used[name]
			used = append(used, quantity.Value())
		}
		// Three pods ask for one each; two claims are made.
		return slices.Equal(used, []int64{3, 2, 2, 3}), fmt.Errorf("used %v", used)
	})
	if err := c.Client.CoreV1().Pods(ns).Delete(ctx, devices["one"], metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the third to have what the first had", func(ctx context.Context) (bool, error) {
		now, err := given(ctx)
		return err == nil && len(now) == 2 && now["two"] == devices["two"] && now["one"] != devices["one"], err
	})
	eventually(t, "the first one's claim to go", func(ctx context.Context) (bool, error) {
		list, err := c.Client.ResourceV1().ResourceClaims(ns).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 2, err
	})
}
