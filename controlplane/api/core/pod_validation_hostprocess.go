package core

import (
	"fmt"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// A user of Windows: [DOMAIN\]USER, DOMAIN by NetBIOS or DNS.
var (
	windowsControl  = regexp.MustCompile(`[[:cntrl:]]+`)
	windowsNetBIOS  = regexp.MustCompile(`^[^\\/:\*\?"<>|\.][^\\/:\*\?"<>|]{0,14}$`)
	windowsDNS      = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)*$`)
	windowsNoName   = regexp.MustCompile(`^[\. ]+$`)
	windowsReserved = regexp.MustCompile(`["/\\:;|=,\+\*\?<>@\[\]]`)
)

const (
	maxWindowsCredentialSpecKiB = 64
	maxWindowsDomain            = 256
	maxWindowsUser              = 104
)

func validateWindowsOptions(o *corev1.WindowsSecurityContextOptions, path *field.Path) field.ErrorList {
	if o == nil {
		return nil
	}
	var errs field.ErrorList
	if n := o.GMSACredentialSpecName; n != nil {
		errs = append(errs, invalid(path.Child("gmsaCredentialSpecName"), *n, validation.IsDNS1123Subdomain(*n))...)
	}
	if s := o.GMSACredentialSpec; s != nil {
		at := path.Child("gmsaCredentialSpec")
		if *s == "" {
			errs = append(errs, field.Invalid(at, *s, "gmsaCredentialSpec cannot be an empty string"))
		} else if len(*s) > maxWindowsCredentialSpecKiB<<10 {
			errs = append(errs, field.Invalid(at, *s, fmt.Sprintf("gmsaCredentialSpec size must be under %d KiB", maxWindowsCredentialSpecKiB)))
		}
	}
	if u := o.RunAsUserName; u != nil {
		errs = append(errs, invalid(path.Child("runAsUserName"), *u, windowsUserFaults(*u))...)
	}
	return errs
}

func windowsUserFaults(name string) []string {
	switch {
	case name == "":
		return []string{"runAsUserName cannot be an empty string"}
	case windowsControl.MatchString(name):
		return []string{"runAsUserName cannot contain control characters"}
	case strings.Count(name, `\`) > 1:
		return []string{"runAsUserName cannot contain more than one backslash"}
	}
	domain, user, both := strings.Cut(name, `\`)
	if !both {
		domain, user = "", name
	}
	var faults []string
	if len(domain) >= maxWindowsDomain {
		faults = append(faults, fmt.Sprintf("runAsUserName's Domain length must be under %d characters", maxWindowsDomain))
	}
	if both && !windowsNetBIOS.MatchString(domain) && !windowsDNS.MatchString(domain) {
		faults = append(faults, "runAsUserName's Domain doesn't match the NetBios nor the DNS format")
	}
	if user == "" {
		faults = append(faults, "runAsUserName's User cannot be empty")
	} else if len(user) > maxWindowsUser {
		faults = append(faults, fmt.Sprintf("runAsUserName's User length must not be longer than %d characters", maxWindowsUser))
	}
	if windowsNoName.MatchString(user) {
		faults = append(faults, "runAsUserName's User cannot contain only periods or spaces")
	}
	if windowsReserved.MatchString(user) {
		faults = append(faults, `runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]`)
	}
	return faults
}

// validateHostProcess wants all containers, or none, to be processes of a
// Windows host.
func validateHostProcess(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	var all *bool
	if sc := spec.SecurityContext; sc != nil && sc.WindowsOptions != nil {
		all = sc.WindowsOptions.HostProcess
	}
	containers, processes := 0, 0
	for c, at := range everyContainerAt(spec, path) {
		containers++
		own := all
		if sc := c.SecurityContext; sc != nil && sc.WindowsOptions != nil && sc.WindowsOptions.HostProcess != nil {
			own = sc.WindowsOptions.HostProcess
			if all != nil && *all != *own {
				errs = append(errs, field.Invalid(at.Child("securityContext", "windowsOptions", "hostProcess"), *own,
					fmt.Sprintf("pod hostProcess value must be identical if both are specified, was %v", *all)))
			}
		}
		if ptr.Deref(own, false) {
			processes++
		}
	}
	if processes == 0 {
		return errs
	}
	if processes != containers {
		errs = append(errs, field.Invalid(path, "", "If pod contains any hostProcess containers then all containers must be HostProcess containers"))
	}
	if !spec.HostNetwork {
		errs = append(errs, field.Invalid(path.Child("hostNetwork"), spec.HostNetwork, "hostNetwork must be true if pod contains any hostProcess containers"))
	}
	return errs
}
