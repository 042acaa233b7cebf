package resource

import (
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

var groupVersion = resourcev1.SchemeGroupVersion

// Kinds lists the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		api.Define(deviceClass), api.Define(resourceClaim(&gate{})), api.Define(claimTemplate(&gate{})), api.Define(resourceSlice),
	}
}

func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

func dnsLabel(value string, path *field.Path) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Label(value))
}

func dnsSubdomain(value string, path *field.Path) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Subdomain(value))
}

// each checks the items of a list, unless there are more than most: then that
// is the only fault, so that nobody makes the server check millions.
func each[T any](list []T, most int, check func(T, *field.Path) field.ErrorList, path *field.Path) field.ErrorList {
	if len(list) > most {
		return field.ErrorList{field.TooMany(path, len(list), most)}
	}
	var errs field.ErrorList
	for i, item := range list {
		errs = append(errs, check(item, path.Index(i))...)
	}
	return errs
}

// distinct is each, and no two items may have the same key.
func distinct[T any, K comparable](list []T, most int, check func(T, *field.Path) field.ErrorList, key func(T) K, path *field.Path) field.ErrorList {
	errs := each(list, most, check, path)
	if len(list) > most {
		return errs
	}
	seen := map[K]bool{}
	for i, item := range list {
		k := key(item)
		if seen[k] {
			errs = append(errs, field.Duplicate(path.Index(i), k))
		}
		seen[k] = true
	}
	return errs
}

func itself(s string) string { return s }

// checkPool checks the name of a pool: subdomains between slashes.
func checkPool(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, dnsSubdomain(part, path)...)
	}
	return errs
}

func checkLabelValue(value string, path *field.Path) field.ErrorList {
	return invalid(path, value, validation.IsValidLabelValue(value))
}
