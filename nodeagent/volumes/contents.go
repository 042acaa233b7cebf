package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"clusterctl/nodeagent/downward"
)

// contents gathers what a volume shows, and says when part of it runs out.
func (m *Manager) contents(ctx context.Context, pod *v1.Pod, volume *v1.Volume) (map[string]file, time.Time, error) {
	files := map[string]file{}
	var err error
	switch s := volume.VolumeSource; {
	case s.ConfigMap != nil:
		err = m.configMap(ctx, pod, files, s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.DefaultMode, optional(s.ConfigMap.Optional))
	case s.Secret != nil:
		err = m.secret(ctx, pod, files, s.Secret.SecretName, s.Secret.Items, s.Secret.DefaultMode, optional(s.Secret.Optional))
	case s.DownwardAPI != nil:
		err = m.downward(pod, files, s.DownwardAPI.Items, s.DownwardAPI.DefaultMode)
	case s.Projected != nil:
		return m.projected(ctx, pod, files, s.Projected)
	}
	return files, time.Time{}, err
}

func (m *Manager) projected(ctx context.Context, pod *v1.Pod, files map[string]file, source *v1.ProjectedVolumeSource) (map[string]file, time.Time, error) {
	var refresh time.Time
	for _, s := range source.Sources {
		var err error
		switch {
		case s.ConfigMap != nil:
			err = m.configMap(ctx, pod, files, s.ConfigMap.Name, s.ConfigMap.Items, source.DefaultMode, optional(s.ConfigMap.Optional))
		case s.Secret != nil:
			err = m.secret(ctx, pod, files, s.Secret.Name, s.Secret.Items, source.DefaultMode, optional(s.Secret.Optional))
		case s.DownwardAPI != nil:
			err = m.downward(pod, files, s.DownwardAPI.Items, source.DefaultMode)
		case s.ServiceAccountToken != nil:
			var at time.Time
			at, err = m.token(ctx, pod, files, s.ServiceAccountToken, source.DefaultMode)
			if refresh.IsZero() || at.Before(refresh) {
				refresh = at
			}
		default:
			err = errors.New("this kind of projected source is not supported by the node agent")
		}
		if err != nil {
			return nil, refresh, err
		}
	}
	return files, refresh, nil
}

func (m *Manager) configMap(ctx context.Context, pod *v1.Pod, files map[string]file, name string, items []v1.KeyToPath, mode *int32, optional bool) error {
	cm, err := m.Objects.ConfigMap(ctx, pod.UID, pod.Namespace, name)
	if optional && apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return pick(files, data, items, mode, optional, "configmap "+pod.Namespace+"/"+name)
}

func (m *Manager) secret(ctx context.Context, pod *v1.Pod, files map[string]file, name string, items []v1.KeyToPath, mode *int32, optional bool) error {
	secret, err := m.Objects.Secret(ctx, pod.UID, pod.Namespace, name)
	if optional && apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return pick(files, secret.Data, items, mode, optional, "secret "+pod.Namespace+"/"+name)
}

// pick puts data into files: all of it under its keys, or the items asked
// for under their paths.
func pick(files map[string]file, data map[string][]byte, items []v1.KeyToPath, mode *int32, optional bool, whose string) error {
	if len(items) == 0 {
		for k, v := range data {
			files[k] = file{data: v, mode: perm(mode, nil)}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s has no key %q", whose, item.Key)
		}
		files[filepath.Clean(item.Path)] = file{data: v, mode: perm(mode, item.Mode)}
	}
	return nil
}

func (m *Manager) downward(pod *v1.Pod, files map[string]file, items []v1.DownwardAPIVolumeFile, mode *int32) error {
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = downward.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = downward.Resource(pod, nil, item.ResourceFieldRef, m.Allocatable())
		default:
			err = errors.New("neither fieldRef nor resourceFieldRef is set")
		}
		if err != nil {
			return fmt.Errorf("downward item %s: %w", item.Path, err)
		}
		files[filepath.Clean(item.Path)] = file{data: []byte(value), mode: perm(mode, item.Mode)}
	}
	return nil
}

func (m *Manager) token(ctx context.Context, pod *v1.Pod, files map[string]file, source *v1.ServiceAccountTokenProjection, mode *int32) (time.Time, error) {
	token, refresh, err := m.Tokens.token(ctx, pod, source)
	if err != nil {
		return refresh, err
	}
	f := file{data: []byte(token), mode: perm(mode, nil)}
	if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
		f.mode = 0o600 // setGroup opens it to the group
	} else if user := soleUser(pod); user != nil {
		f.mode, f.user = 0o600, user
	}
	files[filepath.Clean(source.Path)] = f
	return refresh, nil
}

func perm(base, own *int32) fs.FileMode {
	switch {
	case own != nil:
		return fs.FileMode(*own)
	case base != nil:
		return fs.FileMode(*base)
	}
	return 0o644
}

func optional(b *bool) bool { return b != nil && *b }
