package core

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// mounts checks a container's volume mounts. Where the path names no index
// (subPath, mountPropagation), Kubernetes names none either.
func (s *containerScope) mounts(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	points := sets.New[string]()
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], path.Index(i)
		errs = append(errs, required(m.Name, at.Child("name"))...)
		if s.volumes[m.Name] == nil {
			errs = append(errs, field.NotFound(at.Child("name"), m.Name))
		}
		errs = append(errs, required(m.MountPath, at.Child("mountPath"))...)
		if points.Has(m.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must be unique"))
		}
		points.Insert(m.MountPath)
		if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.Name == m.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices"))
		}
		if slices.ContainsFunc(c.VolumeDevices, func(d corev1.VolumeDevice) bool { return d.DevicePath == m.MountPath }) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices"))
		}
		if m.SubPath != "" {
			errs = append(errs, descendingPath(m.SubPath, path.Child("subPath"))...)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				errs = append(errs, field.Invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
			}
			errs = append(errs, descendingPath(m.SubPathExpr, path.Child("subPathExpr"))...)
		}
		if p := m.MountPropagation; p != nil {
			errs = append(errs, anyOf(*p, path.Child("mountPropagation"), corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)...)
			if *p == corev1.MountPropagationBidirectional && !isPrivileged(c) {
				errs = append(errs, field.Forbidden(path.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
			}
		}
		errs = append(errs, validateRecursiveReadOnly(m, path.Child("recursiveReadOnly"))...)
	}
	return errs
}

func validateRecursiveReadOnly(m *corev1.VolumeMount, path *field.Path) field.ErrorList {
	if m.RecursiveReadOnly == nil {
		return nil
	}
	var errs field.ErrorList
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyDisabled:
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			errs = append(errs, field.Forbidden(path, "may only be specified when readOnly is true"))
		}
		if p := m.MountPropagation; p != nil && *p != corev1.MountPropagationNone {
			errs = append(errs, field.Forbidden(path, "may only be specified when mountPropagation is None or not specified"))
		}
	default:
		errs = anyOf(*m.RecursiveReadOnly, path, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible)
	}
	return errs
}

func isPrivileged(c *corev1.Container) bool {
	return c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
}

// devices checks the block devices a container uses.
func (s *containerScope) devices(c *corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names, points := sets.New[string](), sets.New[string]()
	for i := range c.VolumeDevices {
		d, at := &c.VolumeDevices[i], path.Index(i)
		errs = append(errs, required(d.Name, at.Child("name"))...)
		if d.Name != "" && names.Has(d.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must be unique"))
		}
		names.Insert(d.Name)
		if v := s.volumes[d.Name]; v == nil {
			errs = append(errs, field.NotFound(at.Child("name"), d.Name))
		} else if v.PersistentVolumeClaim == nil && v.Ephemeral == nil {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		errs = append(errs, required(d.DevicePath, at.Child("devicePath"))...)
		if points.Has(d.DevicePath) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must be unique"))
		}
		points.Insert(d.DevicePath)
		if len(noBacksteps(d.DevicePath, at)) > 0 {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "can not contain backsteps ('..')"))
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == d.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts"))
		}
		if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == d.DevicePath }) {
			errs = append(errs, field.Invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts"))
		}
	}
	return errs
}

// fileKeyVolumes checks that variables read from files are in emptyDir volumes.
func (s *containerScope) fileKeyVolumes(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	sources := map[string]*corev1.VolumeSource{}
	for i := range s.spec.Volumes {
		sources[s.spec.Volumes[i].Name] = &s.spec.Volumes[i].VolumeSource
	}
	for c, at := range everyContainerAt(s.spec, path) {
		for j, e := range c.Env {
			if e.ValueFrom == nil || e.ValueFrom.FileKeyRef == nil {
				continue
			}
			name, p := e.ValueFrom.FileKeyRef.VolumeName, at.Child("env").Index(j).Child("valueFrom", "fileKeyRef", "volumeName")
			if v := sources[name]; v == nil {
				errs = append(errs, field.NotFound(p, name))
			} else if v.EmptyDir == nil {
				errs = append(errs, field.Invalid(p, name, "referenced volume must be of type emptyDir"))
			}
		}
	}
	return errs
}

var volumeFieldPaths = sets.New("metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid")

func validateDownwardFile(f *corev1.DownwardAPIVolumeFile, path *field.Path) field.ErrorList {
	errs := required(f.Path, path.Child("path"))
	errs = append(errs, projectedPath(f.Path, path.Child("path"))...)
	switch {
	case f.FieldRef != nil:
		errs = append(errs, validateFieldRef(f.FieldRef, volumeFieldPaths, path.Child("fieldRef"))...)
		if f.ResourceFieldRef != nil {
			errs = append(errs, field.Invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		}
	case f.ResourceFieldRef != nil:
		errs = append(errs, validateResourceRef(f.ResourceFieldRef, path.Child("resourceFieldRef"), true)...)
	default:
		errs = append(errs, field.Required(path, "one of fieldRef and resourceFieldRef is required"))
	}
	return append(errs, fileModeBits(f.Mode, path.Child("mode"))...)
}

// downwardLabels are all fields of a pod that the downward API can name;
// environment variables and volumes each take some of them.
var downwardLabels = envFieldPaths.Union(volumeFieldPaths).Union(sets.New("spec.restartPolicy", "spec.schedulerName", "status.phase"))

var subscripted = regexp.MustCompile(`^(.*)\['([^']*)'\]$`)

func validateFieldRef(ref *corev1.ObjectFieldSelector, allowed sets.Set[string], path *field.Path) field.ErrorList {
	if ref.APIVersion == "" {
		return field.ErrorList{field.Required(path.Child("apiVersion"), "")}
	}
	if ref.FieldPath == "" {
		return field.ErrorList{field.Required(path.Child("fieldPath"), "")}
	}
	unreadable := func(why string) field.ErrorList {
		return field.ErrorList{field.Invalid(path.Child("fieldPath"), ref.FieldPath, "error converting fieldPath: "+why)}
	}
	if ref.APIVersion != "v1" {
		return unreadable("unsupported pod version: " + ref.APIVersion)
	}
	if m := subscripted.FindStringSubmatch(ref.FieldPath); m != nil {
		switch m[1] {
		case "metadata.annotations":
			return qualifiedName(strings.ToLower(m[2]), path)
		case "metadata.labels":
			return qualifiedName(m[2], path)
		}
		return unreadable("field label does not support subscript: " + ref.FieldPath)
	}
	label := ref.FieldPath
	if label == "spec.host" {
		label = "spec.nodeName"
	}
	if !downwardLabels.Has(label) {
		return unreadable("field label not supported: " + label)
	}
	if !allowed.Has(label) {
		return field.ErrorList{field.NotSupported(path.Child("fieldPath"), label, sets.List(allowed))}
	}
	return nil
}

var (
	resourceRefs   = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"}
	cpuDivisors    = []string{"1m", "1"}
	memoryDivisors = []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
)

func validateResourceRef(ref *corev1.ResourceFieldSelector, path *field.Path, volume bool) field.ErrorList {
	var errs field.ErrorList
	huge := strings.HasPrefix(ref.Resource, "requests.hugepages-") || strings.HasPrefix(ref.Resource, "limits.hugepages-")
	switch {
	case volume && ref.ContainerName == "":
		errs = append(errs, field.Required(path.Child("containerName"), ""))
	case ref.Resource == "":
		errs = append(errs, field.Required(path.Child("resource"), ""))
	case !huge && !slices.Contains(resourceRefs, ref.Resource):
		errs = append(errs, field.NotSupported(path.Child("resource"), ref.Resource, resourceRefs))
	}
	if ref.Divisor.IsZero() {
		return errs
	}
	divisors, what := memoryDivisors, ""
	_, kind, _ := strings.Cut(ref.Resource, ".")
	switch {
	case kind == "cpu":
		if !slices.Contains(cpuDivisors, ref.Divisor.String()) {
			errs = append(errs, field.Invalid(path.Child("divisor"), ref.Resource, "only divisor's values 1m and 1 are supported with the cpu resource"))
		}
		return errs
	case kind == "memory":
		what = "memory"
	case kind == "ephemeral-storage":
		what = "local ephemeral storage"
	case huge:
		what = "hugepages"
	default:
		return errs
	}
	if !slices.Contains(divisors, ref.Divisor.String()) {
		errs = append(errs, field.Invalid(path.Child("divisor"), ref.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(divisors, ", "), what)))
	}
	return errs
}
