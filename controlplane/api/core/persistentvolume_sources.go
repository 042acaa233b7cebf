package core

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// DefaultVolumeSource fills in what the drivers of a persistent volume leave
// out.
func DefaultVolumeSource(s *corev1.PersistentVolumeSource) {
	if s.HostPath != nil && s.HostPath.Type == nil {
		s.HostPath.Type = ptr.To(corev1.HostPathUnset)
	}
	text := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	if s.RBD != nil {
		text(&s.RBD.RBDPool, "rbd")
		text(&s.RBD.RadosUser, "admin")
		text(&s.RBD.Keyring, "/etc/ceph/keyring")
	}
	if s.ISCSI != nil {
		text(&s.ISCSI.ISCSIInterface, "default")
	}
	if s.ScaleIO != nil {
		text(&s.ScaleIO.StorageMode, "ThinProvisioned")
		text(&s.ScaleIO.FSType, "xfs")
	}
	if s.AzureDisk != nil {
		// A pod's volume has the same type and defaults.
		defaultDrivers(&corev1.Volume{VolumeSource: corev1.VolumeSource{AzureDisk: s.AzureDisk}})
	}
}

// takesMountOptions says whether the annotation with mount options, which the
// field mountOptions replaced, may be on a volume.
func takesMountOptions(s *corev1.PersistentVolumeSource) bool {
	return s.GCEPersistentDisk != nil || s.AWSElasticBlockStore != nil || s.Glusterfs != nil || s.NFS != nil ||
		s.RBD != nil || s.Quobyte != nil || s.ISCSI != nil || s.Cinder != nil || s.CephFS != nil || s.AzureFile != nil ||
		s.VsphereVolume != nil || s.AzureDisk != nil || s.PhotonPersistentDisk != nil
}

// validateSource wants one type of volume, as validateVolumeSource does for
// pods.
func validateSource(spec *corev1.PersistentVolumeSpec, name string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	found := false
	for _, t := range sourceTypes(&spec.PersistentVolumeSource, name) {
		switch {
		case !t.set:
		case found:
			errs = append(errs, field.Forbidden(at.Child(t.name), oneVolumeType))
		default:
			found = true
			errs = append(errs, t.faults(at.Child(t.name))...)
		}
	}
	if !found {
		errs = append(errs, field.Required(at, "must specify a volume type"))
	}
	if spec.Local != nil && spec.NodeAffinity == nil {
		errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
	}
	if h := spec.HostPath; h != nil && path.Clean(h.Path) == "/" && spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
	}
	return errs
}

func sourceTypes(s *corev1.PersistentVolumeSource, name string) []volumeType {
	return []volumeType{
		{"hostPath", s.HostPath != nil, func(p *field.Path) field.ErrorList { return validateHostPath(s.HostPath, p) }},
		{"gcePersistentDisk", s.GCEPersistentDisk != nil, func(p *field.Path) field.ErrorList { return validateGCEDisk(s.GCEPersistentDisk, p) }},
		{"awsElasticBlockStore", s.AWSElasticBlockStore != nil, func(p *field.Path) field.ErrorList {
			return append(required(s.AWSElasticBlockStore.VolumeID, p.Child("volumeID")), partition(s.AWSElasticBlockStore.Partition, p)...)
		}},
		{"glusterfs", s.Glusterfs != nil, func(p *field.Path) field.ErrorList {
			errs := append(required(s.Glusterfs.EndpointsName, p.Child("endpoints")), required(s.Glusterfs.Path, p.Child("path"))...)
			ns := s.Glusterfs.EndpointsNamespace
			switch {
			case ns == nil:
			case *ns == "":
				errs = append(errs, field.Invalid(p.Child("endpointsNamespace"), *ns, "if the endpointnamespace is set, it must be a valid namespace name"))
			default:
				errs = append(errs, invalid(p.Child("endpointsNamespace"), *ns, apivalidation.ValidateNamespaceName(*ns, false))...)
			}
			return errs
		}},
		{"flocker", s.Flocker != nil, func(p *field.Path) field.ErrorList { return validateFlocker(s.Flocker, p) }},
		{"nfs", s.NFS != nil, func(p *field.Path) field.ErrorList { return validateNFS(s.NFS, p) }},
		{"rbd", s.RBD != nil, func(p *field.Path) field.ErrorList {
			return append(requiredList(s.RBD.CephMonitors, p.Child("monitors")), required(s.RBD.RBDImage, p.Child("image"))...)
		}},
		{"quobyte", s.Quobyte != nil, func(p *field.Path) field.ErrorList { return validateQuobyte(s.Quobyte, p) }},
		{"cephFS", s.CephFS != nil, func(p *field.Path) field.ErrorList {
			return requiredList(s.CephFS.Monitors, sibling(p, "cephFS", "cephfs").Child("monitors"))
		}},
		{"iscsi", s.ISCSI != nil, func(p *field.Path) field.ErrorList { return validatePersistentISCSI(s.ISCSI, name, p) }},
		{"cinder", s.Cinder != nil, func(p *field.Path) field.ErrorList {
			return append(required(s.Cinder.VolumeID, p.Child("volumeID")), fullReference(s.Cinder.SecretRef, p)...)
		}},
		{"fc", s.FC != nil, func(p *field.Path) field.ErrorList { return validateFC(s.FC, p) }},
		{"flexVolume", s.FlexVolume != nil, func(p *field.Path) field.ErrorList {
			return validateFlex(&corev1.FlexVolumeSource{Driver: s.FlexVolume.Driver, Options: s.FlexVolume.Options}, p)
		}},
		{"azureFile", s.AzureFile != nil, func(p *field.Path) field.ErrorList {
			errs := append(required(s.AzureFile.SecretName, p.Child("secretName")), required(s.AzureFile.ShareName, p.Child("shareName"))...)
			if ns := s.AzureFile.SecretNamespace; ns != nil {
				errs = append(errs, required(*ns, p.Child("secretNamespace"))...)
			}
			return errs
		}},
		{"vsphereVolume", s.VsphereVolume != nil, func(p *field.Path) field.ErrorList {
			return required(s.VsphereVolume.VolumePath, p.Child("volumePath"))
		}},
		{"photonPersistentDisk", s.PhotonPersistentDisk != nil, func(p *field.Path) field.ErrorList { return required(s.PhotonPersistentDisk.PdID, p.Child("pdID")) }},
		{"portworxVolume", s.PortworxVolume != nil, func(p *field.Path) field.ErrorList { return required(s.PortworxVolume.VolumeID, p.Child("volumeID")) }},
		{"azureDisk", s.AzureDisk != nil, func(p *field.Path) field.ErrorList { return validateAzureDisk(s.AzureDisk, p) }},
		{"scaleIO", s.ScaleIO != nil, func(p *field.Path) field.ErrorList {
			errs := append(required(s.ScaleIO.Gateway, p.Child("gateway")), required(s.ScaleIO.System, p.Child("system"))...)
			return append(errs, required(s.ScaleIO.VolumeName, p.Child("volumeName"))...)
		}},
		{"local", s.Local != nil, func(p *field.Path) field.ErrorList {
			return append(required(s.Local.Path, p.Child("path")), noBacksteps(s.Local.Path, p.Child("path"))...)
		}},
		{"storageos", s.StorageOS != nil, func(p *field.Path) field.ErrorList {
			errs := validateStorageOS(&corev1.StorageOSVolumeSource{VolumeName: s.StorageOS.VolumeName, VolumeNamespace: s.StorageOS.VolumeNamespace}, p)
			if ref := s.StorageOS.SecretRef; ref != nil {
				errs = append(errs, fullReference(&corev1.SecretReference{Name: ref.Name, Namespace: ref.Namespace}, p)...)
			}
			return errs
		}},
		{"csi", s.CSI != nil, func(p *field.Path) field.ErrorList { return validatePersistentCSI(s.CSI, p) }},
	}
}

// fullReference checks the reference to a secret of any namespace that old
// drivers have.
func fullReference(ref *corev1.SecretReference, p *field.Path) field.ErrorList {
	if ref == nil {
		return nil
	}
	return append(required(ref.Name, p.Child("secretRef", "name")), required(ref.Namespace, p.Child("secretRef", "namespace"))...)
}

func validatePersistentISCSI(s *corev1.ISCSIPersistentVolumeSource, name string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.InitiatorName != nil && len(name+":"+s.TargetPortal) > 64 {
		errs = append(errs, field.Invalid(p.Child("targetportal"), s.TargetPortal, "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified."))
	}
	same := &corev1.ISCSIVolumeSource{
		TargetPortal: s.TargetPortal, IQN: s.IQN, Lun: s.Lun, InitiatorName: s.InitiatorName,
		DiscoveryCHAPAuth: s.DiscoveryCHAPAuth, SessionCHAPAuth: s.SessionCHAPAuth,
	}
	if s.SecretRef != nil {
		same.SecretRef = &corev1.LocalObjectReference{Name: s.SecretRef.Name}
	}
	for _, err := range validateISCSI(same, p) {
		// Kubernetes says less of a volume's names than of a pod's.
		if strings.HasPrefix(err.Detail, "must be valid format") {
			err.Detail = "must be valid format"
		}
		errs = append(errs, err)
	}
	if s.SecretRef != nil {
		errs = append(errs, required(s.SecretRef.Name, p.Child("secretRef", "name"))...)
	}
	return errs
}

func validatePersistentCSI(c *corev1.CSIPersistentVolumeSource, p *field.Path) field.ErrorList {
	errs := ValidateDriverName(c.Driver, p.Child("driver"))
	errs = append(errs, required(c.VolumeHandle, p.Child("volumeHandle"))...)
	for _, secret := range []struct {
		name string
		ref  *corev1.SecretReference
	}{
		{"controllerPublishSecretRef", c.ControllerPublishSecretRef}, {"controllerExpandSecretRef", c.ControllerExpandSecretRef},
		{"nodePublishSecretRef", c.NodePublishSecretRef}, {"nodeExpandSecretRef", c.NodeExpandSecretRef},
	} {
		if secret.ref == nil {
			continue
		}
		check := func(value, name string, form func(string, *field.Path) field.ErrorList) {
			at := p.Child(secret.name, name)
			if value == "" {
				errs = append(errs, field.Required(at, ""))
				return
			}
			errs = append(errs, form(value, at)...)
		}
		check(secret.ref.Name, "name", dnsSubdomain)
		check(secret.ref.Namespace, "namespace", dnsLabel)
	}
	return errs
}
