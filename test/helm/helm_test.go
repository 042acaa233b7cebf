package helm

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart"
	"helm.sh/helm/v4/pkg/chart/loader"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	release "helm.sh/helm/v4/pkg/release/v1"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"clusterctl/test/fixture"
)

const (
	namespace = "charts"
	name      = "sample"
)

var greetings = schema.GroupVersionResource{Group: "helm.example.com", Version: "v1", Resource: "greetings"}

type values = map[string]any

// user is somebody with Helm.
type user struct {
	config  *action.Configuration
	chart   chart.Charter
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

func newUser(t *testing.T) *user {
	t.Helper()
	admin := fixture.StartControlPlane(t, filepath.Join("..", ".."))
	u := &user{config: action.NewConfiguration(), client: kubernetes.NewForConfigOrDie(admin), dynamic: dynamic.NewForConfigOrDie(admin)}
	fixture.PlayNode(t, u.client)
	kubeconfig, ns := filepath.Join(t.TempDir(), "kubeconfig"), namespace
	if err := clientcmd.WriteToFile(fixture.Kubeconfig(admin, namespace), kubeconfig); err != nil {
		t.Fatal(err)
	}
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig, flags.Namespace = &kubeconfig, &ns
	if err := u.config.Init(flags, namespace, "secret"); err != nil {
		t.Fatal(err)
	}
	var err error
	if u.chart, err = loader.Load(filepath.Join("testdata", "chart")); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *user) install(t *testing.T, v values) *release.Release {
	t.Helper()
	install := action.NewInstall(u.config)
	install.ReleaseName, install.Namespace, install.CreateNamespace = name, namespace, true
	install.WaitStrategy, install.WaitForJobs, install.Timeout = kube.StatusWatcherStrategy, true, fixture.Patience
	r, err := install.Run(u.chart, v)
	if err != nil {
		t.Fatalf("install: %v", err)
	}
	return r.(*release.Release)
}

func (u *user) upgrade(v values) (*release.Release, error) {
	upgrade := action.NewUpgrade(u.config)
	upgrade.Namespace = namespace
	upgrade.WaitStrategy, upgrade.WaitForJobs, upgrade.Timeout = kube.StatusWatcherStrategy, true, fixture.Patience
	r, err := upgrade.Run(name, u.chart, v)
	made, _ := r.(*release.Release)
	return made, err
}

// is checks everything that the chart makes.
func (u *user) is(t *testing.T, replicas int32, message string, budget bool) {
	t.Helper()
	deployment, err := u.client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if s := deployment.Status; *deployment.Spec.Replicas != replicas || s.AvailableReplicas != replicas || s.UpdatedReplicas != replicas || s.ObservedGeneration != deployment.Generation ||
		deployment.Spec.Template.Annotations["message"] != message {
		t.Errorf("deployment of %d with %q: status %+v; want %d of %q, available", *deployment.Spec.Replicas, deployment.Spec.Template.Annotations["message"], s, replicas, message)
	}
	if !slices.ContainsFunc(deployment.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Operation == metav1.ManagedFieldsOperationApply
	}) {
		t.Errorf("nobody applied the deployment: %+v", deployment.ManagedFields)
	}
	config, err := u.client.CoreV1().ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || config.Data["message"] != message {
		t.Errorf("config map %+v, %v; want %q", config, err, message)
	}
	greeting, err := u.dynamic.Resource(greetings).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if spec := greeting.Object["spec"].(map[string]any); spec["text"] != message || spec["times"] != int64(2) {
		t.Errorf("custom object %v; want %q and the default", spec, message)
	}
	_, err = u.client.PolicyV1().PodDisruptionBudgets(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) || budget != (err == nil) {
		t.Errorf("disruption budget: %v; want it: %t", err, budget)
	}
	slices, err := u.client.DiscoveryV1().EndpointSlices(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + name})
	if err != nil || len(slices.Items) == 0 {
		t.Errorf("endpoints of the service: %v, %v", slices, err)
	}
}

// ran checks that a hook ran to its end.
func ran(t *testing.T, r *release.Release, event release.HookEvent) {
	t.Helper()
	for _, hook := range r.Hooks {
		if slices.Contains(hook.Events, event) {
			if hook.LastRun.Phase != release.HookPhaseSucceeded {
				t.Errorf("hook %s: %+v", hook.Name, hook.LastRun)
			}
			return
		}
	}
	t.Errorf("no hook %s", event)
}

func (u *user) job(t *testing.T, event string) *batchv1.Job {
	t.Helper()
	job, err := u.client.BatchV1().Jobs(namespace).Get(t.Context(), name+"-"+event, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return job
}

// TestLifeOfARelease is one test, since each step begins where the last ended.
func TestLifeOfARelease(t *testing.T) {
	u := newUser(t)

	first := u.install(t, values{})
	if first.Version != 1 || first.Info.Status != common.StatusDeployed || !strings.Contains(first.Info.Notes, "sample says hello on v1.36") {
		t.Errorf("installed as %d, %s: %q", first.Version, first.Info.Status, first.Info.Notes)
	}
	u.is(t, 1, "hello", false)
	ran(t, first, release.HookPreInstall)
	deployment, err := u.client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if job := u.job(t, "pre-install"); job == nil || job.Status.CompletionTime == nil || deployment.CreationTimestamp.Before(job.Status.CompletionTime) {
		t.Errorf("the deployment of %s did not wait for %+v", deployment.CreationTimestamp, job)
	}

	second, err := u.upgrade(values{"replicas": 2, "message": "good day", "disruptionBudget": true})
	if err != nil {
		t.Fatal(err)
	}
	u.is(t, 2, "good day", true)
	ran(t, second, release.HookPostUpgrade)
	if job := u.job(t, "post-upgrade"); job != nil && job.DeletionTimestamp == nil {
		t.Error("a hook that is to be deleted after success is there")
	}

	// What the server refuses is told.
	if _, err := u.upgrade(values{"replicas": -1, "disruptionBudget": true}); err == nil || !strings.Contains(err.Error(), "spec.replicas: Invalid value: -1: must be greater than or equal to 0") {
		t.Errorf("an upgrade to -1 replicas: %v", err)
	}
	if _, err := u.upgrade(values{"message": "", "disruptionBudget": true}); err == nil || !strings.Contains(err.Error(), "spec.text") {
		t.Errorf("an upgrade to what the schema forbids: %v", err)
	}

	rollback := action.NewRollback(u.config)
	rollback.Version, rollback.WaitStrategy, rollback.WaitForJobs, rollback.Timeout = 1, kube.StatusWatcherStrategy, true, fixture.Patience
	if err := rollback.Run(name); err != nil {
		t.Fatalf("roll back: %v", err)
	}
	u.is(t, 1, "hello", false)

	history, err := action.NewHistory(u.config).Run(name)
	if err != nil {
		t.Fatal(err)
	}
	var statuses []common.Status
	for _, r := range history {
		statuses = append(statuses, r.(*release.Release).Info.Status)
	}
	if want := []common.Status{common.StatusSuperseded, common.StatusSuperseded, common.StatusFailed, common.StatusFailed, common.StatusDeployed}; !slices.Equal(statuses, want) {
		t.Errorf("history %v, want %v", statuses, want)
	}

	uninstall := action.NewUninstall(u.config)
	uninstall.WaitStrategy, uninstall.Timeout, uninstall.DeletionPropagation = kube.StatusWatcherStrategy, fixture.Patience, "foreground"
	if _, err := uninstall.Run(name); err != nil {
		t.Fatalf("uninstall: %v", err)
	}
	u.isGone(t)
}

// isGone checks that nothing of the release is left but its kind of objects,
// which Helm leaves.
func (u *user) isGone(t *testing.T) {
	t.Helper()
	_, deployment := u.client.AppsV1().Deployments(namespace).Get(t.Context(), name, metav1.GetOptions{})
	_, config := u.client.CoreV1().ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
	_, service := u.client.CoreV1().Services(namespace).Get(t.Context(), name, metav1.GetOptions{})
	_, account := u.client.CoreV1().ServiceAccounts(namespace).Get(t.Context(), name, metav1.GetOptions{})
	_, greeting := u.dynamic.Resource(greetings).Namespace(namespace).Get(t.Context(), name, metav1.GetOptions{})
	for _, err := range []error{deployment, config, service, account, greeting} {
		if !apierrors.IsNotFound(err) {
			t.Errorf("left: %v", err)
		}
	}
	secrets, err := u.client.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "owner=helm"})
	if err != nil || len(secrets.Items) > 0 {
		t.Errorf("%d records of releases left, %v", len(secrets.Items), err)
	}
	pods, err := u.client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/instance=" + name})
	if err != nil || len(pods.Items) > 0 {
		t.Errorf("%d pods left, %v", len(pods.Items), err)
	}
	if _, err := u.dynamic.Resource(greetings).Namespace(namespace).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("the custom kind is gone: %v", errors.Unwrap(err))
	}
}
