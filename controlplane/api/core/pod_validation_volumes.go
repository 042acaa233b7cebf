package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// validateVolumes checks a pod's volumes and returns the sound ones by name.
// meta is the pod's, nil for a template: the names of claims made for
// ephemeral volumes derive from it.
func validateVolumes(volumes []corev1.Volume, meta *metav1.ObjectMeta, path *field.Path) (map[string]*corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	made := sets.New[string]()
	if meta != nil && meta.Name != "" {
		for i := range volumes {
			if volumes[i].Ephemeral != nil {
				made.Insert(meta.Name + "-" + volumes[i].Name)
			}
		}
	}
	sound := map[string]*corev1.VolumeSource{}
	for i := range volumes {
		v, at := &volumes[i], path.Index(i)
		faults := validateVolumeSource(v, meta, at)
		if v.Name == "" {
			faults = append(faults, field.Required(at.Child("name"), ""))
		} else {
			faults = append(faults, dnsLabel(v.Name, at.Child("name"))...)
		}
		if _, twice := sound[v.Name]; twice {
			faults = append(faults, field.Duplicate(at.Child("name"), v.Name))
		}
		if len(faults) == 0 {
			sound[v.Name] = &v.VolumeSource
		}
		errs = append(errs, faults...)
		if pvc := v.PersistentVolumeClaim; pvc != nil && made.Has(pvc.ClaimName) {
			errs = append(errs, field.Invalid(at.Child("persistentVolumeClaim", "claimName"), pvc.ClaimName, "must not reference a PVC that gets created for an ephemeral volume"))
		}
	}
	return sound, errs
}

// volumeType is one way to say what a volume is.
type volumeType struct {
	name   string
	set    bool
	faults func(*field.Path) field.ErrorList
}

// validateVolumeSource wants one type of volume. Of several, the first in
// Kubernetes' order is checked and the others are refused.
func validateVolumeSource(v *corev1.Volume, meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	for _, t := range volumeTypes(v, meta != nil) {
		switch {
		case !t.set:
		case found:
			errs = append(errs, field.Forbidden(path.Child(t.name), oneVolumeType))
		default:
			found = true
			errs = append(errs, t.faults(path.Child(t.name))...)
		}
	}
	if !found {
		errs = append(errs, field.Required(path, "must specify a volume type"))
	}
	if v.ISCSI != nil && v.ISCSI.InitiatorName != nil && len(v.Name+":"+v.ISCSI.TargetPortal) > 64 {
		errs = append(errs, field.Invalid(path.Child("name"), v.Name, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	if v.Ephemeral != nil && meta != nil && meta.Name != "" && v.Name != "" {
		claim := meta.Name + "-" + v.Name
		for _, m := range apivalidation.NameIsDNSSubdomain(claim, false) {
			errs = append(errs, field.Invalid(path.Child("name"), v.Name, fmt.Sprintf("PVC name %q: %v", claim, m)))
		}
	}
	return errs
}

// volumeTypes lists the ways to say what a volume is, in Kubernetes' order. A
// template may leave the reference of an image to be filled in; a pod may not.
func volumeTypes(v *corev1.Volume, pod bool) []volumeType {
	return []volumeType{
		{"emptyDir", v.EmptyDir != nil, func(p *field.Path) field.ErrorList {
			if limit := v.EmptyDir.SizeLimit; limit != nil && limit.Sign() < 0 {
				return field.ErrorList{field.Forbidden(p.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity")}
			}
			return nil
		}},
		{"hostPath", v.HostPath != nil, func(p *field.Path) field.ErrorList { return validateHostPath(v.HostPath, p) }},
		{"gitRepo", v.GitRepo != nil, func(p *field.Path) field.ErrorList {
			return append(required(v.GitRepo.Repository, p.Child("repository")), descendingPath(v.GitRepo.Directory, p.Child("directory"))...)
		}},
		{"gcePersistentDisk", v.GCEPersistentDisk != nil, func(p *field.Path) field.ErrorList { return validateGCEDisk(v.GCEPersistentDisk, p) }},
		{"awsElasticBlockStore", v.AWSElasticBlockStore != nil, func(p *field.Path) field.ErrorList {
			return append(required(v.AWSElasticBlockStore.VolumeID, p.Child("volumeID")), partition(v.AWSElasticBlockStore.Partition, p)...)
		}},
		{"secret", v.Secret != nil, func(p *field.Path) field.ErrorList {
			errs := append(required(v.Secret.SecretName, p.Child("secretName")), fileModeBits(v.Secret.DefaultMode, p.Child("defaultMode"))...)
			return append(errs, validateItems(v.Secret.Items, p.Child("items"))...)
		}},
		{"nfs", v.NFS != nil, func(p *field.Path) field.ErrorList { return validateNFS(v.NFS, p) }},
		{"iscsi", v.ISCSI != nil, func(p *field.Path) field.ErrorList { return validateISCSI(v.ISCSI, p) }},
		{"glusterfs", v.Glusterfs != nil, func(p *field.Path) field.ErrorList {
			return append(required(v.Glusterfs.EndpointsName, p.Child("endpoints")), required(v.Glusterfs.Path, p.Child("path"))...)
		}},
		{"flocker", v.Flocker != nil, func(p *field.Path) field.ErrorList { return validateFlocker(v.Flocker, p) }},
		{"persistentVolumeClaim", v.PersistentVolumeClaim != nil, func(p *field.Path) field.ErrorList {
			return required(v.PersistentVolumeClaim.ClaimName, p.Child("claimName"))
		}},
		{"rbd", v.RBD != nil, func(p *field.Path) field.ErrorList {
			return append(requiredList(v.RBD.CephMonitors, p.Child("monitors")), required(v.RBD.RBDImage, p.Child("image"))...)
		}},
		{"cinder", v.Cinder != nil, func(p *field.Path) field.ErrorList {
			return append(required(v.Cinder.VolumeID, p.Child("volumeID")), secretName(v.Cinder.SecretRef, p)...)
		}},
		{"cephFS", v.CephFS != nil, func(p *field.Path) field.ErrorList {
			return requiredList(v.CephFS.Monitors, sibling(p, "cephFS", "cephfs").Child("monitors"))
		}},
		{"quobyte", v.Quobyte != nil, func(p *field.Path) field.ErrorList { return validateQuobyte(v.Quobyte, p) }},
		// The misspelling is known to clients.
		{"downwarAPI", v.DownwardAPI != nil, func(p *field.Path) field.ErrorList {
			p = sibling(p, "downwarAPI", "downwardAPI")
			errs := fileModeBits(v.DownwardAPI.DefaultMode, p.Child("defaultMode"))
			for i := range v.DownwardAPI.Items {
				errs = append(errs, validateDownwardFile(&v.DownwardAPI.Items[i], p)...)
			}
			return errs
		}},
		{"fc", v.FC != nil, func(p *field.Path) field.ErrorList { return validateFC(v.FC, p) }},
		{"flexVolume", v.FlexVolume != nil, func(p *field.Path) field.ErrorList { return validateFlex(v.FlexVolume, p) }},
		{"configMap", v.ConfigMap != nil, func(p *field.Path) field.ErrorList {
			errs := append(required(v.ConfigMap.Name, p.Child("name")), fileModeBits(v.ConfigMap.DefaultMode, p.Child("defaultMode"))...)
			return append(errs, validateItems(v.ConfigMap.Items, p.Child("items"))...)
		}},
		{"azureFile", v.AzureFile != nil, func(p *field.Path) field.ErrorList {
			return append(required(v.AzureFile.SecretName, p.Child("secretName")), required(v.AzureFile.ShareName, p.Child("shareName"))...)
		}},
		{"vsphereVolume", v.VsphereVolume != nil, func(p *field.Path) field.ErrorList {
			return required(v.VsphereVolume.VolumePath, p.Child("volumePath"))
		}},
		{"photonPersistentDisk", v.PhotonPersistentDisk != nil, func(p *field.Path) field.ErrorList { return required(v.PhotonPersistentDisk.PdID, p.Child("pdID")) }},
		{"portworxVolume", v.PortworxVolume != nil, func(p *field.Path) field.ErrorList { return required(v.PortworxVolume.VolumeID, p.Child("volumeID")) }},
		{"azureDisk", v.AzureDisk != nil, func(p *field.Path) field.ErrorList { return validateAzureDisk(v.AzureDisk, p) }},
		{"storageos", v.StorageOS != nil, func(p *field.Path) field.ErrorList { return validateStorageOS(v.StorageOS, p) }},
		{"projected", v.Projected != nil, func(p *field.Path) field.ErrorList {
			return append(fileModeBits(v.Projected.DefaultMode, p.Child("defaultMode")), validateProjections(v.Projected.Sources, p)...)
		}},
		{"scaleIO", v.ScaleIO != nil, func(p *field.Path) field.ErrorList {
			errs := append(required(v.ScaleIO.Gateway, p.Child("gateway")), required(v.ScaleIO.System, p.Child("system"))...)
			return append(errs, required(v.ScaleIO.VolumeName, p.Child("volumeName"))...)
		}},
		{"csi", v.CSI != nil, func(p *field.Path) field.ErrorList {
			errs := ValidateDriverName(v.CSI.Driver, p.Child("driver"))
			if ref := v.CSI.NodePublishSecretRef; ref != nil && ref.Name != "" {
				errs = append(errs, invalid(p.Child("name"), ref.Name, apivalidation.NameIsDNSSubdomain(ref.Name, false))...)
			} else {
				errs = append(errs, secretNameAs(ref, p, "nodePublishSecretRef")...)
			}
			return errs
		}},
		{"ephemeral", v.Ephemeral != nil, func(p *field.Path) field.ErrorList { return validateEphemeralVolume(v.Ephemeral, p) }},
		{"image", v.Image != nil, func(p *field.Path) field.ErrorList {
			var errs field.ErrorList
			if pod {
				errs = required(v.Image.Reference, p.Child("reference"))
			}
			return append(errs, oneOf(v.Image.PullPolicy, p.Child("pullPolicy"), corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
		}},
	}
}

func validateHostPath(h *corev1.HostPathVolumeSource, path *field.Path) field.ErrorList {
	if h.Path == "" {
		return field.ErrorList{field.Required(path.Child("path"), "")}
	}
	errs := noBacksteps(h.Path, path.Child("path"))
	if h.Type != nil {
		errs = append(errs, anyOf(*h.Type, path.Child("type"), corev1.HostPathUnset, corev1.HostPathBlockDev, corev1.HostPathCharDev,
			corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate, corev1.HostPathFile, corev1.HostPathFileOrCreate, corev1.HostPathSocket)...)
	}
	return errs
}

// ValidateDriverName checks the name of a CSI driver.
func ValidateDriverName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > 63 {
		errs = append(errs, field.TooLong(path, "", 63))
	}
	return append(errs, invalid(path, name, validation.IsDNS1123Subdomain(strings.ToLower(name)))...)
}

func validateEphemeralVolume(e *corev1.EphemeralVolumeSource, path *field.Path) field.ErrorList {
	at := path.Child("volumeClaimTemplate")
	if e.VolumeClaimTemplate == nil {
		return field.ErrorList{field.Required(at, "")}
	}
	t := e.VolumeClaimTemplate
	errs := ValidateTemplateMeta(t.ObjectMeta, at.Child("metadata"))
	return append(errs, ValidateClaimSpec(&t.Spec, at.Child("spec"))...)
}

// ValidateClaimSpec checks what a claim asks for: access modes and size, and
// the names it uses.
func ValidateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	return validateClaimSpec(spec, false, path)
}

// validateClaimSpec lets the groups of data sources be anything if anyGroup.
func validateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, anyGroup bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.AccessModes) == 0 {
		errs = append(errs, field.Required(path.Child("accessModes"), "at least 1 access mode is required"))
	}
	if spec.Selector != nil {
		errs = append(errs, unversioned.ValidateLabelSelector(spec.Selector, unversioned.LabelSelectorValidationOptions{}, path.Child("selector"))...)
	}
	for _, m := range spec.AccessModes {
		errs = append(errs, anyOf(m, path.Child("accessModes"), corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	if len(spec.AccessModes) > 1 && slices.Contains(spec.AccessModes, corev1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(path.Child("accessModes"), "may not use ReadWriteOncePod with other access modes"))
	}
	storage, set := spec.Resources.Requests[corev1.ResourceStorage]
	at := path.Child("resources").Key(string(corev1.ResourceStorage))
	if !set {
		errs = append(errs, field.Required(at, ""))
	} else if storage.Sign() <= 0 {
		errs = append(errs, field.Invalid(at, storage.String(), positive))
	}
	if name := ptr.Deref(spec.StorageClassName, ""); name != "" {
		errs = append(errs, invalid(path.Child("storageClassName"), name, apivalidation.NameIsDNSSubdomain(name, false))...)
	}
	if m := spec.VolumeMode; m != nil {
		errs = append(errs, anyOf(*m, path.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	if d := spec.DataSource; d != nil {
		errs = append(errs, validateDataSource(d.Kind, d.Name, d.APIGroup, anyGroup, path.Child("dataSource"))...)
	}
	if d := spec.DataSourceRef; d != nil {
		errs = append(errs, validateDataSource(d.Kind, d.Name, d.APIGroup, anyGroup, path.Child("dataSourceRef"))...)
		if d.Namespace != nil && *d.Namespace != "" {
			errs = append(errs, invalid(path.Child("dataSourceRef", "namespace"), *d.Namespace, apivalidation.ValidateNamespaceName(*d.Namespace, false))...)
			if spec.DataSource != nil {
				errs = append(errs, field.Invalid(path, path.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
			}
		} else if s := spec.DataSource; s != nil && (s.Kind != d.Kind || s.Name != d.Name || !ptr.Equal(s.APIGroup, d.APIGroup)) {
			errs = append(errs, field.Invalid(path, path.Child("dataSource"), "must match dataSourceRef"))
		}
	}
	if name := ptr.Deref(spec.VolumeAttributesClassName, ""); name != "" {
		errs = append(errs, invalid(path.Child("volumeAttributesClassName"), name, apivalidation.NameIsDNSSubdomain(name, false))...)
	}
	return errs
}

func validateDataSource(kind, name string, group *string, anyGroup bool, path *field.Path) field.ErrorList {
	errs := append(required(name, path.Child("name")), required(kind, path.Child("kind"))...)
	g := ptr.Deref(group, "")
	if g == "" && kind != "PersistentVolumeClaim" {
		errs = append(errs, field.Invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	if g != "" && !anyGroup {
		errs = append(errs, dnsSubdomain(g, path.Child("apiGroup"))...)
	}
	return errs
}

func validateItems(items []corev1.KeyToPath, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		at := path.Index(i)
		errs = append(errs, required(item.Key, at.Child("key"))...)
		errs = append(errs, required(item.Path, at.Child("path"))...)
		errs = append(errs, projectedPath(item.Path, at.Child("path"))...)
		errs = append(errs, fileModeBits(item.Mode, at.Child("mode"))...)
	}
	return errs
}

func validateProjections(sources []corev1.VolumeProjection, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	paths := sets.New[string]()
	claim := func(file string, value string) {
		if file != "" && paths.Has(file) {
			errs = append(errs, field.Invalid(path, value, "conflicting duplicate paths"))
		}
		paths.Insert(file)
	}
	items := func(name string, items []corev1.KeyToPath, at *field.Path) {
		errs = append(errs, required(name, at.Child("name"))...)
		errs = append(errs, validateItems(items, at.Child("items"))...)
		for _, item := range items {
			claim(item.Path, name)
		}
	}
	for i := range sources {
		s, at := &sources[i], path.Child("sources").Index(i)
		kinds := 0
		if s.Secret != nil {
			kinds++
			items(s.Secret.Name, s.Secret.Items, at.Child("secret"))
		}
		if s.ConfigMap != nil {
			kinds++
			items(s.ConfigMap.Name, s.ConfigMap.Items, at.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			kinds++
			for j := range s.DownwardAPI.Items {
				file := &s.DownwardAPI.Items[j]
				errs = append(errs, validateDownwardFile(file, at.Child("downwardAPI"))...)
				claim(file.Path, file.Path)
			}
		}
		if token := s.ServiceAccountToken; token != nil {
			kinds++
			errs = append(errs, validateTokenProjection(token, path, at.Child("serviceAccountToken"))...)
		}
		if kinds > 1 {
			errs = append(errs, field.Forbidden(at, "may not specify more than 1 volume type per source"))
		}
	}
	return errs
}

func validateTokenProjection(t *corev1.ServiceAccountTokenProjection, volume, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seconds := ptr.Deref(t.ExpirationSeconds, 0)
	if seconds < 10*60 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > 1<<32 {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if t.Path == "" {
		return append(errs, field.Required(volume.Child("path"), ""))
	}
	return append(errs, projectedPath(t.Path, volume.Child("path"))...)
}
