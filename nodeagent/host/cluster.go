package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// apiConfig is the administrator's access to the API, from this host.
func (h *Hand) apiConfig() (*rest.Config, error) {
	config, err := clientcmd.BuildConfigFromFlags("", h.path(hostconfig.AdminCfg))
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig: %w", err)
	}
	config.Timeout = 10 * time.Second
	config.QPS, config.Burst = 100, 100
	config.UserAgent = "clusterctl-hand"
	return config, nil
}

// readAdmin is the administrator's kubeconfig with the files it names put into
// it, so that it is of use on another machine.
func (h *Hand) readAdmin() ([]byte, error) {
	config, err := clientcmd.LoadFromFile(h.path(hostconfig.AdminCfg))
	if err != nil {
		return nil, fmt.Errorf("read the administrator's kubeconfig (is this host a control plane?): %w", err)
	}
	take := func(path *string, data *[]byte) {
		if *path == "" || err != nil {
			return
		}
		*data, err = os.ReadFile(h.path(*path))
		*path = ""
	}
	for _, cluster := range config.Clusters {
		take(&cluster.CertificateAuthority, &cluster.CertificateAuthorityData)
	}
	for _, user := range config.AuthInfos {
		take(&user.ClientCertificate, &user.ClientCertificateData)
		take(&user.ClientKey, &user.ClientKeyData)
	}
	if err != nil {
		return nil, fmt.Errorf("read what the administrator's kubeconfig names: %w", err)
	}
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("encode the administrator's kubeconfig: %w", err)
	}
	return raw, nil
}

func (h *Hand) kubernetes() (kubernetes.Interface, error) {
	config, err := h.apiConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API: %w", err)
	}
	return client, nil
}

func (h *Hand) checkNodeReady(ctx context.Context, o *hostop.NodeReady) (string, error) {
	if !h.exists(hostconfig.AdminCfg) {
		return "the API is not there yet", nil
	}
	client, err := h.kubernetes()
	if err != nil {
		return "", err
	}
	node, err := client.CoreV1().Nodes().Get(ctx, o.Name, metav1.GetOptions{})
	if err != nil {
		return nodeFault(err), nil
	}
	if missing := missingLabels(node, o.Labels); len(missing) > 0 {
		return "lacks label " + missing[0], nil
	}
	return notReady(node), nil
}

func (h *Hand) applyNodeReady(ctx context.Context, o *hostop.NodeReady, progress func(string)) error {
	client, err := h.kubernetes()
	if err != nil {
		return err
	}
	return until(ctx, o.Timeout, 250*time.Millisecond, progress, func(ctx context.Context) (string, error) {
		node, err := client.CoreV1().Nodes().Get(ctx, o.Name, metav1.GetOptions{})
		if err != nil {
			return nodeFault(err), nil
		}
		if len(missingLabels(node, o.Labels)) > 0 {
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": o.Labels}})
			if err != nil {
				return "", &finalError{fmt.Errorf("encode labels: %w", err)}
			}
			_, err = client.CoreV1().Nodes().Patch(ctx, o.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
			if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
				return "", &finalError{fmt.Errorf("label node: %w", err)}
			}
			if err != nil {
				return "", fmt.Errorf("label node: %w", err)
			}
		}
		return notReady(node), nil
	})
}

func nodeFault(err error) string {
	if apierrors.IsNotFound(err) {
		return "has not registered yet"
	}
	return "the API does not answer: " + oneLine(err.Error())
}

func missingLabels(node *corev1.Node, want map[string]string) []string {
	var missing []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if value, ok := node.Labels[key]; !ok || value != want[key] {
			missing = append(missing, key)
		}
	}
	return missing
}

// notReady says why a node is not; empty when it is.
func notReady(node *corev1.Node) string {
	for _, c := range node.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		if c.Status == corev1.ConditionTrue {
			return ""
		}
		return oneLine("is not Ready: " + c.Reason + " " + c.Message)
	}
	return "has not told its state yet"
}
