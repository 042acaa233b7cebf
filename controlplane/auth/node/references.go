package node

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
)

// reference is what a pod may refer to, in its own namespace.
type reference string

const (
	secret         reference = "secret"
	configMap      reference = "configmap"
	claim          reference = "persistentvolumeclaim"
	serviceAccount reference = "serviceaccount"
	deviceClaim    reference = "resourceclaim"
)

// refers reports whether the pod refers to the object, so that its node needs
// to read it.
func refers(pod *corev1.Pod, kind reference, name string) bool {
	// A node makes the mirrors of its static pods itself: what they say gives
	// it no rights.
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror || name == "" {
		return false
	}
	switch kind {
	case serviceAccount:
		return pod.Spec.ServiceAccountName == name
	case claim:
		return refersToClaim(pod, name)
	case deviceClaim:
		return refersToDeviceClaim(pod, name)
	case configMap:
		return among(ConfigMaps, pod, name)
	case secret:
		return among(Secrets, pod, name)
	default:
		return false
	}
}

func refersToClaim(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if c := volume.PersistentVolumeClaim; c != nil && c.ClaimName == name {
			return true
		}
		if volume.Ephemeral != nil && ephemeral.VolumeClaimName(pod, volume) == name {
			return true
		}
	}
	return false
}

func among(names func(*corev1.Pod, func(string)), pod *corev1.Pod, name string) (found bool) {
	names(pod, func(n string) { found = found || n == name })
	return found
}

// ConfigMaps calls found with the name of every config map that the pod refers
// to, once for each time.
func ConfigMaps(pod *corev1.Pod, found func(string)) {
	for i := range pod.Spec.Volumes {
		volumeConfigMaps(&pod.Spec.Volumes[i].VolumeSource, found)
	}
	eachContainer(pod, func(env []corev1.EnvVar, from []corev1.EnvFromSource) { containerConfigMaps(env, from, found) })
}

// Secrets calls found with the name of every secret that the pod refers to,
// once for each time; those for pulling images are among them.
func Secrets(pod *corev1.Pod, found func(string)) {
	for _, ref := range pod.Spec.ImagePullSecrets {
		found(ref.Name)
	}
	for i := range pod.Spec.Volumes {
		volumeSecrets(&pod.Spec.Volumes[i].VolumeSource, found)
	}
	eachContainer(pod, func(env []corev1.EnvVar, from []corev1.EnvFromSource) { containerSecrets(env, from, found) })
}

func volumeConfigMaps(volume *corev1.VolumeSource, found func(string)) {
	if volume.ConfigMap != nil {
		found(volume.ConfigMap.Name)
	}
	if volume.Projected != nil {
		for _, source := range volume.Projected.Sources {
			if source.ConfigMap != nil {
				found(source.ConfigMap.Name)
			}
		}
	}
}

func volumeSecrets(volume *corev1.VolumeSource, found func(string)) {
	local := func(ref *corev1.LocalObjectReference) {
		if ref != nil {
			found(ref.Name)
		}
	}
	switch {
	case volume.Secret != nil:
		found(volume.Secret.SecretName)
	case volume.Projected != nil:
		for _, source := range volume.Projected.Sources {
			if source.Secret != nil {
				found(source.Secret.Name)
			}
		}
	case volume.CSI != nil:
		local(volume.CSI.NodePublishSecretRef)
	case volume.AzureFile != nil:
		found(volume.AzureFile.SecretName)
	case volume.CephFS != nil:
		local(volume.CephFS.SecretRef)
	case volume.Cinder != nil:
		local(volume.Cinder.SecretRef)
	case volume.FlexVolume != nil:
		local(volume.FlexVolume.SecretRef)
	case volume.ISCSI != nil:
		local(volume.ISCSI.SecretRef)
	case volume.RBD != nil:
		local(volume.RBD.SecretRef)
	case volume.ScaleIO != nil:
		local(volume.ScaleIO.SecretRef)
	case volume.StorageOS != nil:
		local(volume.StorageOS.SecretRef)
	}
}

func eachContainer(pod *corev1.Pod, visit func([]corev1.EnvVar, []corev1.EnvFromSource)) {
	for i := range pod.Spec.InitContainers {
		visit(pod.Spec.InitContainers[i].Env, pod.Spec.InitContainers[i].EnvFrom)
	}
	for i := range pod.Spec.Containers {
		visit(pod.Spec.Containers[i].Env, pod.Spec.Containers[i].EnvFrom)
	}
	for i := range pod.Spec.EphemeralContainers {
		visit(pod.Spec.EphemeralContainers[i].Env, pod.Spec.EphemeralContainers[i].EnvFrom)
	}
}

func containerConfigMaps(env []corev1.EnvVar, from []corev1.EnvFromSource, found func(string)) {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
			found(e.ValueFrom.ConfigMapKeyRef.Name)
		}
	}
	for _, f := range from {
		if f.ConfigMapRef != nil {
			found(f.ConfigMapRef.Name)
		}
	}
}

func containerSecrets(env []corev1.EnvVar, from []corev1.EnvFromSource, found func(string)) {
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			found(e.ValueFrom.SecretKeyRef.Name)
		}
	}
	for _, f := range from {
		if f.SecretRef != nil {
			found(f.SecretRef.Name)
		}
	}
}
