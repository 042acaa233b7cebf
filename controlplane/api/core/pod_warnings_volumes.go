package core

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// volumes looks for volumes of kinds that are gone, and for files of one volume
// that hide each other.
func (w *warner) volumes(list []corev1.Volume, path *field.Path) {
	for i := range list {
		v, at := &list[i], path.Index(i)
		for _, gone := range []struct {
			set         bool
			name, since string
		}{
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		} {
			if gone.set {
				w.add(at.Child(gone.name), "%s", gone.since)
			}
		}
		if v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil {
			w.list = append(w.list, ClaimSpecWarnings(&v.Ephemeral.VolumeClaimTemplate.Spec, at.Child("ephemeral", "volumeClaimTemplate", "spec"))...)
		}
		if v.CephFS != nil {
			w.add(at.Child("cephfs"), "deprecated in v1.28, non-functional in v1.31+")
		}
		if v.RBD != nil {
			w.add(at.Child("rbd"), "deprecated in v1.28, non-functional in v1.31+")
		}
	}
	for i := range list {
		w.overlaps(&list[i])
	}
}

// volumeFile is where a volume puts something, and where that comes from.
type volumeFile struct{ path, source string }

func (f volumeFile) String() string {
	if f.source == "" {
		return fmt.Sprintf("%q", f.path)
	}
	return fmt.Sprintf("%q (%s)", f.path, f.source)
}

func (w *warner) overlaps(v *corev1.Volume) {
	if c := v.ConfigMap; c != nil {
		w.collisions(v.Name, fmt.Sprintf("ConfigMap %q", c.Name), itemFiles(c.Items, ""))
	}
	if s := v.Secret; s != nil {
		w.collisions(v.Name, fmt.Sprintf("Secret %q", s.SecretName), itemFiles(s.Items, ""))
	}
	if d := v.DownwardAPI; d != nil {
		w.collisions(v.Name, "DownwardAPI", downwardFiles(d.Items, ""))
	}
	if v.Projected == nil {
		return
	}
	var files []volumeFile
	for _, s := range v.Projected.Sources {
		if s == (corev1.VolumeProjection{}) {
			w.list = append(w.list, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
		}
		files = append(files, projectedFiles(&s)...)
	}
	w.collisions(v.Name, "Projected", files)
}

func itemFiles(items []corev1.KeyToPath, source string) (files []volumeFile) {
	for _, item := range items {
		files = append(files, volumeFile{item.Path, source})
	}
	return files
}

func downwardFiles(items []corev1.DownwardAPIVolumeFile, source string) (files []volumeFile) {
	for _, item := range items {
		files = append(files, volumeFile{item.Path, source})
	}
	return files
}

func projectedFiles(s *corev1.VolumeProjection) []volumeFile {
	switch {
	case s.ConfigMap != nil && s.ConfigMap.Items != nil:
		return itemFiles(s.ConfigMap.Items, fmt.Sprintf("ConfigMap %q", s.ConfigMap.Name))
	case s.Secret != nil && s.Secret.Items != nil:
		return itemFiles(s.Secret.Items, fmt.Sprintf("Secret %q", s.Secret.Name))
	case s.DownwardAPI != nil && s.DownwardAPI.Items != nil:
		return downwardFiles(s.DownwardAPI.Items, "DownwardAPI")
	case s.ServiceAccountToken != nil:
		return []volumeFile{{s.ServiceAccountToken.Path, "ServiceAccountToken"}}
	case s.ClusterTrustBundle != nil:
		name := ptr.Deref(s.ClusterTrustBundle.Name, ptr.Deref(s.ClusterTrustBundle.SignerName, ""))
		return []volumeFile{{s.ClusterTrustBundle.Path, fmt.Sprintf("ClusterTrustBundle %q", name)}}
	case s.PodCertificate != nil:
		return []volumeFile{
			{s.PodCertificate.CertificateChainPath, "PodCertificate chain"}, {s.PodCertificate.KeyPath, "PodCertificate key"},
			{s.PodCertificate.CredentialBundlePath, "PodCertificate credential bundle"},
		}
	}
	return nil
}

// collisions compares each file with those before it: the same path, or one
// that is a directory of the other.
func (w *warner) collisions(volume, what string, files []volumeFile) {
	for i := range files {
		f := &files[i]
		if f.path = strings.TrimRight(f.path, "/"); f.path == "" {
			continue
		}
		for _, before := range files[:i] {
			if before.path != "" && (strings.HasPrefix(before.path+"/", f.path+"/") || strings.HasPrefix(f.path+"/", before.path+"/")) {
				w.list = append(w.list, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, what, f, before))
			}
		}
	}
}
