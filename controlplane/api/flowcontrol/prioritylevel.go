package flowcontrol

import (
	"context"
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

const (
	maxQueues = 10_000_000
	// zeroShares is an annotation that only older versions of the kind have.
	zeroShares = "flowcontrol.k8s.io/concurrency-shares-defaults-to-zero"
)

var queuingDocs = flowcontrolv1.QueuingConfiguration{}.SwaggerDoc()

var priorityLevel = api.Definition[*flowcontrolv1.PriorityLevelConfiguration]{
	GroupVersion: groupVersion, Kind: "PriorityLevelConfiguration", Resource: "prioritylevelconfigurations",
	Singular: "prioritylevelconfiguration", ClusterScope: true,
	New:     func() *flowcontrolv1.PriorityLevelConfiguration { return &flowcontrolv1.PriorityLevelConfiguration{} },
	NewList: func() runtime.Object { return &flowcontrolv1.PriorityLevelConfigurationList{} },

	Default: defaultLevel,
	Validate: func(_ context.Context, l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
		return checkLevel(l)
	},
	ValidateUpdate: func(_ context.Context, l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
		return checkLevel(l)
	},
	Spec: func(l *flowcontrolv1.PriorityLevelConfiguration) any { return l.Spec },
	Status: &api.Status[*flowcontrolv1.PriorityLevelConfiguration]{
		Copy: func(to, from *flowcontrolv1.PriorityLevelConfiguration) { to.Status = from.Status },
		Validate: func(_ context.Context, l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
			var types []flowcontrolv1.PriorityLevelConfigurationConditionType
			for _, c := range l.Status.Conditions {
				types = append(types, c.Type)
			}
			return checkConditions(types)
		},
		KeepMetadata: true,
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), columns.Text("Type", flowcontrolv1.PriorityLevelConfigurationSpec{}.SwaggerDoc()["type"]),
		columns.Text("NominalConcurrencyShares", flowcontrolv1.LimitedPriorityLevelConfiguration{}.SwaggerDoc()["nominalConcurrencyShares"]),
		columns.Text("Queues", queuingDocs["queues"]), columns.Text("HandSize", queuingDocs["handSize"]),
		columns.Text("QueueLengthLimit", queuingDocs["queueLengthLimit"]), columns.Age(),
	},
	Row: func(l *flowcontrolv1.PriorityLevelConfiguration) []any {
		row := []any{l.Name, string(l.Spec.Type), "<none>", "<none>", "<none>", "<none>", columns.Since(l.CreationTimestamp.Time)}
		if l.Spec.Limited != nil {
			row[2] = int64(ptr.Deref(l.Spec.Limited.NominalConcurrencyShares, 0))
			if q := l.Spec.Limited.LimitResponse.Queuing; q != nil {
				row[3], row[4], row[5] = int64(q.Queues), int64(q.HandSize), int64(q.QueueLengthLimit)
			}
		}
		return row
	},
}

func defaultLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	number := func(field **int32, value int32) {
		if *field == nil {
			*field = &value
		}
	}
	if e := l.Spec.Exempt; e != nil {
		number(&e.NominalConcurrencyShares, 0)
		number(&e.LendablePercent, 0)
	}
	limited := l.Spec.Limited
	if limited == nil {
		return
	}
	number(&limited.NominalConcurrencyShares, 30)
	number(&limited.LendablePercent, 0)
	if q := limited.LimitResponse.Queuing; q != nil {
		count := func(field *int32, value int32) {
			if *field == 0 {
				*field = value
			}
		}
		count(&q.HandSize, 8)
		count(&q.Queues, 64)
		count(&q.QueueLengthLimit, 50)
	}
}

func checkLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	spec, path := &l.Spec, field.NewPath("spec")
	var errs field.ErrorList
	if _, set := l.Annotations[zeroShares]; set {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations"), fmt.Sprintf("annotation '%s' is forbidden", zeroShares)))
	}
	if (l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(path.Child("type"), spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if spec.Limited != nil {
			errs = append(errs, field.Forbidden(path.Child("limited"), "must be nil if the type is not Limited"))
		}
		if spec.Exempt != nil {
			errs = append(errs, checkShares(spec.Exempt.NominalConcurrencyShares, spec.Exempt.LendablePercent, path.Child("exempt"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if spec.Exempt != nil {
			errs = append(errs, field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited"))
		}
		if spec.Limited == nil {
			errs = append(errs, field.Required(path.Child("limited"), "must not be empty when type is Limited"))
		} else {
			errs = append(errs, checkLimited(spec.Limited, path.Child("limited"))...)
		}
	case "":
		errs = append(errs, field.Required(path.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), spec.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return append(errs, checkFixedLevel(l, path)...)
}

// checkFixedLevel keeps the levels that every server needs as they are.
func checkFixedLevel(l *flowcontrolv1.PriorityLevelConfiguration, path *field.Path) field.ErrorList {
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != l.Name {
			continue
		}
		spec, text := l.Spec, "spec of '%s' must equal the fixed value"
		if l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			spec.Exempt, text = fixed.Spec.Exempt, "spec of '%s' except the 'spec.exempt' field must equal the fixed value"
		}
		if !apiequality.Semantic.DeepEqual(spec, fixed.Spec) {
			return field.ErrorList{field.Invalid(path, l.Spec, fmt.Sprintf(text, l.Name))}
		}
	}
	return nil
}

func checkShares(shares, lendable *int32, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(path.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(path.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}

func checkLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := checkShares(l.NominalConcurrencyShares, l.LendablePercent, path)
	if p := l.BorrowingLimitPercent; p != nil && *p < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *p, "if specified, must be a non-negative integer"))
	}
	at, queuing := path.Child("limitResponse"), l.LimitResponse.Queuing
	switch l.LimitResponse.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if queuing != nil {
			errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if queuing == nil {
			errs = append(errs, field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
		} else {
			errs = append(errs, checkQueuing(queuing, at.Child("queuing"))...)
		}
	case "":
		errs = append(errs, field.Required(at.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), l.LimitResponse.Type,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
	return errs
}

func checkQueuing(q *flowcontrolv1.QueuingConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	at := path.Child("handSize")
	if q.HandSize <= 0 {
		errs = append(errs, field.Invalid(at, q.HandSize, "must be positive"))
	} else if q.HandSize > q.Queues {
		errs = append(errs, field.Invalid(at, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	} else if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
		errs = append(errs, field.Invalid(at, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
	}
	return errs
}
