package core

import (
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The wording of faults is Kubernetes': people search for it, and tools match it.
const (
	notNegative   = "must be greater than or equal to 0"
	positive      = "must be greater than zero"
	wholeNumber   = "must be an integer"
	fileMode      = "must be a number between 0 and 0777 (octal), both inclusive"
	onlyWindows   = "cannot be set for a windows pod"
	oneVolumeType = "may not specify more than 1 volume type"
)

// invalid makes one error of each message about value.
func invalid(path *field.Path, value any, messages []string) field.ErrorList {
	var errs field.ErrorList
	for _, m := range messages {
		errs = append(errs, field.Invalid(path, value, m))
	}
	return errs
}

// required reports an empty value.
func required(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// oneOf wants value to be set and among allowed.
func oneOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return anyOf(value, path, allowed...)
}

// anyOf wants value among allowed, where an empty value is a value like others.
func anyOf[T ~string](value T, path *field.Path, allowed ...T) field.ErrorList {
	if !slices.Contains(allowed, value) {
		return field.ErrorList{field.NotSupported(path, value, allowed)}
	}
	return nil
}

func dnsLabel(value string, path *field.Path) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Label(value))
}

func dnsSubdomain(value string, path *field.Path) field.ErrorList {
	return invalid(path, value, validation.IsDNS1123Subdomain(value))
}

func qualifiedName(value string, path *field.Path) field.ErrorList {
	return invalid(path, value, validation.IsQualifiedName(value))
}

// nonNegative checks a count or a number of seconds.
func nonNegative(value int64, path *field.Path) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(value, path)
}

func nonNegativeQuantity(q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Sign() < 0 {
		return field.ErrorList{field.Invalid(path, q.String(), notNegative)}
	}
	return nil
}

func portNumber(port int32, path *field.Path) field.ErrorList {
	return invalid(path, port, validation.IsValidPortNum(int(port)))
}

func portNumberOrName(port intstr.IntOrString, path *field.Path) field.ErrorList {
	if port.Type == intstr.String {
		return invalid(path, port.StrVal, validation.IsValidPortName(port.StrVal))
	}
	return invalid(path, port.IntValue(), validation.IsValidPortNum(port.IntValue()))
}

// ipAddress checks an address of an old field: strictly, unless the object
// held the same value before.
func ipAddress(value string, path *field.Path, old []string) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, value, true, old)
}

func cidr(value string, path *field.Path, old []string) field.ErrorList {
	return validation.IsValidCIDRForLegacyField(path, value, true, old)
}

// fileModeBits checks the mode of a projected file; nil is fine.
func fileModeBits(mode *int32, path *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > 0777) {
		return field.ErrorList{field.Invalid(path, *mode, fileMode)}
	}
	return nil
}

// noBacksteps refuses ".." anywhere in a path.
func noBacksteps(target string, p *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(target, "/"), "..") {
		return field.ErrorList{field.Invalid(p, target, "must not contain '..'")}
	}
	return nil
}

// descendingPath wants a relative path that never leaves its root.
func descendingPath(target string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(target) {
		errs = append(errs, field.Invalid(p, target, "must be a relative path"))
	}
	return append(errs, noBacksteps(target, p)...)
}

// projectedPath is a descendingPath that keeps clear of the names which atomic
// updates of projected volumes use ("..data").
func projectedPath(target string, p *field.Path) field.ErrorList {
	errs := descendingPath(target, p)
	if strings.HasPrefix(target, "..") && !strings.HasPrefix(target, "../") {
		errs = append(errs, field.Invalid(p, target, "must not start with '..'"))
	}
	return errs
}

// kubeFinalizer checks a finalizer's name as object metadata and namespaces
// carry it: a standard one, or one with a domain.
func kubeFinalizer(name string, path *field.Path) field.ErrorList {
	if !strings.Contains(name, "/") && !slices.Contains([]string{"kubernetes", "orphan", "foregroundDeletion"}, name) {
		return field.ErrorList{field.Invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")}
	}
	return nil
}
