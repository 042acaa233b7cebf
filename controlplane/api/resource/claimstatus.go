package resource

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/dynamic-resource-allocation/structured/schedulerapi"

	"clusterctl/controlplane/api/core"
)

// What a claim got, for whom, and how its devices do.

func validateClaimStatus(c, old *resourcev1.ResourceClaim) field.ErrorList {
	s, path := &c.Status, field.NewPath("status")
	errs := distinct(s.ReservedFor, resourcev1.ResourceClaimReservedForMaxSize, checkConsumer,
		func(r resourcev1.ResourceClaimConsumerReference) types.UID { return r.UID }, path.Child("reservedFor"))
	has := allocated(s.Allocation)
	errs = append(errs, distinct(s.Devices, math.MaxInt, func(d resourcev1.AllocatedDeviceStatus, path *field.Path) field.ErrorList {
		return checkDeviceStatus(d, has, path)
	}, deviceOf, path.Child("devices"))...)

	if at := path.Child("reservedFor"); len(s.ReservedFor) > 0 && s.Allocation == nil {
		errs = append(errs, field.Forbidden(at, "may not be specified when `allocated` is not set"))
	} else if c.DeletionTimestamp != nil && len(sets.New(s.ReservedFor...).Difference(sets.New(old.Status.ReservedFor...))) > 0 {
		errs = append(errs, field.Forbidden(at, "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set"))
	}
	if s.Allocation == nil {
		return errs
	}
	path = path.Child("allocation")
	if old.Status.Allocation != nil {
		return append(errs, apivalidation.ValidateImmutableField(s.Allocation, old.Status.Allocation, path)...)
	}
	return append(errs, checkAllocation(s.Allocation, namesOf(c.Spec.Devices.Requests), path)...)
}

func checkConsumer(r resourcev1.ResourceClaimConsumerReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, f := range []struct{ name, value string }{{"resource", r.Resource}, {"name", r.Name}, {"uid", string(r.UID)}} {
		if f.value == "" {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	return errs
}

func checkAllocation(a *resourcev1.AllocationResult, names requestNames, path *field.Path) field.ErrorList {
	at := path.Child("devices")
	errs := each(a.Devices.Results, resourcev1.AllocationResultsMaxSize, func(r resourcev1.DeviceRequestAllocationResult, path *field.Path) field.ErrorList {
		errs := names.checkOne(r.Request, path.Child("request"))
		errs = append(errs, core.ValidateDriverName(r.Driver, path.Child("driver"))...)
		errs = append(errs, checkPool(r.Pool, path.Child("pool"))...)
		errs = append(errs, dnsLabel(r.Device, path.Child("device"))...)
		errs = append(errs, checkBinding(r.BindingConditions, r.BindingFailureConditions, path)...)
		if r.ShareID != nil {
			errs = append(errs, checkUID(string(*r.ShareID), path.Child("shareID"))...)
		}
		return errs
	}, at.Child("results"))
	// The configuration of classes comes beside that of the claim.
	errs = append(errs, each(a.Devices.Config, 2*resourcev1.DeviceConfigMaxSize, func(c resourcev1.DeviceAllocationConfiguration, path *field.Path) field.ErrorList {
		var errs field.ErrorList
		sources := []resourcev1.AllocationConfigSource{resourcev1.AllocationConfigSourceClaim, resourcev1.AllocationConfigSourceClass}
		if at := path.Child("source"); c.Source == "" {
			errs = append(errs, field.Required(at, ""))
		} else if !slices.Contains(sources, c.Source) {
			errs = append(errs, field.NotSupported(at, c.Source, sources))
		}
		errs = append(errs, names.check(c.Requests, path.Child("requests"))...)
		return append(errs, checkConfiguration(c.DeviceConfiguration, false, path)...)
	}, at.Child("config"))...)
	if a.NodeSelector != nil {
		errs = append(errs, core.ValidateNodeSelector(a.NodeSelector, path.Child("nodeSelector"))...)
	}
	return errs
}

func checkUID(uid string, path *field.Path) field.ErrorList {
	if err := uuid.Validate(uid); err != nil {
		return field.ErrorList{field.Invalid(path, uid, fmt.Sprintf("error validating uid: %v", err))}
	}
	if len(uid) != 36 || uid != strings.ToLower(uid) {
		return field.ErrorList{field.Invalid(path, uid, "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}

// checkBinding checks the conditions for which a pod waits before it is bound.
func checkBinding(conditions, failures []string, path *field.Path) field.ErrorList {
	atConditions, atFailures := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	errs := distinct(conditions, resourcev1.BindingConditionsMaxSize, unversioned.ValidateLabelName, itself, atConditions)
	errs = append(errs, distinct(failures, resourcev1.BindingFailureConditionsMaxSize, unversioned.ValidateLabelName, itself, atFailures)...)
	for i, c := range failures {
		if slices.Contains(conditions, c) {
			errs = append(errs, field.Invalid(atFailures.Index(i), c, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(conditions) == 0 && len(failures) > 0 {
		errs = append(errs, field.Invalid(atConditions, conditions, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(failures) == 0 && len(conditions) > 0 {
		errs = append(errs, field.Invalid(atFailures, failures, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}

func checkDeviceStatus(d resourcev1.AllocatedDeviceStatus, has sets.Set[schedulerapi.SharedDeviceID], path *field.Path) field.ErrorList {
	errs := core.ValidateDriverName(d.Driver, path.Child("driver"))
	errs = append(errs, checkPool(d.Pool, path.Child("pool"))...)
	errs = append(errs, dnsLabel(d.Device, path.Child("device"))...)
	if d.ShareID != nil {
		errs = append(errs, checkUID(*d.ShareID, path.Child("shareID"))...)
	}
	if id := deviceOf(d); !has.Has(id) {
		errs = append(errs, field.Invalid(path, id, "must be an allocated device in the claim"))
	}
	if at := path.Child("conditions"); len(d.Conditions) > resourcev1.AllocatedDeviceStatusMaxConditions {
		errs = append(errs, field.TooMany(at, len(d.Conditions), resourcev1.AllocatedDeviceStatusMaxConditions))
	}
	errs = append(errs, unversioned.ValidateConditions(d.Conditions, path.Child("conditions"))...)
	if d.Data != nil && len(d.Data.Raw) > 0 {
		errs = append(errs, checkRaw(*d.Data, resourcev1.AllocatedDeviceStatusDataMaxLength, path.Child("data"))...)
	}
	n, path := d.NetworkData, path.Child("networkData")
	if n == nil {
		return errs
	}
	if len(n.InterfaceName) > resourcev1.NetworkDeviceDataInterfaceNameMaxLength {
		errs = append(errs, field.TooLong(path.Child("interfaceName"), "", resourcev1.NetworkDeviceDataInterfaceNameMaxLength))
	}
	if len(n.HardwareAddress) > resourcev1.NetworkDeviceDataHardwareAddressMaxLength {
		errs = append(errs, field.TooLong(path.Child("hardwareAddress"), "", resourcev1.NetworkDeviceDataHardwareAddressMaxLength))
	}
	return append(errs, distinct(n.IPs, resourcev1.NetworkDeviceDataMaxIPs, func(address string, path *field.Path) field.ErrorList {
		return validation.IsValidInterfaceAddress(path, address)
	}, itself, path.Child("ips"))...)
}
