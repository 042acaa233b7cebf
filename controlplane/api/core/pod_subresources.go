package core

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/api"
)

var pods = schema.GroupResource{Resource: "pods"}

func extendPods(env *api.Environment, store, status *registry.Store) (map[string]rest.Storage, error) {
	reader := podReader{store}
	binding := &podBinding{store}
	each, prefix := fieldpath.MatchAnyPathElement(), fieldpath.MakePrefixMatcherOrDie
	return map[string]rest.Storage{
		"pods/log":         &podLog{reader, env.Nodes},
		"pods/exec":        newExec(reader, env),
		"pods/attach":      newAttach(reader, env),
		"pods/portforward": newPortForward(reader, env),
		"pods/proxy":       newPodProxy(reader),
		"pods/binding":     binding,
		"bindings":         &bindings{binding},
		"pods/eviction":    &eviction{api.NewResource(status, nil, nil), budgets{env}},
		"pods/ephemeralcontainers": newPart(store, updating[*corev1.Pod]{
			keep: func(pod, old *corev1.Pod) {
				containers := pod.Spec.EphemeralContainers
				pod.Spec, pod.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
				metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
				pod.Spec.EphemeralContainers = containers
			},
			validate: validateEphemeralUpdate,
			spec:     func(pod *corev1.Pod) any { return pod.Spec },
		}, prefix("spec", "ephemeralContainers")),
		"pods/resize": newPart(store, updating[*corev1.Pod]{
			keep: keepForResize, validate: validateResize,
			spec: func(pod *corev1.Pod) any { return pod.Spec },
		}, prefix("spec", "containers", each, "resources"), prefix("spec", "containers", each, "resizePolicy"),
			prefix("spec", "initContainers", each, "resources"), prefix("spec", "initContainers", each, "resizePolicy"),
			prefix("spec", "resources")),
	}, nil
}

// keepForResize resets all but resources and resize policies; containers that
// were added, renamed or moved stay for validation to refuse.
func keepForResize(pod, old *corev1.Pod) {
	pick := func(now, was []corev1.Container) []corev1.Container {
		if len(now) != len(was) {
			return now
		}
		merged := make([]corev1.Container, len(was))
		for i := range was {
			if now[i].Name != was[i].Name {
				return now
			}
			was[i].DeepCopyInto(&merged[i])
			merged[i].Resources, merged[i].ResizePolicy = now[i].Resources, now[i].ResizePolicy
		}
		return merged
	}
	containers, inits, whole := pick(pod.Spec.Containers, old.Spec.Containers), pick(pod.Spec.InitContainers, old.Spec.InitContainers), pod.Spec.Resources
	pod.Spec, pod.Status = *old.Spec.DeepCopy(), *old.Status.DeepCopy()
	metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
	if len(containers) > 0 {
		pod.Spec.Containers = containers
	}
	if len(inits) > 0 {
		pod.Spec.InitContainers = inits
	}
	pod.Spec.Resources = whole
}

// podBinding serves pods/binding: it puts a pod on a node.
type podBinding struct{ store *registry.Store }

var (
	_ rest.NamedCreater                   = (*podBinding)(nil)
	_ rest.SubresourceObjectMetaPreserver = (*podBinding)(nil)
)

func (*podBinding) New() runtime.Object { return &corev1.Binding{} }
func (*podBinding) Destroy()            {}

// NamespaceScoped implements rest.Scoper.
func (*podBinding) NamespaceScoped() bool { return true }

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID and
// resource version of the binding: they are preconditions on the pod.
func (*podBinding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (b *podBinding) Create(ctx context.Context, name string, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := object.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %#v", object))
	}
	if name != binding.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	var errs field.ErrorList
	if k := binding.Target.Kind; k != "" && k != "Node" {
		errs = append(errs, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	if errs = append(errs, required(binding.Target.Name, field.NewPath("target", "name"))...); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := b.assign(ctx, binding, dryrun.IsDryRun(options.DryRun)); err != nil {
		err = storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, pods, name), pods, name)
		if status := apierrors.APIStatus(nil); !errors.As(err, &status) {
			err = apierrors.NewConflict(schema.GroupResource{Resource: "pods/binding"}, name, err)
		}
		return nil, err
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func (b *podBinding) assign(ctx context.Context, binding *corev1.Binding, dryRun bool) error {
	key, err := b.store.KeyFunc(ctx, binding.Name)
	if err != nil {
		return err
	}
	preconditions := &storage.Preconditions{}
	if binding.UID != "" {
		preconditions.UID = ptr.To(binding.UID)
	}
	if binding.ResourceVersion != "" {
		preconditions.ResourceVersion = ptr.To(binding.ResourceVersion)
	}
	return b.store.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, preconditions, storage.SimpleUpdate(func(object runtime.Object) (runtime.Object, error) {
		pod, ok := object.(*corev1.Pod)
		switch {
		case !ok:
			return nil, fmt.Errorf("assign pod %s: got a %T", binding.Name, object)
		case pod.DeletionTimestamp != nil:
			return nil, fmt.Errorf("pod %s is being deleted, cannot be assigned to a host", pod.Name)
		case pod.Spec.NodeName != "":
			return nil, fmt.Errorf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName)
		case len(pod.Spec.SchedulingGates) > 0:
			return nil, fmt.Errorf("pod %v has non-empty .spec.schedulingGates", pod.Name)
		}
		pod.Spec.NodeName = binding.Target.Name
		pod.Status.NominatedNodeName = ""
		if len(binding.Annotations) > 0 && pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		maps.Copy(pod.Annotations, binding.Annotations)
		if len(binding.Labels) > 0 && pod.Labels == nil {
			pod.Labels = map[string]string{}
		}
		maps.Copy(pod.Labels, binding.Labels)
		SetPodCondition(&pod.Status, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		return pod, nil
	}), dryRun, nil)
}

// bindings serves the same at its old place, where the binding names the pod.
type bindings struct{ pods *podBinding }

var (
	_ rest.Creater              = (*bindings)(nil)
	_ rest.SingularNameProvider = (*bindings)(nil)
)

func (*bindings) New() runtime.Object     { return &corev1.Binding{} }
func (*bindings) Destroy()                {}
func (*bindings) NamespaceScoped() bool   { return true }
func (*bindings) GetSingularName() string { return "binding" }

func (b *bindings) Create(ctx context.Context, object runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := object.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", object))
	}
	return b.pods.Create(ctx, binding.Name, object, validate, options)
}
