package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"clusterctl/controlplane/controllers"
	"clusterctl/hostconfig"
)

// startControllers runs all controllers until the test ends.
func (c *Cluster) startControllers(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- controllers.Run(ctx, controllers.Config{
			// Over memory and with the rights that the control plane gives them.
			REST:    c.Server.ClientConfig(user.KubeControllerManager),
			Cluster: c.Config.Cluster,
			PKI:     hostconfig.PKI(c.Config.PKIDir),
			Logger:  slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo})),
		})
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("controllers ended with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("controllers do not end")
		}
	})
}

// freshNamespace makes a namespace and leaves its service account to the
// controllers.
func freshNamespace(t *testing.T, client kubernetes.Interface, name string) string {
	t.Helper()
	created := must(client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-"}}, metav1.CreateOptions{}))(t)
	eventually(t, "service account and CA of "+created.Name, func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().ServiceAccounts(created.Name).Get(ctx, "default", metav1.GetOptions{})
		_, caErr := client.CoreV1().ConfigMaps(created.Name).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil && caErr == nil, errors.Join(err, caErr)
	})
	return created.Name
}

// playNode marks the pods of a namespace as bound, running and ready, and lets
// deleted ones go, as scheduler and node agents would, until the test ends.
func playNode(t *testing.T, client kubernetes.Interface, namespace string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ip := 0
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for i := range list.Items {
				pod := &list.Items[i]
				switch {
				case pod.DeletionTimestamp != nil:
					now := int64(0)
					_ = client.CoreV1().Pods(namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
				case pod.Spec.NodeName == "":
					_ = client.CoreV1().Pods(namespace).Bind(ctx, &corev1.Binding{
						ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
						Target:     corev1.ObjectReference{Kind: "Node", Name: "play"},
					}, metav1.CreateOptions{})
				case pod.Status.Phase == corev1.PodPending:
					ip++
					pod.Status.Phase = corev1.PodRunning
					pod.Status.PodIP = fmt.Sprintf("10.244.9.%d", ip%250+1)
					pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
					pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
					for _, c := range pod.Spec.Containers {
						pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
							Name: c.Name, Image: c.Image, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}})
					}
					_, _ = client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func webDeployment(replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "web:1"}}},
			},
		},
	}
}

func TestControllers(t *testing.T) {
	c := Start(t)
	c.startControllers(t)
	client := c.Client
	// One node that stays alive for the whole test.
	node := must(client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "play"}}, metav1.CreateOptions{}))(t)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
	must(client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}))(t)
	t.Cleanup(func() {
		if err := client.CoreV1().Nodes().Delete(context.Background(), "play", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})

	t.Run("node", func(t *testing.T) { testNodeControllers(t, client) })
	t.Run("deployment", func(t *testing.T) { testDeployment(t, client) })
	t.Run("deletion", func(t *testing.T) { testDeletionPolicies(t, client) })
	t.Run("claim", func(t *testing.T) { testClaimInUse(t, client) })
	t.Run("claims and volumes", func(t *testing.T) { testClaimsShareNoVolume(t, client) })
	t.Run("local path volume", func(t *testing.T) { testLocalPathVolume(t, client) })
	t.Run("placed volumes", func(t *testing.T) { testSchedulerBindsVolumes(t, c) })
	t.Run("certificate", func(t *testing.T) { testNodeCertificate(t, c) })
	t.Run("service range", func(t *testing.T) { testServiceRange(t, client) })
	t.Run("namespace", func(t *testing.T) { testNamespaceDeletion(t, client) })
}

func testNodeControllers(t *testing.T, client kubernetes.Interface) {
	eventually(t, "the node's share of the pod network", func(ctx context.Context) (bool, error) {
		node, err := client.CoreV1().Nodes().Get(ctx, "play", metav1.GetOptions{})
		return err == nil && node.Spec.PodCIDR != "" && slices.Equal(node.Spec.PodCIDRs, []string{node.Spec.PodCIDR}), err
	})
	patch := func(status corev1.ConditionStatus) {
		raw := must(json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: status}}}}))(t)
		must(client.CoreV1().Nodes().Patch(t.Context(), "play", types.StrategicMergePatchType, raw, metav1.PatchOptions{}, "status"))(t)
	}
	tainted := func(want bool) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			node, err := client.CoreV1().Nodes().Get(ctx, "play", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			return want == slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
				return t.Key == corev1.TaintNodeDiskPressure && t.Effect == corev1.TaintEffectNoSchedule
			}), nil
		}
	}
	patch(corev1.ConditionTrue)
	eventually(t, "the taint of disk pressure", tainted(true))
	patch(corev1.ConditionFalse)
	eventually(t, "the taint to go", tainted(false))
}

func testDeployment(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "deployment")
	playNode(t, client, namespace)
	deployments := client.AppsV1().Deployments(namespace)
	must(client.CoreV1().Services(namespace).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}))(t)
	must(deployments.Create(t.Context(), webDeployment(3), metav1.CreateOptions{}))(t)

	complete := func(revision string, replicas int32) {
		t.Helper()
		eventually(t, "revision "+revision, func(ctx context.Context) (bool, error) {
			d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			s := d.Status
			if s.ObservedGeneration != d.Generation || s.Replicas != replicas || s.UpdatedReplicas != replicas || s.AvailableReplicas != replicas || d.Annotations["deployment.kubernetes.io/revision"] != revision {
				return false, fmt.Errorf("revision %s, status %+v", d.Annotations["deployment.kubernetes.io/revision"], s)
			}
			slices, err := client.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
			if err != nil || len(slices.Items) != 1 || len(slices.Items[0].Endpoints) != int(replicas) {
				return false, fmt.Errorf("slices %+v: %w", slices, err)
			}
			endpoints, err := client.CoreV1().Endpoints(namespace).Get(ctx, "web", metav1.GetOptions{})
			if err != nil || len(endpoints.Subsets) != 1 || len(endpoints.Subsets[0].Addresses) != int(replicas) {
				return false, fmt.Errorf("endpoints %+v: %w", endpoints, err)
			}
			return true, nil
		})
	}
	complete("1", 3)

	scale := must(deployments.GetScale(t.Context(), "web", metav1.GetOptions{}))(t)
	scale.Spec.Replicas = 5
	must(deployments.UpdateScale(t.Context(), "web", scale, metav1.UpdateOptions{}))(t)
	complete("1", 5)

	image := func(image string) {
		raw := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":%q}]}}}}`, image)
		must(deployments.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(raw), metav1.PatchOptions{}))(t)
	}
	image("web:2")
	complete("2", 5)
	image("web:1")
	complete("3", 5)

	if err := deployments.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "replica sets and pods to go", func(ctx context.Context) (bool, error) {
		sets, err := client.AppsV1().ReplicaSets(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(sets.Items) == 0 && len(pods.Items) == 0, err
	})
}

// testNodeCertificate lets a node renew its client certificate, and use it.
func testNodeCertificate(t *testing.T, c *Cluster) {
	nodeConfig := must(c.Certificate("system:node:play", "system:nodes"))(t)
	requests := clients(t, nodeConfig).CertificatesV1().CertificateSigningRequests()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:play", Organization: []string{"system:nodes"}},
	}, key))(t)
	hour := int32(3600)
	created := must(requests.Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "renew-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:           pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName:        certificatesv1.KubeAPIServerClientKubeletSignerName,
			Usages:            []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
			ExpirationSeconds: &hour,
		},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "the certificate", func(ctx context.Context) (bool, error) {
		var err error
		created, err = c.Client.CertificatesV1().CertificateSigningRequests().Get(ctx, created.Name, metav1.GetOptions{})
		return err == nil && len(created.Status.Certificate) > 0, err
	})
	renewed := c.Anonymous()
	renewed.CertData = created.Status.Certificate
	renewed.KeyData = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))(t)})
	must(clients(t, renewed).CoreV1().Nodes().Get(t.Context(), "play", metav1.GetOptions{}))(t)
}

func testDeletionPolicies(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "deletion")
	maps := client.CoreV1().ConfigMaps(namespace)
	for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationForeground, metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan} {
		t.Run(string(policy), func(t *testing.T) {
			yes := true
			owner := must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "owner-"}}, metav1.CreateOptions{}))(t)
			child := must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "child-", OwnerReferences: []metav1.OwnerReference{
				{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: &yes}}}}, metav1.CreateOptions{}))(t)
			if err := maps.Delete(t.Context(), owner.Name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the owner to go, and its child to follow", func(ctx context.Context) (bool, error) {
				_, ownerErr := maps.Get(ctx, owner.Name, metav1.GetOptions{})
				kept, childErr := maps.Get(ctx, child.Name, metav1.GetOptions{})
				if policy == metav1.DeletePropagationOrphan {
					if childErr != nil {
						t.Fatalf("the child: %v", childErr)
					}
					return apierrors.IsNotFound(ownerErr) && len(kept.OwnerReferences) == 0, nil
				}
				return apierrors.IsNotFound(ownerErr) && apierrors.IsNotFound(childErr), nil
			})
		})
	}
}

func testNamespaceDeletion(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "doomed")
	playNode(t, client, namespace)
	must(client.AppsV1().Deployments(namespace).Create(t.Context(), webDeployment(2), metav1.CreateOptions{}))(t)
	held := must(client.CoreV1().ConfigMaps(namespace).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}},
	}, metav1.CreateOptions{}))(t)
	if err := client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespace to say what holds it", func(ctx context.Context) (bool, error) {
		ns, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue && strings.Contains(c.Message, "example.com/hold in 1") {
				return true, nil
			}
		}
		return false, fmt.Errorf("conditions %+v", ns.Status.Conditions)
	})
	must(client.CoreV1().ConfigMaps(namespace).Patch(t.Context(), held.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
	eventually(t, "the namespace to go", func(ctx context.Context) (bool, error) {
		_, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}
