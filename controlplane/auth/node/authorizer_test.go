package node

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func secretVolume(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}
}

func pod(namespace, name, node string) *corev1.Pod {
	ref := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			NodeName:           node,
			ServiceAccountName: name + "-account",
			ImagePullSecrets:   []corev1.LocalObjectReference{ref(name + "-pull")},
			Volumes: []corev1.Volume{
				secretVolume(name + "-secret"),
				{Name: "c", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref(name + "-config")}}},
				{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{Secret: &corev1.SecretProjection{LocalObjectReference: ref(name + "-projected")}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref(name + "-projected")}},
				}}}},
				{Name: "csi", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &corev1.LocalObjectReference{Name: name + "-csi"}}}},
				{Name: "claim", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name + "-claim"}}},
				{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			},
			InitContainers: []corev1.Container{{Env: []corev1.EnvVar{
				{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref(name + "-env")}}},
			}}},
			Containers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
				{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref(name + "-envfrom")}},
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref(name + "-envfrom")}},
			}}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: []corev1.EnvVar{
				{ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref(name + "-debug")}}},
			}}}},
		},
	}
}

// request reads "verb group/resource[/subresource][:name] [namespace] [field=value]".
func request(t *testing.T, u user.Info, text string) authorizer.Attributes {
	t.Helper()
	words := strings.Fields(text)
	a := authorizer.AttributesRecord{User: u, Verb: words[0]}
	if strings.HasPrefix(words[1], "/") && strings.Count(words[1], "/") == 1 {
		a.Path = words[1]
		return a
	}
	a.ResourceRequest = true
	path, name, _ := strings.Cut(words[1], ":")
	parts := strings.Split(path, "/")
	a.APIGroup, a.Resource, a.Name = strings.TrimPrefix(parts[0], "core"), parts[1], name
	if len(parts) > 2 {
		a.Subresource = parts[2]
	}
	for _, word := range words[2:] {
		if strings.Contains(word, "=") {
			selector, err := fields.ParseSelector(word)
			if err != nil {
				t.Fatal(err)
			}
			a.FieldSelectorRequirements = selector.Requirements()
			continue
		}
		a.Namespace = word
	}
	return a
}

func start(t *testing.T, client *fake.Clientset) authorizer.Authorizer {
	t.Helper()
	factory := informers.NewSharedInformerFactory(client, 0)
	a := NewAuthorizer(factory)
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.WaitForCacheSync(ctx.Done())
	return a
}

func TestAuthorize(t *testing.T) {
	mirror := pod("ns", "mirror", "one")
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	devices := pod("ns", "d", "one")
	devices.Spec.ResourceClaims = []corev1.PodResourceClaim{
		{Name: "own", ResourceClaimName: ptr.To("d-claim")}, {Name: "made", ResourceClaimTemplateName: ptr.To("t")}, {Name: "waits", ResourceClaimTemplateName: ptr.To("w")}}
	devices.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "made", ResourceClaimName: ptr.To("d-made")}}
	devices.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "d-extended"}
	slice := func(name, node string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node}}
	}
	volume := func(name, claim string) *corev1.PersistentVolume {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if claim != "" {
			v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: claim}
		}
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{NodeStageSecretRef: &corev1.SecretReference{Namespace: "drivers", Name: name + "-stage"}}
		return v
	}
	attachment := func(name, node string) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{NodeName: node}}
	}
	a := start(t, fake.NewClientset(volume("v-a", "a-claim"), volume("v-b", "b-claim"), volume("v-free", ""), attachment("at-one", "one"), attachment("at-two", "two"),
		pod("ns", "a", "one"), pod("ns", "b", "two"), pod("other", "c", "one"), pod("ns", "waiting", ""), mirror,
		devices, slice("s-one", "one"), slice("s-two", "two"), &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s-all"}}))
	for _, test := range []struct {
		request string
		allowed bool
		reason  string
	}{
		{"get core/secrets:a-secret ns", true, ""},
		{"watch core/secrets:a-secret ns", true, ""},
		{"list core/secrets:a-pull ns", true, ""},
		{"get core/secrets:a-projected ns", true, ""},
		{"get core/secrets:a-csi ns", true, ""},
		{"get core/secrets:a-env ns", true, ""},
		{"get core/secrets:a-envfrom ns", true, ""},
		{"get core/secrets:c-secret other", true, ""},
		{"get core/secrets:c-secret ns", false, "no relationship found between node 'one' and this object"},
		{"get core/secrets:b-secret ns", false, "no relationship found between node 'one' and this object"},
		{"get core/secrets:waiting-secret ns", false, "no relationship found between node 'one' and this object"},
		{"get core/secrets:mirror-secret ns", false, "no relationship found between node 'one' and this object"},
		{"list core/secrets ns", false, "No Object name found"},
		{"list core/secrets", false, "can only read namespaced object of this type"},
		{"update core/secrets:a-secret ns", false, "can only read resources of this type"},
		{"get core/configmaps:a-config ns", true, ""},
		{"get core/configmaps:a-projected ns", true, ""},
		{"get core/configmaps:a-envfrom ns", true, ""},
		{"get core/configmaps:a-debug ns", true, ""},
		{"get core/configmaps:a-secret ns", false, ""},
		{"get core/serviceaccounts:a-account ns", true, ""},
		{"create core/serviceaccounts/token:a-account ns", true, ""},
		{"create core/serviceaccounts/token:b-account ns", false, ""},
		{"create core/serviceaccounts ns", false, "can only create tokens for individual service accounts"},
		{"get core/persistentvolumeclaims:a-claim ns", true, ""},
		{"get core/persistentvolumeclaims:a-own ns", true, ""},
		{"patch core/persistentvolumeclaims/status:a-claim ns", true, ""},
		{"list core/persistentvolumeclaims ns", false, "can only get individual resources of this type"},
		{"get core/pods:a ns", true, ""},
		{"get core/pods:mirror ns", true, ""},
		{"get core/pods:b ns", false, ""},
		{"watch core/pods spec.nodeName=one", true, ""},
		{"list core/pods spec.nodeName=two", false, "can only list/watch pods with spec.nodeName field selector"},
		{"list core/pods", false, "can only list/watch pods with spec.nodeName field selector"},
		{"watch core/pods:a ns", true, ""},
		{"patch core/pods/status:a ns", true, ""},
		{"create core/pods/eviction:a ns", true, ""},
		{"create core/pods/exec:a ns", false, ""},
		{"update core/pods:a ns", false, ""},
		{"get core/nodes:one", true, ""},
		{"watch core/nodes:one", true, ""},
		{"get core/nodes:two", false, "node 'one' cannot read 'two', only its own Node object"},
		{"list core/nodes", false, "node 'one' cannot read all nodes, only its own Node object"},
		{"patch core/nodes/status:one", true, ""},
		{"delete core/nodes:one", false, ""},
		{"update coordination.k8s.io/leases:one kube-node-lease", true, ""},
		{"create coordination.k8s.io/leases kube-node-lease", true, ""},
		{"update coordination.k8s.io/leases:two kube-node-lease", false, "can only access node lease with the same name as the requesting node"},
		{"update coordination.k8s.io/leases:one kube-system", false, ""},
		{"list coordination.k8s.io/leases kube-node-lease", false, ""},
		{"update storage.k8s.io/csinodes:one", true, ""},
		{"update storage.k8s.io/csinodes:two", false, ""},
		{"get resource.k8s.io/resourceclaims:d-claim ns", true, ""},
		{"get resource.k8s.io/resourceclaims:d-made ns", true, ""},
		{"get resource.k8s.io/resourceclaims:d-extended ns", true, ""},
		{"get resource.k8s.io/resourceclaims:w ns", false, "no relationship found between node 'one' and this object"},
		{"get resource.k8s.io/resourceclaims:d-claim other", false, "no relationship found between node 'one' and this object"},
		{"list resource.k8s.io/resourceclaims:d-claim ns", false, "can only get individual resources of this type"},
		{"get resource.k8s.io/resourceclaims/status:d-claim ns", false, "cannot get subresource"},
		{"create resource.k8s.io/resourceslices", true, ""},
		{"update resource.k8s.io/resourceslices:s-one", true, ""},
		{"delete resource.k8s.io/resourceslices:s-two", false, "no relationship found between node 'one' and this object"},
		{"get resource.k8s.io/resourceslices:s-all", false, ""},
		{"deletecollection resource.k8s.io/resourceslices spec.nodeName=one", true, ""},
		{"list resource.k8s.io/resourceslices spec.nodeName=two", false, "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"watch resource.k8s.io/resourceslices", false, "can only list/watch/deletecollection resourceslices with nodeName field selector"},
		{"create certificates.k8s.io/certificatesigningrequests", true, ""},
		{"get certificates.k8s.io/certificatesigningrequests:x", true, ""},
		{"create core/events ns", true, ""},
		{"watch core/services", true, ""},
		{"watch node.k8s.io/runtimeclasses", true, ""},
		{"create authorization.k8s.io/subjectaccessreviews", true, ""},
		{"create apps/deployments ns", false, ""},
		{"get core/persistentvolumes:x", false, ""},
		{"get core/persistentvolumes:v-a", true, ""},
		{"get core/persistentvolumes:v-b", false, "no relationship found between node 'one' and this object"},
		{"get core/persistentvolumes:v-free", false, ""},
		{"list core/persistentvolumes", false, "can only get individual resources of this type"},
		{"update core/persistentvolumes:v-a", false, ""},
		{"get core/secrets:v-a-stage drivers", true, ""},
		{"get core/secrets:v-b-stage drivers", false, ""},
		{"update core/secrets:v-a-stage drivers", false, ""},
		{"get storage.k8s.io/volumeattachments:at-one", true, ""},
		{"get storage.k8s.io/volumeattachments:at-two", false, ""},
		{"get storage.k8s.io/volumeattachments/status:at-one", false, "cannot get subresource"},
		{"get /healthz", false, ""},
	} {
		t.Run(test.request, func(t *testing.T) {
			u := &user.DefaultInfo{Name: "system:node:one", Groups: []string{"system:nodes"}}
			decision, reason, err := a.Authorize(context.Background(), request(t, u, test.request))
			if err != nil || (decision == authorizer.DecisionAllow) != test.allowed {
				t.Errorf("allowed %v (%q, %v), want %v", decision == authorizer.DecisionAllow, reason, err, test.allowed)
			}
			if decision == authorizer.DecisionDeny {
				t.Error("denied: other authorizers must be asked too")
			}
			if test.reason != "" && reason != test.reason {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
		})
	}
}

func TestOthersAreNotNodes(t *testing.T) {
	a := start(t, fake.NewClientset(pod("ns", "a", "one"), pod("ns", "b", "")))
	for _, u := range []*user.DefaultInfo{
		{Name: "system:node:one"},
		{Name: "one", Groups: []string{"system:nodes"}},
		{Name: "system:node:", Groups: []string{"system:nodes"}},
	} {
		for _, text := range []string{"get core/secrets:a-secret ns", "get core/secrets:b-secret ns", "watch core/services", "get core/nodes:one"} {
			if decision, _, err := a.Authorize(context.Background(), request(t, u, text)); err != nil || decision != authorizer.DecisionNoOpinion {
				t.Errorf("%v %s: decision %v, %v", u, text, decision, err)
			}
		}
	}
}

// A node's agent may ask before the authorizer has seen the pod; from the
// moment it has, and until the pod is gone, the answer is yes.
func TestPodAppearsAndGoes(t *testing.T) {
	ctx := context.Background()
	client := fake.NewClientset()
	a := start(t, client)
	u := &user.DefaultInfo{Name: "system:node:one", Groups: []string{"system:nodes"}}
	is := func(want bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			decision, _, err := a.Authorize(ctx, request(t, u, "get core/secrets:a-secret ns"))
			if err != nil {
				t.Fatal(err)
			}
			if (decision == authorizer.DecisionAllow) == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("allowed is not %v", want)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	is(false)
	p := pod("ns", "a", "")
	if _, err := client.CoreV1().Pods("ns").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	is(false)
	p.Spec.NodeName = "one"
	if _, err := client.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	is(true)
	if err := client.CoreV1().Pods("ns").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	is(false)
}
