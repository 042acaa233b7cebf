package admission

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

func account(name string) *corev1.ServiceAccount {
	return &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
}

func TestServiceAccount(t *testing.T) {
	quiet := account("quiet")
	quiet.AutomountServiceAccountToken = ptr.To(false)
	pulling := account("pulling")
	pulling.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
	strict := account("strict")
	strict.Annotations = map[string]string{enforceMountable: "true"}
	strict.Secrets = []corev1.ObjectReference{{Name: "mine"}}
	p := configure(t, newServiceAccount, allow(), account("default"), quiet, pulling, strict).(*serviceAccount)

	container := corev1.Container{Name: "c"}
	mounting := corev1.Container{Name: "m", VolumeMounts: []corev1.VolumeMount{{Name: "own", MountPath: tokenMountPath}}}
	secret := func(name string) []corev1.Volume {
		return []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
	}
	mirror := map[string]string{corev1.MirrorPodAnnotationKey: "x"}
	for _, test := range []struct {
		name        string
		annotations map[string]string
		spec        corev1.PodSpec
		err         string
		account     string
		mounts      int // containers that got the token
		volumes     int
		pullSecrets string
	}{
		{name: "default", spec: corev1.PodSpec{Containers: []corev1.Container{container}, InitContainers: []corev1.Container{container}},
			account: "default", mounts: 2, volumes: 1},
		{name: "mounts something there itself", spec: corev1.PodSpec{Containers: []corev1.Container{mounting}}, account: "default"},
		{name: "one of two", spec: corev1.PodSpec{Containers: []corev1.Container{mounting, container}}, account: "default", mounts: 1, volumes: 1},
		{name: "has the volume already", spec: corev1.PodSpec{Containers: []corev1.Container{container}, Volumes: []corev1.Volume{{Name: "kube-api-access-abcde"}}},
			account: "default", mounts: 1, volumes: 1},
		{name: "account wants no token", spec: corev1.PodSpec{ServiceAccountName: "quiet", Containers: []corev1.Container{container}}, account: "quiet"},
		{name: "pod wants one", spec: corev1.PodSpec{ServiceAccountName: "quiet", AutomountServiceAccountToken: ptr.To(true), Containers: []corev1.Container{container}},
			account: "quiet", mounts: 1, volumes: 1},
		{name: "pull secrets", spec: corev1.PodSpec{ServiceAccountName: "pulling"}, account: "pulling", pullSecrets: "registry"},
		{name: "own pull secrets", spec: corev1.PodSpec{ServiceAccountName: "pulling", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "own"}}},
			account: "pulling", pullSecrets: "own"},
		{name: "no account", spec: corev1.PodSpec{ServiceAccountName: "gone"}, err: `error looking up service account ns/gone: serviceaccount "gone" not found`},
		{name: "listed secret", spec: corev1.PodSpec{ServiceAccountName: "strict", Volumes: secret("mine")}, account: "strict", volumes: 1},
		{name: "other secret", spec: corev1.PodSpec{ServiceAccountName: "strict", Volumes: secret("other")},
			err: `volume with secret.secretName="other" is not allowed because service account strict does not reference that secret`},
		{name: "other secret in the environment", spec: corev1.PodSpec{ServiceAccountName: "strict", InitContainers: []corev1.Container{{Name: "i",
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}}}}}},
			err: `init container i with envFrom referencing secret.secretName="other" is not allowed`},
		{name: "mirror", annotations: mirror, spec: corev1.PodSpec{Containers: []corev1.Container{container}}},
		{name: "mirror with account", annotations: mirror, spec: corev1.PodSpec{ServiceAccountName: "default"}, err: "a mirror pod may not reference service accounts"},
		{name: "mirror with secret", annotations: mirror, spec: corev1.PodSpec{Volumes: secret("s")}, err: "a mirror pod may not reference secrets"},
		{name: "mirror with token", annotations: mirror, spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: tokenSource()}}}},
			err: "a mirror pod may not use ServiceAccountToken volume projections"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Annotations: test.annotations}, Spec: *test.spec.DeepCopy()}
			err := p.Admit(context.Background(), write(admission.Create, anna, "/pods", pod, nil), nil)
			wantError(t, err, test.err)
			if err != nil {
				return
			}
			if pod.Spec.ServiceAccountName != test.account || pod.Spec.DeprecatedServiceAccount != test.account {
				t.Errorf("account %q (%q), want %q", pod.Spec.ServiceAccountName, pod.Spec.DeprecatedServiceAccount, test.account)
			}
			mounts := 0
			for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
				for _, m := range c.VolumeMounts {
					if strings.HasPrefix(m.Name, tokenVolume) && m.MountPath == tokenMountPath && m.ReadOnly {
						mounts++
					}
				}
			}
			if mounts != test.mounts || len(pod.Spec.Volumes) != test.volumes {
				t.Errorf("%d mounts and %d volumes, want %d and %d", mounts, len(pod.Spec.Volumes), test.mounts, test.volumes)
			}
			var pull []string
			for _, ref := range pod.Spec.ImagePullSecrets {
				pull = append(pull, ref.Name)
			}
			if got := strings.Join(pull, " "); got != test.pullSecrets {
				t.Errorf("pull secrets %q, want %q", got, test.pullSecrets)
			}
		})
	}
}

// An account that the informer has not seen yet is asked for directly.
func TestServiceAccountJustMade(t *testing.T) {
	var made Config
	p := configure(t, func(c Config) (*serviceAccount, error) {
		made = c
		p, err := newServiceAccount(c)
		return p.(*serviceAccount), err
	}, allow())
	ctx := context.Background()
	if _, err := made.Client.CoreV1().ServiceAccounts("ns").Create(ctx, account("new"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{ServiceAccountName: "new"}}
	wantError(t, p.Admit(ctx, write(admission.Create, anna, "/pods", pod, nil), nil), "")
}

func TestDebugContainers(t *testing.T) {
	strict := account("strict")
	strict.Annotations = map[string]string{enforceMountable: "true"}
	p := configure(t, newServiceAccount, allow(), strict).(*serviceAccount)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
		ServiceAccountName: "strict",
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Env: []corev1.EnvVar{{
			Name: "E", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}},
		}}}}},
	}}
	wantError(t, p.Validate(context.Background(), write(admission.Update, anna, "/pods/ephemeralcontainers", pod, pod), nil),
		`ephemeral container e with envVar E referencing secret.secretName="other" is not allowed because service account strict does not reference that secret`)
	wantError(t, p.Validate(context.Background(), write(admission.Update, anna, "/pods", pod, pod), nil), "")
}
