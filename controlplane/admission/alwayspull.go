package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
)

// alwaysPull makes every container pull its image, so that nobody runs an
// image of others by its name alone because the node happens to have it. It is
// off unless the configuration asks for it.
type alwaysPull struct{ *admission.Handler }

var (
	_ admission.MutationInterface   = alwaysPull{}
	_ admission.ValidationInterface = alwaysPull{}
)

func newAlwaysPull(Config) (admission.Interface, error) {
	return alwaysPull{admission.NewHandler(admission.Create, admission.Update)}, nil
}

func (p alwaysPull) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := p.concerned(a)
	if pod == nil {
		return err
	}
	eachPull(&pod.Spec, func(policy *corev1.PullPolicy, _ *field.Path) { *policy = corev1.PullAlways })
	return nil
}

func (p alwaysPull) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := p.concerned(a)
	if pod == nil {
		return err
	}
	var errs []error
	eachPull(&pod.Spec, func(policy *corev1.PullPolicy, path *field.Path) {
		if *policy != corev1.PullAlways {
			errs = append(errs, admission.NewForbidden(a, field.NotSupported(path, *policy, []corev1.PullPolicy{corev1.PullAlways})))
		}
	})
	return utilerrors.NewAggregate(errs)
}

// concerned returns the pod of a write that brings images, nil for any other.
func (alwaysPull) concerned(a admission.Attributes) (*corev1.Pod, error) {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "" {
		return nil, nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewBadRequest("resource was marked with kind Pod but was unable to be converted")
	}
	if a.GetOperation() != admission.Update {
		return pod, nil
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return pod, nil
	}
	known := map[string]bool{}
	eachContainer(&old.Spec, func(c *corev1.Container, _ *field.Path) { known[c.Image] = true })
	brings := false
	eachContainer(&pod.Spec, func(c *corev1.Container, _ *field.Path) { brings = brings || !known[c.Image] })
	if !brings {
		return nil, nil
	}
	return pod, nil
}

// eachPull visits the pull policies of containers and of volumes of images.
func eachPull(spec *corev1.PodSpec, visit func(*corev1.PullPolicy, *field.Path)) {
	eachContainer(spec, func(c *corev1.Container, path *field.Path) { visit(&c.ImagePullPolicy, path.Child("imagePullPolicy")) })
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			visit(&image.PullPolicy, field.NewPath("spec", "volumes").Index(i).Child("image", "pullPolicy"))
		}
	}
}

// eachContainer visits the containers of all three sorts.
func eachContainer(spec *corev1.PodSpec, visit func(*corev1.Container, *field.Path)) {
	for i := range spec.InitContainers {
		visit(&spec.InitContainers[i], field.NewPath("spec", "initContainers").Index(i))
	}
	for i := range spec.Containers {
		visit(&spec.Containers[i], field.NewPath("spec", "containers").Index(i))
	}
	for i := range spec.EphemeralContainers {
		// An ephemeral container has the fields of any other.
		visit((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon), field.NewPath("spec", "ephemeralContainers").Index(i))
	}
}
