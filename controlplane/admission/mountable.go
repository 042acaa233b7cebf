package admission

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// An account may be annotated so that its pods can use only those secrets that
// the account itself lists.

func checkMountable(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	allowed := listed(account)
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret != nil && !allowed[volume.Secret.SecretName] {
			return fmt.Errorf("volume with secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", volume.Secret.SecretName, account.Name)
		}
	}
	for _, c := range pod.Spec.InitContainers {
		if err := checkEnvironment("init container", c.Name, c.Env, c.EnvFrom, account, allowed); err != nil {
			return err
		}
	}
	for _, c := range pod.Spec.Containers {
		if err := checkEnvironment("container", c.Name, c.Env, c.EnvFrom, account, allowed); err != nil {
			return err
		}
	}
	pull := map[string]bool{}
	for _, ref := range account.ImagePullSecrets {
		pull[ref.Name] = true
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !pull[ref.Name] {
			return fmt.Errorf(`imagePullSecrets[%d].name="%s" is not allowed because service account %s does not reference that imagePullSecret`, i, ref.Name, account.Name)
		}
	}
	return nil
}

func checkMountableDebug(account *corev1.ServiceAccount, pod *corev1.Pod) error {
	allowed := listed(account)
	for _, c := range pod.Spec.EphemeralContainers {
		if err := checkEnvironment("ephemeral container", c.Name, c.Env, c.EnvFrom, account, allowed); err != nil {
			return err
		}
	}
	return nil
}

func listed(account *corev1.ServiceAccount) map[string]bool {
	allowed := map[string]bool{}
	for _, ref := range account.Secrets {
		allowed[ref.Name] = true
	}
	return allowed
}

func checkEnvironment(kind, name string, env []corev1.EnvVar, from []corev1.EnvFromSource, account *corev1.ServiceAccount, allowed map[string]bool) error {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !allowed[e.ValueFrom.SecretKeyRef.Name] {
			return fmt.Errorf("%s %s with envVar %s referencing secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", kind, name, e.Name, e.ValueFrom.SecretKeyRef.Name, account.Name)
		}
	}
	for _, f := range from {
		if f.SecretRef != nil && !allowed[f.SecretRef.Name] {
			return fmt.Errorf("%s %s with envFrom referencing secret.secretName=\"%s\" is not allowed because service account %s does not reference that secret", kind, name, f.SecretRef.Name, account.Name)
		}
	}
	return nil
}
