package admission

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/auth/node"
)

// serviceAccount gives new pods the account that they run as, its token in a
// projected volume, and its image pull secrets.
type serviceAccount struct {
	*admission.Handler
	client   kubernetes.Interface
	accounts listers.ServiceAccountLister
}

var (
	_ admission.MutationInterface   = (*serviceAccount)(nil)
	_ admission.ValidationInterface = (*serviceAccount)(nil)
)

const (
	defaultAccount   = "default"
	tokenMountPath   = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenVolume      = "kube-api-access-"
	tokenSeconds     = 60*60 + 7 // tells tokens of this plugin from ones that pods ask for
	enforceMountable = "kubernetes.io/enforce-mountable-secrets"
)

func newServiceAccount(config Config) (admission.Interface, error) {
	informer := config.Informers.Core().V1().ServiceAccounts()
	p := &serviceAccount{admission.NewHandler(admission.Create, admission.Update), config.Client, informer.Lister()}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

// admittedPod returns the pod of a request that this plugin is about, or nil.
func admittedPod(a admission.Attributes) *corev1.Pod {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || (a.GetSubresource() != "" && a.GetSubresource() != "ephemeralcontainers") {
		return nil
	}
	pod, _ := a.GetObject().(*corev1.Pod)
	return pod
}

func isMirror(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror
}

func (p *serviceAccount) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil || a.GetOperation() != admission.Create {
		return nil
	}
	// A mirror pod must stay what its node says.
	if isMirror(pod) {
		return p.Validate(ctx, a, o)
	}
	if pod.Spec.ServiceAccountName == "" {
		pod.Spec.ServiceAccountName = defaultAccount
	}
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	if ptr.Deref(pod.Spec.AutomountServiceAccountToken, ptr.Deref(account.AutomountServiceAccountToken, true)) {
		mountToken(&pod.Spec)
	}
	if len(pod.Spec.ImagePullSecrets) == 0 {
		for _, secret := range account.ImagePullSecrets {
			pod.Spec.ImagePullSecrets = append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: secret.Name})
		}
	}
	return p.Validate(ctx, a, o)
}

func (p *serviceAccount) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod := admittedPod(a)
	if pod == nil {
		return nil
	}
	debugging := a.GetOperation() == admission.Update && a.GetSubresource() == "ephemeralcontainers"
	if a.GetOperation() != admission.Create && !debugging {
		return nil
	}
	if isMirror(pod) && !debugging {
		return checkMirror(a, pod)
	}
	if pod.Spec.ServiceAccountName == "" {
		return admission.NewForbidden(a, fmt.Errorf("no service account specified for pod %s/%s", a.GetNamespace(), pod.Name))
	}
	account, err := p.account(ctx, a, pod)
	if err != nil {
		return err
	}
	// What is no boolean enforces nothing.
	if enforce, _ := strconv.ParseBool(account.Annotations[enforceMountable]); !enforce {
		return nil
	}
	if debugging {
		err = checkMountableDebug(account, pod)
	} else {
		err = checkMountable(account, pod)
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func checkMirror(a admission.Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference service accounts"))
	}
	secrets := false
	node.Secrets(pod, func(string) { secrets = true })
	if secrets {
		return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not reference secrets"))
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken != nil {
				return admission.NewForbidden(a, fmt.Errorf("a mirror pod may not use ServiceAccountToken volume projections"))
			}
		}
	}
	return nil
}

// account finds the pod's account. A pod may come right after its namespace or
// its account, before the informer has them; for the account that a controller
// makes for every namespace it waits up to two seconds.
func (p *serviceAccount) account(ctx context.Context, a admission.Attributes, pod *corev1.Pod) (*corev1.ServiceAccount, error) {
	namespace, name := a.GetNamespace(), pod.Spec.ServiceAccountName
	forbidden := func(err error) error {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", namespace, name, err))
	}
	if !p.WaitForReady() {
		return nil, admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	account, err := p.accounts.ServiceAccounts(namespace).Get(name)
	if err == nil {
		return account, nil
	}
	attempts := 1
	if name == defaultAccount {
		attempts = 10
	}
	pause := 100*time.Millisecond + rand.N(100*time.Millisecond)
	for i := 0; apierrors.IsNotFound(err) && i < attempts; i++ {
		if i > 0 {
			select {
			case <-ctx.Done():
				return nil, forbidden(ctx.Err())
			case <-time.After(pause):
			}
		}
		if account, err = p.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
			return account, nil
		}
	}
	if apierrors.IsNotFound(err) {
		err = apierrors.NewNotFound(corev1.Resource("serviceaccount"), name)
	}
	return nil, forbidden(err)
}

// mountToken mounts the volume with the account's token, the cluster's CA and
// the namespace into every container that has nothing at its place.
func mountToken(spec *corev1.PodSpec) {
	name, present := "", false
	for _, volume := range spec.Volumes {
		if strings.HasPrefix(volume.Name, tokenVolume) {
			name, present = volume.Name, true
			break
		}
	}
	if !present {
		name = names.SimpleNameGenerator.GenerateName(tokenVolume)
	}
	mounted := false
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			if !mountsAt(&containers[i], tokenMountPath) {
				containers[i].VolumeMounts = append(containers[i].VolumeMounts,
					corev1.VolumeMount{Name: name, ReadOnly: true, MountPath: tokenMountPath})
				mounted = true
			}
		}
	}
	if mounted && !present {
		spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

func mountsAt(container *corev1.Container, path string) bool {
	for _, mount := range container.VolumeMounts {
		if mount.MountPath == path {
			return true
		}
	}
	return false
}

func tokenSource() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}
