package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

const (
	fieldManager = "clusterctl"

	// hashAnnotation has the hash of what was applied last, so that a check
	// need not guess which fields the server filled in.
	hashAnnotation = "clusterctl.dev/applied"
)

// manifests is one Manifests operation at work.
type manifests struct {
	op      *hostop.Manifests
	objects []*unstructured.Unstructured
	client  dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
}

func (h *Hand) manifests(o *hostop.Manifests) (*manifests, error) {
	objects, err := decodeManifests(o.YAML)
	if err != nil {
		return nil, err
	}
	config, err := h.apiConfig()
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API: %w", err)
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API: %w", err)
	}
	return &manifests{op: o, objects: objects, client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))}, nil
}

// decodeManifests reads YAML documents and notes the hash of each on it.
func decodeManifests(raw []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	decoder := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(raw), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, fmt.Errorf("decode manifests: %w", err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if object.GetKind() == "" || object.GetName() == "" {
			return nil, errors.New("decode manifests: a document has no kind or no name")
		}
		encoded, err := json.Marshal(object.Object)
		if err != nil {
			return nil, fmt.Errorf("hash manifest: %w", err)
		}
		sum := sha256.Sum256(encoded)
		annotations := object.GetAnnotations()
		if annotations == nil {
			annotations = map[string]string{}
		}
		annotations[hashAnnotation] = hex.EncodeToString(sum[:16])
		object.SetAnnotations(annotations)
		objects = append(objects, object)
	}
}

// resource is where an object lives in the API.
func (m *manifests) resource(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	kind := object.GroupVersionKind()
	mapping, err := m.mapper.RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		m.mapper.Reset() // it may have come meanwhile
	}
	if err != nil {
		return nil, fmt.Errorf("find %s in the API: %w", kind.Kind, err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		namespace := object.GetNamespace()
		if namespace == "" {
			namespace = metav1.NamespaceDefault
		}
		return m.client.Resource(mapping.Resource).Namespace(namespace), nil
	}
	return m.client.Resource(mapping.Resource), nil
}

func (h *Hand) checkManifests(ctx context.Context, o *hostop.Manifests) (string, error) {
	if !h.exists(hostconfig.AdminCfg) {
		return "the API is not there yet", nil
	}
	m, err := h.manifests(o)
	if err != nil {
		return "", err
	}
	for _, object := range m.objects {
		resource, err := m.resource(object)
		if err != nil {
			return "the API does not answer: " + oneLine(err.Error()), nil
		}
		have, err := resource.Get(ctx, object.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return describe(object) + " is absent", nil
		case err != nil:
			return "the API does not answer: " + oneLine(err.Error()), nil
		case have.GetAnnotations()[hashAnnotation] != object.GetAnnotations()[hashAnnotation]:
			return describe(object) + " is another", nil
		}
	}
	return h.waiting(ctx, o)
}

func describe(object *unstructured.Unstructured) string {
	return strings.ToLower(object.GetKind()) + " " + object.GetName()
}

func (h *Hand) applyManifests(ctx context.Context, o *hostop.Manifests, progress func(string)) error {
	m, err := h.manifests(o)
	if err != nil {
		return err
	}
	begin := time.Now()
	done := 0
	err = until(ctx, o.Timeout, 500*time.Millisecond, progress, func(ctx context.Context) (string, error) {
		for ; done < len(m.objects); done++ {
			if err := m.apply(ctx, m.objects[done]); err != nil {
				return "", err
			}
		}
		return "", nil
	})
	if err != nil {
		return err
	}
	return until(ctx, max(o.Timeout-time.Since(begin), time.Second), 250*time.Millisecond, progress, func(ctx context.Context) (string, error) {
		return h.waiting(ctx, o)
	})
}

// apply sends one object. What the server will never take ends the waiting.
func (m *manifests) apply(ctx context.Context, object *unstructured.Unstructured) error {
	resource, err := m.resource(object)
	if err != nil {
		return err
	}
	manager := fieldManager
	if m.op.Name != "" {
		manager += "-" + m.op.Name
	}
	_, err = resource.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: manager, Force: true})
	if err != nil {
		err = fmt.Errorf("apply %s: %w", describe(object), err)
		if apierrors.IsInvalid(errors.Unwrap(err)) || apierrors.IsBadRequest(errors.Unwrap(err)) {
			return &finalError{err}
		}
		return err
	}
	return nil
}

// waiting says which Deployment of Wait is not available, and why.
func (h *Hand) waiting(ctx context.Context, o *hostop.Manifests) (string, error) {
	if len(o.Wait) == 0 {
		return "", nil
	}
	client, err := h.kubernetes()
	if err != nil {
		return "", err
	}
	for _, key := range o.Wait {
		namespace, name, ok := strings.Cut(key, "/")
		if !ok {
			return "", &finalError{fmt.Errorf("wait for %q: want namespace/name", key)}
		}
		deployment, err := client.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", fmt.Errorf("look at deployment %s: %w", key, err)
		}
		if !available(deployment) {
			return fmt.Sprintf("deployment %s has %d of %d replicas available", key, deployment.Status.AvailableReplicas, replicas(deployment)), nil
		}
	}
	return "", nil
}

func replicas(d *appsv1.Deployment) int32 {
	if d.Spec.Replicas == nil {
		return 1
	}
	return *d.Spec.Replicas
}

// available: the newest form was seen, and enough of it runs.
func available(d *appsv1.Deployment) bool {
	if d.Status.ObservedGeneration < d.Generation || d.Status.UpdatedReplicas < replicas(d) {
		return false
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentAvailable {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
