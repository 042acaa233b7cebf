package pods

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/devices"
	"clusterctl/nodeagent/images"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/volumes"
)

// containerConfig is what the runtime has to know to make one run of c.
// imageRef is the reference that the runtime gave its image.
func (a *Agent) containerConfig(ctx context.Context, pod *v1.Pod, c *v1.Container, attempt uint32, imageRef string, ips []string, mounted *volumes.Mounted) (*criv1.ContainerConfig, error) {
	env, values, err := a.environment(ctx, pod, c, mounted)
	if err != nil {
		return nil, err
	}
	image, err := a.Runtime.Images.ImageStatus(ctx, &criv1.ImageSpec{Image: imageRef}, false)
	if err != nil {
		return nil, fmt.Errorf("look at image: %w", err)
	}
	var imageUID *int64
	if uid := image.GetImage().GetUid(); uid != nil {
		imageUID = &uid.Value
	}
	security, err := a.securityContext(ctx, pod, c, image.GetImage().GetUsername(), imageUID)
	if err != nil {
		return nil, err
	}
	security.SupplementalGroups = append(security.SupplementalGroups, mounted.Groups(pod)...)
	recursively, err := a.mountsRecursively(ctx, pod, c)
	if err != nil {
		return nil, err
	}
	mounts, err := a.mounts(pod, c, attempt, ips, mounted, values, recursively)
	if err != nil {
		return nil, err
	}
	block, err := blockDevices(c, mounted)
	if err != nil {
		return nil, err
	}
	access, err := a.Devices.Access(ctx, pod, c)
	if err != nil {
		return nil, err
	}
	mapUsers(mounts, security.NamespaceOptions.UsernsOptions)
	if err := os.MkdirAll(filepath.Join(a.logDirectory(pod), c.Name), 0o755); err != nil {
		return nil, fmt.Errorf("make log directory: %w", err)
	}
	config := &criv1.ContainerConfig{
		Metadata:    &criv1.ContainerMetadata{Name: c.Name, Attempt: attempt},
		Image:       &criv1.ImageSpec{Image: imageRef, UserSpecifiedImage: c.Image},
		WorkingDir:  c.WorkingDir,
		Envs:        env,
		Mounts:      mounts,
		Devices:     block,
		Labels:      runtime.ContainerLabels(pod, c.Name),
		Annotations: runtime.ContainerAnnotations(pod, c, Hash(c), attempt),
		LogPath:     filepath.Join(c.Name, strconv.FormatUint(uint64(attempt), 10)+".log"),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		Linux: &criv1.LinuxContainerConfig{
			Resources:       cgroups.ContainerResources(pod, c, a.MemoryCapacity),
			SecurityContext: security,
		},
	}
	for _, part := range c.Command {
		config.Command = append(config.Command, expand(part, values))
	}
	for _, part := range c.Args {
		config.Args = append(config.Args, expand(part, values))
	}
	give(config, access)
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		config.StopSignal = criv1.Signal(criv1.Signal_value[string(*c.Lifecycle.StopSignal)])
	}
	return config, nil
}

// give lets a container have its devices. What the pod itself says of an
// environment variable counts.
func give(config *criv1.ContainerConfig, access *devices.Access) {
	for _, name := range access.CDI {
		config.CDIDevices = append(config.CDIDevices, &criv1.CDIDevice{Name: name})
	}
	env := make([]*criv1.KeyValue, 0, len(access.Env)+len(config.Envs))
	for _, key := range slices.Sorted(maps.Keys(access.Env)) {
		env = append(env, &criv1.KeyValue{Key: key, Value: []byte(access.Env[key])})
	}
	config.Envs = append(env, config.Envs...)
	config.Mounts = append(config.Mounts, access.Mounts...)
	config.Devices = append(config.Devices, access.Devices...)
	for key, value := range access.Annotations {
		if _, ours := config.Annotations[key]; !ours {
			config.Annotations[key] = value
		}
	}
}

// mounts are the container's volumes, its hosts file and its termination log.
func (a *Agent) mounts(pod *v1.Pod, c *v1.Container, attempt uint32, ips []string, mounted *volumes.Mounted, env map[string]string, recursively bool) ([]*criv1.Mount, error) {
	var mounts []*criv1.Mount
	hosts := false
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		hosts = hosts || m.MountPath == "/etc/hosts"
		readOnly, err := recursive(m, recursively)
		if err != nil {
			return nil, fmt.Errorf("failed to resolve recursive read-only mode: %w", err)
		}
		mount := &criv1.Mount{
			ContainerPath:     m.MountPath,
			Readonly:          m.ReadOnly,
			RecursiveReadOnly: readOnly,
			Propagation:       propagation(m.MountPropagation),
		}
		if !filepath.IsAbs(mount.ContainerPath) {
			mount.ContainerPath = filepath.Join("/", mount.ContainerPath)
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, env)
		}
		if source := imageSource(pod, m.Name); source != nil {
			mount.Image = &criv1.ImageSpec{Image: images.Normalize(source.Reference)}
			mount.ImageSubPath = sub
			mount.Readonly = true
			mounts = append(mounts, mount)
			continue
		}
		source, ok := mounted.Sources[m.Name]
		base := source.Path
		if !ok || base == "" {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		mount.HostPath = base
		mount.Readonly = mount.Readonly || source.ReadOnly
		if sub != "" {
			pinned, err := a.Volumes.SubPath(pod, m.Name, base, sub, c.Name, i)
			if err != nil {
				return nil, err
			}
			mount.HostPath = pinned
		}
		mounts = append(mounts, mount)
	}
	if !hosts {
		file := filepath.Join(a.Volumes.PodDir(pod.UID), "etc-hosts")
		var host []byte
		if pod.Spec.HostNetwork {
			host, _ = os.ReadFile("/etc/hosts") // a host without one has nothing to add
		}
		if err := os.WriteFile(file, etcHosts(pod, ips, a.Domain, host), 0o644); err != nil {
			return nil, fmt.Errorf("write hosts file: %w", err)
		}
		mounts = append(mounts, &criv1.Mount{ContainerPath: "/etc/hosts", HostPath: file})
	}
	if c.TerminationMessagePath != "" {
		file := a.terminationFile(pod, c.Name, attempt)
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			return nil, fmt.Errorf("make container directory: %w", err)
		}
		if err := os.WriteFile(file, nil, 0o666); err != nil {
			return nil, fmt.Errorf("make termination log: %w", err)
		}
		if err := os.Chmod(file, 0o666); err != nil {
			return nil, fmt.Errorf("open termination log to the container: %w", err)
		}
		mounts = append(mounts, &criv1.Mount{ContainerPath: c.TerminationMessagePath, HostPath: file})
	}
	return mounts, nil
}

// blockDevices are the container's block volumes.
func blockDevices(c *v1.Container, mounted *volumes.Mounted) ([]*criv1.Device, error) {
	sources, err := mounted.Devices(c)
	if err != nil {
		return nil, err
	}
	devices := make([]*criv1.Device, 0, len(sources))
	for _, path := range slices.Sorted(maps.Keys(sources)) {
		device := &criv1.Device{HostPath: sources[path].Device, ContainerPath: path, Permissions: "mrw"}
		if sources[path].ReadOnly {
			device.Permissions = "r"
		}
		devices = append(devices, device)
	}
	return devices, nil
}

func (a *Agent) terminationFile(pod *v1.Pod, container string, attempt uint32) string {
	return filepath.Join(a.Volumes.PodDir(pod.UID), "containers", container, "termination-"+strconv.FormatUint(uint64(attempt), 10))
}

func imageSource(pod *v1.Pod, volume string) *v1.ImageVolumeSource {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Name == volume {
			return pod.Spec.Volumes[i].Image
		}
	}
	return nil
}

func propagation(p *v1.MountPropagationMode) criv1.MountPropagation {
	if p == nil {
		return criv1.MountPropagation_PROPAGATION_PRIVATE
	}
	switch *p {
	case v1.MountPropagationHostToContainer:
		return criv1.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	case v1.MountPropagationBidirectional:
		return criv1.MountPropagation_PROPAGATION_BIDIRECTIONAL
	}
	return criv1.MountPropagation_PROPAGATION_PRIVATE
}
