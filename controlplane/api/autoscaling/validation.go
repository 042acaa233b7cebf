package autoscaling

import (
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api/core"
)

const (
	maxPeriodSeconds = 1800
	maxWindowSeconds = 3600
)

// versionRule is how a reference's apiVersion is judged.
type versionRule int

const (
	anyVersion   versionRule = iota // the object has had it before
	validVersion                    // the core group's, which is empty, included
	groupVersion                    // with a group
)

func (r versionRule) check(ref autoscalingv2.CrossVersionObjectReference) error {
	if r == anyVersion {
		return nil
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err == nil && r == groupVersion && gv.Group == "" {
		err = errors.New("apiVersion must specify API group")
	}
	return err
}

// rules are what an autoscaler is judged by: those of new ones, less what an
// old one has broken already.
type rules struct {
	leastReplicas   int32
	target, objects versionRule
}

func rulesFor(a, old *autoscalingv2.HorizontalPodAutoscaler) rules {
	r := rules{leastReplicas: 1, target: groupVersion, objects: validVersion}
	if a.Spec.ScaleTargetRef.Kind == "ReplicationController" {
		r.target = validVersion
	}
	if old == nil {
		return r
	}
	if ptr.Deref(old.Spec.MinReplicas, 1) == 0 {
		r.leastReplicas = 0
	}
	was, is := old.Spec.ScaleTargetRef, a.Spec.ScaleTargetRef
	if was.APIVersion == is.APIVersion && was.Kind == is.Kind {
		r.target = anyVersion
	}
	for _, m := range old.Spec.Metrics {
		if m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && validVersion.check(m.Object.DescribedObject) != nil {
			r.objects = anyVersion
		}
	}
	return r
}

func checkSpec(spec *autoscalingv2.HorizontalPodAutoscalerSpec, r rules, path *field.Path) (errs field.ErrorList) {
	if least := spec.MinReplicas; least != nil && *least < r.leastReplicas {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *least, fmt.Sprintf("must be greater than or equal to %d", r.leastReplicas)))
	}
	switch most := spec.MaxReplicas; {
	case most == 0:
		errs = append(errs, field.Required(path.Child("maxReplicas"), "must be set and greater than 0"))
	case most < 0:
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), most, "must be greater than or equal to 1"))
	}
	if spec.MinReplicas != nil && spec.MaxReplicas < *spec.MinReplicas {
		errs = append(errs, field.Invalid(path.Child("maxReplicas"), spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, checkReference(spec.ScaleTargetRef, r.target, path.Child("scaleTargetRef"))...)
	outside := false
	for i := range spec.Metrics {
		m := &spec.Metrics[i]
		errs = append(errs, checkMetric(m, r.objects, path.Child("metrics").Index(i))...)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if ptr.Deref(spec.MinReplicas, 1) == 0 && !outside {
		errs = append(errs, field.Forbidden(path.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if b := spec.Behavior; b != nil {
		errs = append(errs, checkScaling(b.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, checkScaling(b.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func checkReference(ref autoscalingv2.CrossVersionObjectReference, rule versionRule, path *field.Path) field.ErrorList {
	errs := checkSegment(ref.Kind, path.Child("kind"), "")
	errs = append(errs, checkSegment(ref.Name, path.Child("name"), "")...)
	if err := rule.check(ref); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

// checkSegment wants a name that can stand in a path; missing is the message
// where there is none.
func checkSegment(value string, path *field.Path, missing string) (errs field.ErrorList) {
	if value == "" {
		return field.ErrorList{field.Required(path, missing)}
	}
	for _, message := range content.IsPathSegmentName(value) {
		errs = append(errs, field.Invalid(path, value, message))
	}
	return errs
}

func checkScaling(r *autoscalingv2.HPAScalingRules, path *field.Path) (errs field.ErrorList) {
	if r == nil {
		return nil
	}
	if window := r.StabilizationWindowSeconds; window != nil && *window < 0 {
		errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window, "must be greater than or equal to zero"))
	} else if window != nil && *window > maxWindowSeconds {
		errs = append(errs, field.Invalid(path.Child("stabilizationWindowSeconds"), *window, fmt.Sprintf("must be less than or equal to %d", maxWindowSeconds)))
	}
	selections := []autoscalingv2.ScalingPolicySelect{autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect}
	if r.SelectPolicy != nil && !slices.Contains(selections, *r.SelectPolicy) {
		errs = append(errs, field.NotSupported(path.Child("selectPolicy"), *r.SelectPolicy, selections))
	}
	if len(r.Policies) == 0 {
		errs = append(errs, field.Required(path.Child("policies"), "must specify at least one Policy"))
	}
	kinds := []autoscalingv2.HPAScalingPolicyType{autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy}
	for i, p := range r.Policies {
		at := path.Child("policies").Index(i)
		if !slices.Contains(kinds, p.Type) {
			errs = append(errs, field.NotSupported(at.Child("type"), p.Type, kinds))
		}
		if p.Value <= 0 {
			errs = append(errs, field.Invalid(at.Child("value"), p.Value, "must be greater than zero"))
		}
		if p.PeriodSeconds <= 0 {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, "must be greater than zero"))
		} else if p.PeriodSeconds > maxPeriodSeconds {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), p.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxPeriodSeconds)))
		}
	}
	if t := r.Tolerance; t != nil && t.Sign() < 0 {
		errs = append(errs, field.Invalid(path.Child("tolerance"), t.String(), "must be greater than or equal to 0"))
	}
	return errs
}

// checkMetric checks that a metric has the source its type names, and no
// other. Of several sources, the first is checked.
func checkMetric(m *autoscalingv2.MetricSpec, objects versionRule, path *field.Path) (errs field.ErrorList) {
	sources := []struct {
		kind  autoscalingv2.MetricSourceType
		name  string
		set   bool
		check func(*field.Path) field.ErrorList
	}{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(at *field.Path) field.ErrorList { return checkObject(m.Object, objects, at) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(at *field.Path) field.ErrorList { return checkExternal(m.External, at) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(at *field.Path) field.ErrorList { return checkPods(m.Pods, at) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(at *field.Path) field.ErrorList {
			errs := checkResourceTarget(&m.Resource.Target, at.Child("target"))
			if m.Resource.Name == "" {
				errs = append(field.ErrorList{field.Required(at.Child("name"), "must specify a resource name")}, errs...)
			}
			return errs
		}},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(at *field.Path) field.ErrorList { return checkContainer(m.ContainerResource, at) }},
	}
	var known []autoscalingv2.MetricSourceType
	set := 0
	for _, s := range sources {
		known = append(known, s.kind)
		if s.set {
			if set++; set == 1 {
				errs = append(errs, s.check(path.Child(s.name))...)
			}
		}
	}
	slices.Sort(known)
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	if !slices.Contains(known, m.Type) {
		errs = append(errs, field.NotSupported(path.Child("type"), m.Type, known))
	}
	for _, s := range sources {
		switch {
		case s.kind == m.Type && !s.set:
			errs = append(errs, field.Required(path.Child(s.name), "must populate information for the given metric source"))
		case s.kind != m.Type && s.set && set > 1:
			errs = append(errs, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	return errs
}

func checkObject(o *autoscalingv2.ObjectMetricSource, rule versionRule, path *field.Path) field.ErrorList {
	errs := checkReference(o.DescribedObject, rule, path.Child("describedObject"))
	errs = append(errs, checkSegment(o.Metric.Name, path.Child("metric", "name"), "must specify a metric name")...)
	errs = append(errs, checkTarget(&o.Target, path.Child("target"))...)
	if o.Target.Value == nil && o.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
	}
	return errs
}

func checkExternal(e *autoscalingv2.ExternalMetricSource, path *field.Path) field.ErrorList {
	errs := checkSegment(e.Metric.Name, path.Child("metric", "name"), "must specify a metric name")
	errs = append(errs, checkTarget(&e.Target, path.Child("target"))...)
	switch each, all := e.Target.AverageValue != nil, e.Target.Value != nil; {
	case !each && !all:
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target"))
	case each && all:
		errs = append(errs, field.Forbidden(path.Child("target", "value"), "may not set both a target value for metric and a per-pod target"))
	}
	return errs
}

func checkPods(p *autoscalingv2.PodsMetricSource, path *field.Path) field.ErrorList {
	errs := checkSegment(p.Metric.Name, path.Child("metric", "name"), "must specify a metric name")
	errs = append(errs, checkTarget(&p.Target, path.Child("target"))...)
	if p.Target.AverageValue == nil {
		errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
	}
	return errs
}

func checkContainer(c *autoscalingv2.ContainerResourceMetricSource, path *field.Path) (errs field.ErrorList) {
	if c.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	} else {
		errs = append(errs, core.ValidateContainerResourceName(c.Name, path.Child("name"))...)
	}
	if c.Container == "" {
		errs = append(errs, field.Required(path.Child("container"), "must specify a container"))
	} else {
		for _, message := range validation.IsDNS1123Label(c.Container) {
			errs = append(errs, field.Invalid(path.Child("container"), c.Container, message))
		}
	}
	return append(errs, checkResourceTarget(&c.Target, path.Child("target"))...)
}

func checkResourceTarget(t *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	errs := checkTarget(t, path)
	switch percent, value := t.AverageUtilization != nil, t.AverageValue != nil; {
	case !percent && !value:
		errs = append(errs, field.Required(path.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	case percent && value:
		errs = append(errs, field.Forbidden(path.Child("averageValue"), "may not set both a target raw value and a target utilization"))
	}
	return errs
}

func checkTarget(t *autoscalingv2.MetricTarget, path *field.Path) (errs field.ErrorList) {
	if t.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	}
	if !slices.Contains([]autoscalingv2.MetricTargetType{autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType}, t.Type) {
		errs = append(errs, field.Invalid(path.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if t.Value != nil && t.Value.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be positive"))
	}
	if t.AverageValue != nil && t.AverageValue.Sign() <= 0 {
		errs = append(errs, field.Invalid(path.Child("averageValue"), t.AverageValue, "must be positive"))
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0"))
	}
	return errs
}
