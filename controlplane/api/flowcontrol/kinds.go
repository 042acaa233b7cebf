package flowcontrol

import (
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

var groupVersion = flowcontrolv1.SchemeGroupVersion

// Kinds lists the kinds of the group.
func Kinds() []api.Kind { return []api.Kind{api.Define(flowSchema), api.Define(priorityLevel)} }

func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// checkConditions wants each condition to have a type of its own.
func checkConditions[T ~string](types []T) field.ErrorList {
	var errs field.ErrorList
	for i, t := range types {
		path := field.NewPath("status", "conditions").Index(i).Child("type")
		if slices.Contains(types[:i], t) {
			errs = append(errs, field.Duplicate(path, t))
		}
		if t == "" {
			errs = append(errs, field.Required(path, ""))
		}
	}
	return errs
}

// checkList wants something in a list, and nothing beside a wildcard.
func checkList(list []string, path *field.Path, missing, what string) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(path, missing)}
	}
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

// checkURL checks the path of a request, or the beginning of paths.
func checkURL(url string, path *field.Path) field.ErrorList {
	fault := ""
	switch stars := strings.Count(url, "*"); {
	case url == "":
		fault = "must not be empty"
	case !strings.HasPrefix(url, "/"):
		fault = "must start with slash"
	case strings.Contains(url, " "):
		fault = "must not contain white-space"
	case strings.Contains(url, "//"):
		fault = "must not contain double slash"
	case stars > 1 || stars == 1 && !strings.HasSuffix(url, "/*"):
		fault = "wildcard can only do suffix matching"
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(path, url, fault)}
}
