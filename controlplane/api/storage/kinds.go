package storage

import (
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

var groupVersion = storagev1.SchemeGroupVersion

// Kinds lists the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		api.Define(storageClass), api.Define(volumeAttachment), api.Define(csiDriver), api.Define(csiNode),
		api.Define(csiStorageCapacity), api.Define(volumeAttributesClass),
	}
}

const (
	maxParameters    = 512
	maxParameterSize = 256 << 10 // bytes, of all keys and values together
)

func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// checkDriver checks the name of a provisioner.
func checkDriver(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	name = strings.ToLower(name)
	return invalid(path, name, validation.IsQualifiedName(name))
}

// checkParameters checks what a class hands to its driver.
func checkParameters(parameters map[string]string, path *field.Path) field.ErrorList {
	if len(parameters) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	var errs field.ErrorList
	size := 0
	for k, v := range parameters {
		if k == "" {
			errs = append(errs, field.Invalid(path, k, "field can not be empty."))
		}
		size += len(k) + len(v)
	}
	if size > maxParameterSize {
		errs = append(errs, field.TooLong(path, "", maxParameterSize))
	}
	return errs
}

// checkTokens checks which tokens of service accounts a driver asks for.
func checkTokens(tokens []storagev1.TokenRequest, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, token := range tokens {
		at := path.Index(i)
		if seen[token.Audience] {
			errs = append(errs, field.Duplicate(at.Child("audience"), token.Audience))
			continue
		}
		seen[token.Audience] = true
		if token.ExpirationSeconds == nil {
			continue
		}
		at = at.Child("expirationSeconds")
		if seconds := *token.ExpirationSeconds; seconds < 600 {
			errs = append(errs, field.Invalid(at, seconds, "may not specify a duration less than 10 minutes"))
		} else if seconds > 1<<32 {
			errs = append(errs, field.Invalid(at, seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}
