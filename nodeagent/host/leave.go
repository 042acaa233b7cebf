package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// What a host's leaving takes: its pods, its etcd member, its files, its node.
// kubectl's drain package would do for the pods, but it brings kustomize and
// kubectl's printers into the node agent.

func (h *Hand) checkNodeDrained(ctx context.Context, o *hostop.NodeDrained) (string, error) {
	if !h.exists(hostconfig.AdminCfg) {
		return "the API is not there yet", nil
	}
	client, err := h.kubernetes()
	if err != nil {
		return "", err
	}
	node, err := client.CoreV1().Nodes().Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return nodeFault(err), nil
	case !node.Spec.Unschedulable:
		return "still takes pods", nil
	}
	pods, err := podsToEvict(ctx, client, o.Name)
	if err != nil {
		return "the API does not answer: " + oneLine(err.Error()), nil
	}
	return stillRun(pods), nil
}

func stillRun(pods []corev1.Pod) string {
	if len(pods) == 0 {
		return ""
	}
	return fmt.Sprintf("%d pods still run, %s/%s among them", len(pods), pods[0].Namespace, pods[0].Name)
}

func (h *Hand) applyNodeDrained(ctx context.Context, o *hostop.NodeDrained, progress func(string)) error {
	client, err := h.kubernetes()
	if err != nil {
		return err
	}
	err = until(ctx, o.Timeout, time.Second, progress, func(ctx context.Context) (string, error) {
		_, err := client.CoreV1().Nodes().Patch(ctx, o.Name, types.StrategicMergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{FieldManager: fieldManager})
		if apierrors.IsNotFound(err) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("cordon node: %w", err)
		}
		pods, err := podsToEvict(ctx, client, o.Name)
		if err != nil {
			return "", fmt.Errorf("list pods: %w", err)
		}
		for _, pod := range pods {
			if pod.DeletionTimestamp != nil {
				continue
			}
			err := client.PolicyV1().Evictions(pod.Namespace).Evict(ctx, &policyv1.Eviction{
				ObjectMeta:    metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace},
				DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))},
			})
			switch {
			case apierrors.IsTooManyRequests(err):
				return fmt.Sprintf("pod %s/%s is kept by a disruption budget", pod.Namespace, pod.Name), nil
			case err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
				return "", fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
			}
		}
		return stillRun(pods), nil
	})
	if err != nil {
		return fmt.Errorf("drain node: %w", err)
	}
	return nil
}

// podsToEvict are the pods of a node that would be lost with it. Those of
// daemon sets and static ones are the node's own.
func podsToEvict(ctx context.Context, client kubernetes.Interface, node string) ([]corev1.Pod, error) {
	list, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		owner := metav1.GetControllerOf(&pod)
		_, static := pod.Annotations[corev1.MirrorPodAnnotationKey]
		return static || owner != nil && owner.Kind == "DaemonSet" ||
			pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}), nil
}

func (h *Hand) checkNodeGone(ctx context.Context, o *hostop.NodeGone) (string, error) {
	if !h.exists(hostconfig.AdminCfg) {
		return "the API is not there yet", nil
	}
	client, err := h.kubernetes()
	if err != nil {
		return "", err
	}
	_, err = client.CoreV1().Nodes().Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", nil
	case err != nil:
		return nodeFault(err), nil
	}
	return "is there still", nil
}

func (h *Hand) applyNodeGone(ctx context.Context, o *hostop.NodeGone) error {
	client, err := h.kubernetes()
	if err != nil {
		return err
	}
	if err := client.CoreV1().Nodes().Delete(ctx, o.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node: %w", err)
	}
	// Nobody runs them, and until they are gone services lead to them.
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", o.Name).String()})
	if err != nil {
		return fmt.Errorf("list the node's pods: %w", err)
	}
	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	for _, pod := range pods.Items {
		if err := client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, now); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete pod %s/%s of the node: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func (h *Hand) checkEtcdMemberGone(ctx context.Context, o *hostop.EtcdMemberGone) (string, error) {
	status, err := h.etcdStatus(ctx)
	if err != nil {
		return "etcd does not answer: " + oneLine(err.Error()), nil
	}
	if leaver(status, o) == nil {
		return "", nil
	}
	return "is a member still", nil
}

func leaver(status *hostop.EtcdStatus, o *hostop.EtcdMemberGone) *hostop.EtcdMemberStatus {
	peer := etcdURL(o.Address, hostconfig.PortEtcdPeer)
	i := slices.IndexFunc(status.Members, func(m hostop.EtcdMemberStatus) bool { return m.PeerURL == peer })
	if i < 0 {
		return nil
	}
	return &status.Members[i]
}

func (h *Hand) applyEtcdMemberGone(ctx context.Context, o *hostop.EtcdMemberGone, progress func(string)) error {
	return until(ctx, o.Timeout, time.Second, progress, func(ctx context.Context) (string, error) {
		status, err := h.etcdStatus(ctx)
		if err != nil {
			return "", err
		}
		leaving := leaver(status, o)
		if leaving == nil {
			return "", nil
		}
		if lacking := lackingQuorum(status.Members, leaving.ID); lacking != "" {
			return lacking, nil
		}
		return "", h.removeMember(ctx, leaving.ID)
	})
}

// lackingQuorum says why the members other than one could not go on without
// it.
func lackingQuorum(members []hostop.EtcdMemberStatus, without string) string {
	voters, healthy := 0, 0
	var silent []string
	for _, m := range members {
		if m.Learner || m.ID == without {
			continue
		}
		voters++
		if m.Healthy {
			healthy++
		} else {
			silent = append(silent, cmp.Or(m.Name, m.ID))
		}
	}
	if healthy > voters/2 {
		return ""
	}
	return fmt.Sprintf("%d of the %d members that stay take part (not %s); etcd would lose its quorum", healthy, voters, strings.Join(silent, ", "))
}

func (h *Hand) removeMember(ctx context.Context, id string) error {
	pkiDir, pair, endpoints, err := h.etcdAccess()
	if err != nil {
		return err
	}
	client, err := h.etcdClient(pkiDir, pair, endpoints...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	list, err := client.MemberList(ctx)
	if err != nil {
		return errors.New(etcdFault(err))
	}
	i := slices.IndexFunc(list.Members, func(m *etcdserverpb.Member) bool { return fmt.Sprintf("%x", m.ID) == id })
	if i < 0 {
		return nil
	}
	if _, err := client.MemberRemove(ctx, list.Members[i].ID); err != nil {
		return errors.New(etcdFault(err))
	}
	return nil
}

// checkCleared looks where everything of ours begins.
func (h *Hand) checkCleared() (string, error) {
	for _, path := range []string{hostconfig.EtcDir, hostconfig.LibDir, hostconfig.VarDir} {
		if h.exists(path) {
			return path + " is there", nil
		}
	}
	for _, unit := range units {
		if path := h.init.UnitPath(unit); path != "" && h.exists(path) {
			return path + " is there", nil
		}
	}
	return "", nil
}
