package integration

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	"k8s.io/client-go/util/retry"
)

const podTemplate = `
    metadata: {labels: {app: x}}
    spec: {containers: [{name: c, image: i}]}`

// Every kind of the groups beside core is created, read, patched (in its
// status too, where it has one) and deleted.
func TestEveryKindOfTheGroups(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	for _, test := range []struct {
		group, version, resource, status string
		cluster                          bool
		manifest                         string
	}{
		{"apps", "v1", "deployments", `{"observedGeneration":1}`, false, "kind: Deployment\nspec:\n  selector: {matchLabels: {app: x}}\n  template:" + podTemplate},
		{"apps", "v1", "replicasets", `{"replicas":1}`, false, "kind: ReplicaSet\nspec:\n  selector: {matchLabels: {app: x}}\n  template:" + podTemplate},
		{"apps", "v1", "statefulsets", `{"replicas":1}`, false, "kind: StatefulSet\nspec:\n  serviceName: s\n  selector: {matchLabels: {app: x}}\n  volumeClaimTemplates: [{metadata: {name: d}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]\n  template:" + podTemplate},
		{"apps", "v1", "daemonsets", `{"numberReady":1}`, false, "kind: DaemonSet\nspec:\n  selector: {matchLabels: {app: x}}\n  template:" + podTemplate},
		{"apps", "v1", "controllerrevisions", "", false, "kind: ControllerRevision\nrevision: 1\ndata: {a: b}"},
		{"autoscaling", "v2", "horizontalpodautoscalers", `{"currentReplicas":2}`, false, "kind: HorizontalPodAutoscaler\nspec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, maxReplicas: 3}"},
		{"autoscaling", "v1", "horizontalpodautoscalers", `{"currentReplicas":2}`, false, "kind: HorizontalPodAutoscaler\nspec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}, maxReplicas: 3}"},
		{"batch", "v1", "jobs", `{"active":1}`, false, "kind: Job\nspec:\n  template: {metadata: {labels: {app: x}}, spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}"},
		{"batch", "v1", "cronjobs", "", false, "kind: CronJob\nspec:\n  schedule: '*/5 * * * *'\n  timeZone: Europe/Zurich\n  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}"},
		{"coordination.k8s.io", "v1", "leases", "", false, "kind: Lease\nspec: {holderIdentity: me, leaseDurationSeconds: 15, renewTime: '2026-05-01T12:00:00.000001Z'}"},
		{"networking.k8s.io", "v1", "ingresses", "", false, "kind: Ingress\nspec: {defaultBackend: {service: {name: s, port: {number: 80}}}}"},
		{"networking.k8s.io", "v1", "ingressclasses", "", true, "kind: IngressClass\nspec: {controller: example.com/c, parameters: {kind: K, name: some}}"},
		{"networking.k8s.io", "v1", "networkpolicies", "", false, "kind: NetworkPolicy\nspec: {podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 53}]}]}"},
		{"node.k8s.io", "v1", "runtimeclasses", "", true, "kind: RuntimeClass\nhandler: runc\noverhead: {podFixed: {cpu: 10m}}\nscheduling: {nodeSelector: {a: b}}"},
		{"policy", "v1", "poddisruptionbudgets", `{"expectedPods":3}`, false, "kind: PodDisruptionBudget\nspec: {minAvailable: 50%, selector: {matchLabels: {app: x}}}"},
		{"rbac.authorization.k8s.io", "v1", "roles", "", false, "kind: Role\nrules: [{apiGroups: [''], resources: [pods], verbs: [get]}]"},
		{"rbac.authorization.k8s.io", "v1", "rolebindings", "", false, "kind: RoleBinding\nroleRef: {kind: ClusterRole, name: view}\nsubjects: [{kind: User, name: nobody-at-all}]"},
		{"rbac.authorization.k8s.io", "v1", "clusterroles", "", true, "kind: ClusterRole\nrules: [{nonResourceURLs: [/x], verbs: [get]}]"},
		{"rbac.authorization.k8s.io", "v1", "clusterrolebindings", "", true, "kind: ClusterRoleBinding\nroleRef: {kind: ClusterRole, name: view}\nsubjects: []"},
		{"scheduling.k8s.io", "v1", "priorityclasses", "", true, "kind: PriorityClass\nvalue: 7"},
		{"events.k8s.io", "v1", "events", "", false, "kind: Event\nregarding: {kind: Pod, name: p, namespace: " + ns + "}\neventTime: '2026-05-01T12:00:00.000001Z'\nreportingController: example.com/c\nreportingInstance: i\naction: A\nreason: R\ntype: Normal"},
	} {
		t.Run(test.resource+"."+test.group, func(t *testing.T) {
			gvr := schema.GroupVersionResource{Group: test.group, Version: test.version, Resource: test.resource}
			all := c.Dynamic.Resource(gvr).Namespace(ns)
			if test.cluster {
				all = c.Dynamic.Resource(gvr).Namespace("")
			}
			u := object(t, test.manifest)
			u.SetAPIVersion(gvr.GroupVersion().String())
			u.SetName("it-" + ns[len(ns)-5:])
			created := must(all.Create(ctx, u, metav1.CreateOptions{}))(t)
			got := must(all.Get(ctx, u.GetName(), metav1.GetOptions{}))(t)
			if !reflect.DeepEqual(created.Object, got.Object) {
				t.Errorf("created\n%v\nread\n%v", created.Object, got.Object)
			}
			if got.GetKind() != u.GetKind() || got.GetAPIVersion() != u.GetAPIVersion() || got.GetUID() == "" {
				t.Errorf("read as %s %s", got.GetAPIVersion(), got.GetKind())
			}
			patched := must(all.Patch(ctx, u.GetName(), types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}))(t)
			if patched.GetLabels()["a"] != "b" {
				t.Errorf("labels %v", patched.GetLabels())
			}
			if test.status != "" {
				status := must(all.Patch(ctx, u.GetName(), types.MergePatchType, []byte(`{"status":`+test.status+`}`), metav1.PatchOptions{}, "status"))(t)
				var want map[string]any
				if err := json.Unmarshal([]byte(test.status), &want); err != nil {
					t.Fatal(err)
				}
				for key, value := range want {
					if got := status.Object["status"].(map[string]any)[key]; got != int64(value.(float64)) {
						t.Errorf("status.%s is %v, want %v", key, got, value)
					}
				}
			}
			if list := must(all.List(ctx, metav1.ListOptions{LabelSelector: "a=b", FieldSelector: "metadata.name=" + u.GetName()}))(t); len(list.Items) != 1 {
				t.Errorf("listed %d", len(list.Items))
			}
			path := "/apis/" + test.group + "/" + test.version + "/namespaces/" + ns + "/" + test.resource
			if test.cluster {
				path = "/apis/" + test.group + "/" + test.version + "/" + test.resource
			}
			if table := getTable(t, c, path); len(table.Rows) == 0 || len(table.Rows[0].Cells) != len(table.ColumnDefinitions) {
				t.Errorf("table of %d columns: %+v", len(table.ColumnDefinitions), table.Rows)
			}
			if err := all.Delete(ctx, u.GetName(), metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestScaleSubresource(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.AppsV1().Deployments(c.namespace(t))
	d := &appsv1.Deployment{}
	d.Name = "d"
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	d.Spec.Template.Labels = map[string]string{"app": "x"}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	must(all.Create(ctx, d, metav1.CreateOptions{}))(t)

	scale := must(all.GetScale(ctx, "d", metav1.GetOptions{}))(t)
	if scale.Kind != "" && scale.Kind != "Scale" || scale.Spec.Replicas != 1 || scale.Status.Selector != "app=x" {
		t.Errorf("scale %+v", scale)
	}
	scale.Spec.Replicas = 5
	if scale = must(all.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}))(t); scale.Spec.Replicas != 5 {
		t.Errorf("scaled to %d", scale.Spec.Replicas)
	}
	stale := scale.DeepCopy()
	stale.ResourceVersion, stale.Spec.Replicas = "1", 6
	if _, err := all.UpdateScale(ctx, "d", stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("stale scale: %v", err)
	}
	scale.Spec.Replicas = -1
	if _, err := all.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("negative scale: %v", err)
	}
	got := must(all.Get(ctx, "d", metav1.GetOptions{}))(t)
	if *got.Spec.Replicas != 5 || got.Generation != 2 {
		t.Errorf("%d replicas, generation %d", *got.Spec.Replicas, got.Generation)
	}
	// Who scaled owns the replicas: another's apply conflicts.
	_, err := all.Apply(ctx, applyapps.Deployment("d", got.Namespace).WithSpec(applyapps.DeploymentSpec().WithReplicas(2)), metav1.ApplyOptions{FieldManager: "other"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".spec.replicas") {
		t.Errorf("apply of other replicas: %v", err)
	}
}

// Status and spec each have their own way in.
func TestDeploymentStatusAndSpec(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.AppsV1().Deployments(c.namespace(t))
	d := &appsv1.Deployment{Status: appsv1.DeploymentStatus{Replicas: 9}}
	d.Name = "d"
	d.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	d.Spec.Template.Labels = map[string]string{"app": "x"}
	d.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	d = must(all.Create(ctx, d, metav1.CreateOptions{}))(t)
	if d.Status.Replicas != 0 || d.Generation != 1 {
		t.Errorf("created with status %+v, generation %d", d.Status, d.Generation)
	}
	d.Status.Replicas, d.Spec.MinReadySeconds = 3, 30
	d = must(all.UpdateStatus(ctx, d, metav1.UpdateOptions{}))(t)
	if d.Status.Replicas != 3 || d.Spec.MinReadySeconds != 0 || d.Generation != 1 {
		t.Errorf("status update made %+v, minReadySeconds %d, generation %d", d.Status, d.Spec.MinReadySeconds, d.Generation)
	}
	d.Status.Replicas, d.Spec.MinReadySeconds = 4, 30
	d = must(all.Update(ctx, d, metav1.UpdateOptions{}))(t)
	if d.Status.Replicas != 3 || d.Spec.MinReadySeconds != 30 || d.Generation != 2 {
		t.Errorf("update made %+v, minReadySeconds %d, generation %d", d.Status, d.Spec.MinReadySeconds, d.Generation)
	}
}

func TestEventsOfBothGroupsAreTheSame(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	newer := c.Client.EventsV1().Events(ns)
	w := must(newer.Watch(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p"}))(t)
	defer w.Stop()
	event := &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, EventTime: metav1.NowMicro(), ReportingController: "example.com/c", ReportingInstance: "i",
		Action: "Act", Reason: "Because", Note: "words", Type: "Normal", Regarding: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "p"},
	}
	must(newer.Create(ctx, event, metav1.CreateOptions{}))(t)
	old := must(c.Client.CoreV1().Events(ns).Get(ctx, "e", metav1.GetOptions{}))(t)
	if old.Message != "words" || old.InvolvedObject.Name != "p" || old.ReportingController != "example.com/c" {
		t.Errorf("core reads %+v", old)
	}
	if seen := (<-w.ResultChan()).Object.(*eventsv1.Event); seen.Note != "words" {
		t.Errorf("watched %+v", seen)
	}
	series := []byte(`{"series":{"count":2,"lastObservedTime":"2026-05-01T12:00:00.000001Z"}}`)
	if got := must(newer.Patch(ctx, "e", types.StrategicMergePatchType, series, metav1.PatchOptions{}))(t); got.Series.Count != 2 {
		t.Errorf("series %+v", got.Series)
	}
	if _, err := newer.Patch(ctx, "e", types.MergePatchType, []byte(`{"note":"other"}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("another note: %v", err)
	}
	event.Name, event.Type = "odd", "Odd"
	if _, err := newer.Create(ctx, event, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "has invalid value: Odd") {
		t.Errorf("odd type: %v", err)
	}
	if list := must(newer.List(ctx, metav1.ListOptions{FieldSelector: "regarding.kind=Pod,reason=Because"}))(t); len(list.Items) != 1 || list.Items[0].Note != "words" {
		t.Errorf("list %+v", list.Items)
	}
	if err := newer.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client.CoreV1().Events(ns).Get(ctx, "e", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("deleted event: %v", err)
	}
}

// Two holders race for a lease; one of them wins each round.
func TestLeaseIsTakenOnce(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.CoordinationV1().Leases(c.namespace(t))
	l := must(all.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "l"}}, metav1.CreateOptions{}))(t)
	take := func(who string) error {
		mine := l.DeepCopy()
		mine.Spec.HolderIdentity = &who
		_, err := all.Update(ctx, mine, metav1.UpdateOptions{})
		return err
	}
	if err := take("a"); err != nil {
		t.Fatal(err)
	}
	if err := take("b"); !apierrors.IsConflict(err) {
		t.Errorf("second holder: %v", err)
	}
	l.ResourceVersion = ""
	if err := take("c"); !apierrors.IsInvalid(err) {
		t.Errorf("holder that looks away: %v", err)
	}
}

func TestPriorityOfPods(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	class := must(c.Client.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "it-"}, Value: 42}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = c.Client.SchedulingV1().PriorityClasses().Delete(context.Background(), class.Name, metav1.DeleteOptions{})
	})
	pod := simplePod("p")
	pod.Spec.PriorityClassName = class.Name
	var got *corev1.Pod
	// Admission's informer has to see the class first.
	err := retry.OnError(retry.DefaultBackoff, apierrors.IsForbidden, func() (err error) {
		got, err = c.Client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	if err != nil || *got.Spec.Priority != 42 || len(got.Spec.Tolerations) != 2 || got.Spec.ServiceAccountName != "default" {
		t.Errorf("pod %+v, %v", got, err)
	}
	pod.Name, pod.Spec.PriorityClassName = "q", "gone"
	if _, err := c.Client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no PriorityClass with name gone was found") {
		t.Errorf("unknown class: %v", err)
	}
}
