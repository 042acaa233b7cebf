package resource

import (
	"encoding/json"
	"errors"
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"
	dracel "k8s.io/dynamic-resource-allocation/cel"

	"clusterctl/controlplane/api/core"
)

// Selectors and configuration are what classes and claims have in common.
// stored says that the object had the same before: what later versions of the
// server took out stays valid in it.

func checkSelectors(list []resourcev1.DeviceSelector, stored bool, path *field.Path) field.ErrorList {
	return each(list, resourcev1.DeviceSelectorsMaxSize, func(s resourcev1.DeviceSelector, path *field.Path) field.ErrorList {
		path = path.Child("cel")
		if s.CEL == nil {
			return field.ErrorList{field.Required(path, "")}
		}
		return checkExpression(s.CEL.Expression, stored, path.Child("expression"))
	}, path)
}

func checkExpression(expression string, stored bool, path *field.Path) field.ErrorList {
	if len(expression) > resourcev1.CELSelectorExpressionMaxLength {
		return field.ErrorList{field.TooLong(path, "", resourcev1.CELSelectorExpressionMaxLength)}
	}
	kind := environment.NewExpressions
	if stored {
		kind = environment.StoredExpressions
	}
	compiler := dracel.GetCompiler(dracel.Features{EnableConsumableCapacity: true})
	result := compiler.CompileCELExpression(expression, dracel.Options{EnvType: &kind})
	if result.Error != nil {
		return field.ErrorList{expressionFault(expression, result.Error, path)}
	}
	if result.MaxCost > resourcev1.CELSelectorExpressionMaxCost {
		return field.ErrorList{field.Forbidden(path, "too complex, exceeds cost limit")}
	}
	return nil
}

func expressionFault(expression string, err error, path *field.Path) *field.Error {
	var fault *cel.Error
	if !errors.As(err, &fault) {
		return field.InternalError(path, fmt.Errorf("unsupported error type: %w", err))
	}
	switch fault.Type {
	case cel.ErrorTypeRequired:
		return field.Required(path, fault.Detail)
	case cel.ErrorTypeInvalid:
		return field.Invalid(path, expression, fault.Detail)
	}
	return field.InternalError(path, fault)
}

func checkConfiguration(c resourcev1.DeviceConfiguration, stored bool, path *field.Path) field.ErrorList {
	path = path.Child("opaque")
	if c.Opaque == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := core.ValidateDriverName(c.Opaque.Driver, path.Child("driver"))
	most := resourcev1.OpaqueParametersMaxLength
	if stored {
		most = len(c.Opaque.Parameters.Raw)
	}
	return append(errs, checkRaw(c.Opaque.Parameters, most, path.Child("parameters"))...)
}

// checkRaw wants a JSON object of at most so many bytes.
func checkRaw(raw runtime.RawExtension, most int, path *field.Path) field.ErrorList {
	if len(raw.Raw) == 0 {
		return field.ErrorList{field.Required(path, "")}
	}
	if len(raw.Raw) > most {
		return field.ErrorList{field.TooLong(path, "", most)}
	}
	var value any
	if err := json.Unmarshal(raw.Raw, &value); err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("error parsing data as JSON: %v", err))}
	}
	if value == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	if _, object := value.(map[string]any); !object {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "must be a valid JSON object")}
	}
	return nil
}
