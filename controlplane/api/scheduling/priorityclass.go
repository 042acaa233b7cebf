package scheduling

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

// HighestUserPriority is the greatest value of a class that is not the
// system's.
const HighestUserPriority = int32(1_000_000_000)

const systemPrefix = "system-"

var priorityClass = api.Definition[*schedulingv1.PriorityClass]{
	GroupVersion: schedulingv1.SchemeGroupVersion,
	Kind:         "PriorityClass",
	Resource:     "priorityclasses",
	Singular:     "priorityclass",
	ShortNames:   []string{"pc"},
	ClusterScope: true,
	New:          func() *schedulingv1.PriorityClass { return &schedulingv1.PriorityClass{} },
	NewList:      func() runtime.Object { return &schedulingv1.PriorityClassList{} },

	Default: func(c *schedulingv1.PriorityClass) {
		if c.PreemptionPolicy == nil {
			c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
		}
	},
	PrepareForCreate: func(_ context.Context, c *schedulingv1.PriorityClass) { c.Generation = 1 },
	Validate: func(_ context.Context, c *schedulingv1.PriorityClass) field.ErrorList {
		errs := checkPriorityName(c)
		if policy := c.PreemptionPolicy; policy != nil && *policy == "" {
			errs = append(errs, field.Required(field.NewPath("preemptionPolicy"), ""))
		} else if policy := c.PreemptionPolicy; policy != nil && *policy != corev1.PreemptLowerPriority && *policy != corev1.PreemptNever {
			errs = append(errs, field.NotSupported(field.NewPath("preemptionPolicy"), *policy,
				[]corev1.PreemptionPolicy{corev1.PreemptLowerPriority, corev1.PreemptNever}))
		}
		return errs
	},
	ValidateUpdate: func(_ context.Context, c, old *schedulingv1.PriorityClass) (errs field.ErrorList) {
		if c.Value != old.Value {
			errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
		}
		return append(errs, apivalidation.ValidateImmutableField(c.PreemptionPolicy, old.PreemptionPolicy, field.NewPath("preemptionPolicy"))...)
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Number("Value", schedulingv1.PriorityClass{}.SwaggerDoc()["value"]),
		{Name: "Global-Default", Type: "boolean", Description: schedulingv1.PriorityClass{}.SwaggerDoc()["globalDefault"]},
		columns.Age(),
		columns.Text("PreemptionPolicy", schedulingv1.PriorityClass{}.SwaggerDoc()["preemptionPolicy"]),
	},
	Row: func(c *schedulingv1.PriorityClass) []any {
		return []any{c.Name, int64(c.Value), c.GlobalDefault, columns.Since(c.CreationTimestamp.Time), string(ptr.Deref(c.PreemptionPolicy, ""))}
	},
}

// SystemClasses returns the classes that every cluster has.
func SystemClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, description string) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{
			ObjectMeta:       metav1.ObjectMeta{Name: name},
			Value:            value,
			Description:      description,
			PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority),
		}
	}
	const system = 2 * HighestUserPriority
	return []*schedulingv1.PriorityClass{
		class("system-node-critical", system+1000, "Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical", system, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

// EnsureSystemClasses creates those of SystemClasses that are missing. It may
// run on several servers at once.
func EnsureSystemClasses(ctx context.Context, client kubernetes.Interface) error {
	classes := client.SchedulingV1().PriorityClasses()
	for _, class := range SystemClasses() {
		_, err := classes.Get(ctx, class.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = classes.Create(ctx, class, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("ensure priority class %s: %w", class.Name, err)
		}
	}
	return nil
}

// checkPriorityName reserves the system's names and values for its classes.
func checkPriorityName(c *schedulingv1.PriorityClass) field.ErrorList {
	if !strings.HasPrefix(c.Name, systemPrefix) {
		if c.Value > HighestUserPriority {
			return field.ErrorList{field.Forbidden(field.NewPath("value"),
				fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority))}
		}
		return nil
	}
	problem := fmt.Sprintf("%v is not a known system priority class", c.Name)
	for _, known := range SystemClasses() {
		if known.Name != c.Name {
			continue
		}
		switch {
		case known.Value != c.Value:
			problem = fmt.Sprintf("value of %v PriorityClass must be %v", known.Name, known.Value)
		case known.GlobalDefault != c.GlobalDefault:
			problem = fmt.Sprintf("globalDefault of %v PriorityClass must be %v", known.Name, known.GlobalDefault)
		default:
			return nil
		}
	}
	return field.ErrorList{field.Forbidden(field.NewPath("metadata", "name"),
		"priority class names with '"+systemPrefix+"' prefix are reserved for system use only. error: "+problem)}
}
