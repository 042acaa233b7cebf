package integration

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

const admitsPods = "resourceRules: [{operations: [CREATE], apiGroups: [example.com], apiVersions: [v1], resources: [things]}]"

// Kinds of core and of the groups around storage, admission and devices: tried
// dry, created, applied to by another manager, given a status, listed and
// deleted.
func TestEveryKindOfStorageAndAdmission(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	for _, test := range []struct {
		group, resource, status string
		cluster                 bool
		manifest                string
	}{
		{"", "persistentvolumes", `{"phase":"Available","message":"m"}`, true, "kind: PersistentVolume\nspec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], hostPath: {path: /data}, claimRef: {name: c, namespace: ns}}"},
		{"", "persistentvolumeclaims", `{"phase":"Bound","capacity":{"storage":"1Gi"}}`, false, "kind: PersistentVolumeClaim\nspec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}"},
		{"", "limitranges", "", false, "kind: LimitRange\nspec: {limits: [{type: PersistentVolumeClaim, max: {storage: 9Gi}}]}"},
		{"", "resourcequotas", `{"hard":{"pods":"3"},"used":{"pods":"1"}}`, false, "kind: ResourceQuota\nspec: {hard: {services.loadbalancers: '3'}}"},
		{"storage.k8s.io", "storageclasses", "", true, "kind: StorageClass\nprovisioner: csi.example.com\nparameters: {a: b}"},
		{"storage.k8s.io", "volumeattributesclasses", "", true, "kind: VolumeAttributesClass\ndriverName: csi.example.com\nparameters: {iops: '1'}"},
		{"storage.k8s.io", "volumeattachments", `{"attached":true}`, true, "kind: VolumeAttachment\nspec: {attacher: csi.example.com, nodeName: node, source: {persistentVolumeName: v}}"},
		{"storage.k8s.io", "csidrivers", "", true, "kind: CSIDriver\nspec: {attachRequired: false}"},
		{"storage.k8s.io", "csinodes", "", true, "kind: CSINode\nspec: {drivers: [{name: csi.example.com, nodeID: node, topologyKeys: [example.com/zone]}]}"},
		{"storage.k8s.io", "csistoragecapacities", "", false, "kind: CSIStorageCapacity\nstorageClassName: c\ncapacity: 3Gi\nnodeTopology: {matchLabels: {a: b}}"},
		{"resource.k8s.io", "deviceclasses", "", true, "kind: DeviceClass\nspec: {selectors: [{cel: {expression: 'device.driver == \"d.example.com\"'}}]}"},
		{"resource.k8s.io", "resourceclaims", `{"allocation":{"devices":{}}}`, false, "kind: ResourceClaim\nspec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}"},
		{"resource.k8s.io", "resourceclaimtemplates", "", false, "kind: ResourceClaimTemplate\nspec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}}"},
		{"resource.k8s.io", "resourceslices", "", true, "kind: ResourceSlice\nspec: {driver: d.example.com, nodeName: node, pool: {name: p, generation: 1, resourceSliceCount: 1}, devices: [{name: d}]}"},
		{"admissionregistration.k8s.io", "validatingwebhookconfigurations", "", true, "kind: ValidatingWebhookConfiguration\nwebhooks: []"},
		{"admissionregistration.k8s.io", "mutatingwebhookconfigurations", "", true, "kind: MutatingWebhookConfiguration\nwebhooks: [{name: a.example.com, sideEffects: None, admissionReviewVersions: [v1], clientConfig: {url: 'https://127.0.0.1:1/'}, rules: [{operations: [CREATE], apiGroups: [example.com], apiVersions: [v1], resources: [things]}]}]"},
		{"admissionregistration.k8s.io", "validatingadmissionpolicies", `{"observedGeneration":1}`, true, "kind: ValidatingAdmissionPolicy\nspec: {matchConstraints: {" + admitsPods + "}, variables: [{name: named, expression: object.metadata.name}], validations: [{expression: variables.named != 'x', messageExpression: variables.named + ' is bad'}]}"},
		{"admissionregistration.k8s.io", "validatingadmissionpolicybindings", "", true, "kind: ValidatingAdmissionPolicyBinding\nspec: {policyName: none, validationActions: [Audit], matchResources: {" + admitsPods + "}}"},
		{"admissionregistration.k8s.io", "mutatingadmissionpolicies", "", true, "kind: MutatingAdmissionPolicy\nspec: {reinvocationPolicy: Never, matchConstraints: {" + admitsPods + "}, mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: \"remove\", path: \"/spec\"}]'}}]}"},
		{"admissionregistration.k8s.io", "mutatingadmissionpolicybindings", "", true, "kind: MutatingAdmissionPolicyBinding\nspec: {policyName: none}"},
		{"flowcontrol.apiserver.k8s.io", "flowschemas", `{"conditions":[{"type":"Dangling","status":"False","lastTransitionTime":"2026-05-01T12:00:00Z"}]}`, true, "kind: FlowSchema\nspec: {priorityLevelConfiguration: {name: catch-all}, rules: [{subjects: [{kind: User, user: {name: u}}], nonResourceRules: [{verbs: ['*'], nonResourceURLs: [/x/*]}]}]}"},
		{"flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations", `{"conditions":[{"type":"a","status":"True","lastTransitionTime":"2026-05-01T12:00:00Z"}]}`, true, "kind: PriorityLevelConfiguration\nspec: {type: Limited, limited: {nominalConcurrencyShares: 1, limitResponse: {type: Queue, queuing: {queues: 8, handSize: 2}}}}"},
	} {
		t.Run(test.resource, func(t *testing.T) {
			gvr := schema.GroupVersionResource{Group: test.group, Version: "v1", Resource: test.resource}
			path := "/apis/" + test.group + "/v1/"
			if test.group == "" {
				path = "/api/v1/"
			}
			all := c.Dynamic.Resource(gvr).Namespace("")
			if !test.cluster {
				all, path = c.Dynamic.Resource(gvr).Namespace(ns), path+"namespaces/"+ns+"/"
			}
			u := object(t, test.manifest)
			u.SetAPIVersion(gvr.GroupVersion().String())
			u.SetName("it-" + ns[len(ns)-5:])
			must(all.Create(ctx, u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))(t)
			if _, err := all.Get(ctx, u.GetName(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Fatalf("a dry run left %v", err)
			}
			created := must(all.Create(ctx, u, metav1.CreateOptions{}))(t)
			got := must(all.Get(ctx, u.GetName(), metav1.GetOptions{}))(t)
			if got.GetResourceVersion() != created.GetResourceVersion() && test.group == "flowcontrol.apiserver.k8s.io" {
				// Flow control has written the status in between.
				got.Object["metadata"], got.Object["status"] = created.Object["metadata"], created.Object["status"]
			}
			if !reflect.DeepEqual(created.Object, got.Object) {
				t.Errorf("created\n%v\nread\n%v", created.Object, got.Object)
			}
			apply := object(t, "kind: "+u.GetKind()+"\nmetadata: {labels: {a: b}}")
			apply.SetAPIVersion(u.GetAPIVersion())
			apply.SetName(u.GetName())
			applied := must(all.Apply(ctx, u.GetName(), apply, metav1.ApplyOptions{FieldManager: "other"}))(t)
			if applied.GetLabels()["a"] != "b" || applied.GetGeneration() != created.GetGeneration() {
				t.Errorf("applied to %v", applied.Object["metadata"])
			}
			if test.status != "" {
				got := must(all.Patch(ctx, u.GetName(), types.MergePatchType, []byte(`{"status":`+test.status+`}`), metav1.PatchOptions{}, "status"))(t)
				var want map[string]any
				if err := json.Unmarshal([]byte(test.status), &want); err != nil {
					t.Fatal(err)
				}
				for key, value := range want {
					if n, ok := value.(float64); ok {
						value = int64(n)
					}
					if got := got.Object["status"].(map[string]any)[key]; !reflect.DeepEqual(got, value) {
						t.Errorf("status.%s is %v, want %v", key, got, value)
					}
				}
			}
			if list := must(all.List(ctx, metav1.ListOptions{LabelSelector: "a=b", FieldSelector: "metadata.name=" + u.GetName()}))(t); len(list.Items) != 1 {
				t.Errorf("listed %d", len(list.Items))
			}
			if table := getTable(t, c, path+test.resource); len(table.Rows) == 0 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
				t.Errorf("table of %d columns: %+v", len(table.ColumnDefinitions), table.Rows)
			}
			if err := all.Delete(ctx, u.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClaimIsBoundAndGrows(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.CoreV1().PersistentVolumeClaims(c.namespace(t))
	class := "none"
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	claim = must(all.Create(ctx, claim, metav1.CreateOptions{}))(t)
	if claim.Status.Phase != corev1.ClaimPending {
		t.Errorf("created as %s", claim.Status.Phase)
	}
	claim.Spec.VolumeName = "v"
	claim = must(all.Update(ctx, claim, metav1.UpdateOptions{}))(t)
	claim.Spec.VolumeName = "w"
	if _, err := all.Update(ctx, claim, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec is immutable after creation") {
		t.Errorf("bound again: %v", err)
	}
	claim.Spec.VolumeName, claim.Status.Phase = "v", corev1.ClaimBound
	claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	claim = must(all.UpdateStatus(ctx, claim, metav1.UpdateOptions{}))(t)
	claim.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Mi")
	if _, err := all.Update(ctx, claim, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "field can not be less than status.capacity") {
		t.Errorf("shrunk: %v", err)
	}
}

// A server makes the priority levels and flow schemas of every cluster.
func TestPriorityLevelsAreThere(t *testing.T) {
	c := Start(t)
	eventually(t, "flow schemas", func(ctx context.Context) (bool, error) {
		got, err := c.Client.FlowcontrolV1().FlowSchemas().Get(ctx, "catch-all", metav1.GetOptions{})
		return err == nil && got.Spec.PriorityLevelConfiguration.Name == "catch-all", err
	})
}

func TestComponentStatuses(t *testing.T) {
	c, ctx := Start(t), t.Context()
	list := must(c.Client.CoreV1().ComponentStatuses().List(ctx, metav1.ListOptions{}))(t)
	if len(list.Items) != 3 {
		t.Errorf("components %+v", list.Items)
	}
	etcd := must(c.Client.CoreV1().ComponentStatuses().Get(ctx, "etcd-0", metav1.GetOptions{}))(t)
	if etcd.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("etcd %+v", etcd.Conditions)
	}
	if table := getTable(t, c, "/api/v1/componentstatuses"); len(table.Rows) != 3 || table.Rows[2].Cells[1] != "Healthy" {
		t.Errorf("table %+v", table.Rows)
	}
}
