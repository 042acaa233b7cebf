package admissionregistration

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

var groupVersion = admissionv1.SchemeGroupVersion

// categories are what the kinds of the group belong to.
var categories = []string{"api-extensions"}

// Kinds lists the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		api.Define(validatingWebhooks), api.Define(mutatingWebhooks),
		api.Define(validatingPolicy), api.Define(validatingBinding),
		api.Define(mutatingPolicy), api.Define(mutatingBinding),
	}
}

// reservedSuffix ends the names of what servers elsewhere read from files.
const reservedSuffix = ".static.k8s.io"

func nameWarnings(name string) []string {
	if !strings.HasSuffix(name, reservedSuffix) {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: names ending with %q are reserved for static manifest-based configurations and cannot be managed via the API", reservedSuffix)}
}

func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// among wants a value that is set to be a known one.
func among[T ~string](value *T, path *field.Path, known ...T) field.ErrorList {
	if value != nil && !slices.Contains(known, *value) {
		return field.ErrorList{field.NotSupported(path, *value, known)}
	}
	return nil
}

// requiredAmong wants a value to be set, and to be a known one.
func requiredAmong[T ~string](value *T, path *field.Path, known ...T) field.ErrorList {
	if value == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	return among(value, path, known...)
}
