package core

import (
	"net"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Volumes by drivers that once were in Kubernetes' tree. No node agent mounts
// most of them, but clients still send them, and CSI drivers take some over.

func defaultDrivers(v *corev1.Volume) {
	text := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	if v.ISCSI != nil {
		text(&v.ISCSI.ISCSIInterface, "default")
	}
	if v.RBD != nil {
		text(&v.RBD.RBDPool, "rbd")
		text(&v.RBD.RadosUser, "admin")
		text(&v.RBD.Keyring, "/etc/ceph/keyring")
	}
	if v.ScaleIO != nil {
		text(&v.ScaleIO.StorageMode, "ThinProvisioned")
		text(&v.ScaleIO.FSType, "xfs")
	}
	if d := v.AzureDisk; d != nil {
		if d.CachingMode == nil {
			d.CachingMode = ptr.To(corev1.AzureDataDiskCachingReadWrite)
		}
		if d.FSType == nil {
			d.FSType = ptr.To("ext4")
		}
		if d.ReadOnly == nil {
			d.ReadOnly = ptr.To(false)
		}
		if d.Kind == nil {
			d.Kind = ptr.To(corev1.AzureSharedBlobDisk)
		}
	}
}

// sibling replaces the last element of a path, where Kubernetes names a field
// one way when it is one too many and another way when it has faults.
func sibling(p *field.Path, from, to string) *field.Path {
	return field.NewPath(strings.TrimSuffix(p.String(), from) + to)
}

func requiredList(list []string, path *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

func secretName(ref *corev1.LocalObjectReference, path *field.Path) field.ErrorList {
	return secretNameAs(ref, path, "secretRef")
}

func secretNameAs(ref *corev1.LocalObjectReference, path *field.Path, name string) field.ErrorList {
	if ref != nil {
		return required(ref.Name, path.Child(name, "name"))
	}
	return nil
}

// partition checks the number of a disk's partition; 0 is the whole disk.
func partition(n int32, path *field.Path) field.ErrorList {
	if n < 0 || n > 255 {
		return field.ErrorList{field.Invalid(path.Child("partition"), n, validation.InclusiveRangeError(1, 255))}
	}
	return nil
}

func validateGCEDisk(d *corev1.GCEPersistentDiskVolumeSource, path *field.Path) field.ErrorList {
	path = sibling(path, "gcePersistentDisk", "persistentDisk")
	return append(required(d.PDName, path.Child("pdName")), partition(d.Partition, path)...)
}

func validateNFS(n *corev1.NFSVolumeSource, path *field.Path) field.ErrorList {
	errs := append(required(n.Server, path.Child("server")), required(n.Path, path.Child("path"))...)
	if !strings.HasPrefix(n.Path, "/") {
		errs = append(errs, field.Invalid(path.Child("path"), n.Path, "must be an absolute path"))
	}
	return errs
}

var iscsiNames = map[string]*regexp.Regexp{
	"iqn": regexp.MustCompile(`iqn\.\d{4}-\d{2}\.([[:alnum:]-.]+)(:[^,;*&$|\s]+)$`),
	"eui": regexp.MustCompile(`^eui.[[:alnum:]]{16}$`),
	"naa": regexp.MustCompile(`^naa.[[:alnum:]]{32}$`),
}

func validateISCSIName(name string, path *field.Path) field.ErrorList {
	for prefix, form := range iscsiNames {
		if strings.HasPrefix(name, prefix) {
			if !form.MatchString(name) {
				return field.ErrorList{field.Invalid(path, name, "must be valid format")}
			}
			return nil
		}
	}
	return field.ErrorList{field.Invalid(path, name, "must be valid format starting with iqn, eui, or naa")}
}

func validateISCSI(s *corev1.ISCSIVolumeSource, path *field.Path) field.ErrorList {
	errs := required(s.TargetPortal, path.Child("targetPortal"))
	if s.IQN == "" {
		errs = append(errs, field.Required(path.Child("iqn"), ""))
	} else {
		errs = append(errs, validateISCSIName(s.IQN, path.Child("iqn"))...)
	}
	if s.Lun < 0 || s.Lun > 255 {
		errs = append(errs, field.Invalid(path.Child("lun"), s.Lun, validation.InclusiveRangeError(0, 255)))
	}
	if (s.DiscoveryCHAPAuth || s.SessionCHAPAuth) && s.SecretRef == nil {
		errs = append(errs, field.Required(path.Child("secretRef"), ""))
	}
	if s.InitiatorName != nil {
		errs = append(errs, validateISCSIName(*s.InitiatorName, path.Child("initiatorname"))...)
	}
	return errs
}

func validateFC(fc *corev1.FCVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, ids := len(fc.TargetWWNs) > 0, len(fc.WWIDs) > 0
	if !names && !ids {
		errs = append(errs, field.Required(path.Child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"))
	}
	if names && ids {
		errs = append(errs, field.Invalid(path.Child("targetWWNs"), fc.TargetWWNs, "targetWWNs and wwids can not be specified simultaneously"))
	}
	if names && fc.Lun == nil {
		errs = append(errs, field.Required(path.Child("lun"), "lun is required if targetWWNs is specified"))
	} else if names && (*fc.Lun < 0 || *fc.Lun > 255) {
		errs = append(errs, field.Invalid(path.Child("lun"), fc.Lun, validation.InclusiveRangeError(0, 255)))
	}
	return errs
}

func validateFlocker(f *corev1.FlockerVolumeSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case f.DatasetName == "" && f.DatasetUUID == "":
		errs = append(errs, field.Required(path, "one of datasetName and datasetUUID is required"))
	case f.DatasetName != "" && f.DatasetUUID != "":
		errs = append(errs, field.Invalid(path, "resource", "datasetName and datasetUUID can not be specified simultaneously"))
	}
	if strings.Contains(f.DatasetName, "/") {
		errs = append(errs, field.Invalid(path.Child("datasetName"), f.DatasetName, "must not contain '/'"))
	}
	return errs
}

func validateQuobyte(q *corev1.QuobyteVolumeSource, path *field.Path) field.ErrorList {
	const form = "must be a host:port pair or multiple pairs separated by commas"
	var errs field.ErrorList
	switch {
	case q.Registry == "":
		errs = append(errs, field.Required(path.Child("registry"), form))
	case len(q.Tenant) >= 65:
		errs = append(errs, field.Required(path.Child("tenant"), "must be a UUID and may not exceed a length of 64 characters"))
	default:
		for _, pair := range strings.Split(q.Registry, ",") {
			if _, _, err := net.SplitHostPort(pair); err != nil {
				errs = append(errs, field.Invalid(path.Child("registry"), q.Registry, form))
			}
		}
	}
	return append(errs, required(q.Volume, path.Child("volume"))...)
}

func validateFlex(f *corev1.FlexVolumeSource, path *field.Path) field.ErrorList {
	errs := required(f.Driver, path.Child("driver"))
	for key := range f.Options {
		domain, _, _ := strings.Cut(key, "/")
		domain = "." + strings.ToLower(domain)
		if strings.HasSuffix(domain, ".kubernetes.io") || strings.HasSuffix(domain, ".k8s.io") {
			errs = append(errs, field.Invalid(path.Child("options").Key(key), key, "kubernetes.io and k8s.io namespaces are reserved"))
		}
	}
	return errs
}

func validateAzureDisk(d *corev1.AzureDiskVolumeSource, path *field.Path) field.ErrorList {
	errs := append(required(d.DiskName, path.Child("diskName")), required(d.DataDiskURI, path.Child("diskURI"))...)
	if m := d.CachingMode; m != nil {
		errs = append(errs, anyOf(*m, path.Child("cachingMode"), corev1.AzureDataDiskCachingNone, corev1.AzureDataDiskCachingReadOnly, corev1.AzureDataDiskCachingReadWrite)...)
	}
	if d.Kind == nil {
		return errs
	}
	errs = append(errs, anyOf(*d.Kind, path.Child("kind"), corev1.AzureDedicatedBlobDisk, corev1.AzureManagedDisk, corev1.AzureSharedBlobDisk)...)
	start, form := "https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
	if *d.Kind == corev1.AzureManagedDisk {
		start, form = "/subscriptions/", "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
	}
	if !strings.HasPrefix(d.DataDiskURI, start) {
		errs = append(errs, field.NotSupported(path.Child("diskURI"), d.DataDiskURI, []string{form}))
	}
	return errs
}

func validateStorageOS(s *corev1.StorageOSVolumeSource, path *field.Path) field.ErrorList {
	errs := required(s.VolumeName, path.Child("volumeName"))
	if s.VolumeName != "" {
		errs = dnsLabel(s.VolumeName, path.Child("volumeName"))
	}
	if s.VolumeNamespace != "" {
		errs = append(errs, dnsLabel(s.VolumeNamespace, path.Child("volumeNamespace"))...)
	}
	return append(errs, secretName(s.SecretRef, path)...)
}
