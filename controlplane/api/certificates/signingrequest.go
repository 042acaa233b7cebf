package certificates

import (
	"context"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	certificatesv1beta1 "k8s.io/api/certificates/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var signingRequest = api.Definition[*certificatesv1.CertificateSigningRequest]{
	GroupVersion: certificatesv1.SchemeGroupVersion,
	Kind:         "CertificateSigningRequest",
	Resource:     "certificatesigningrequests",
	Singular:     "certificatesigningrequest",
	ShortNames:   []string{"csr"},
	ClusterScope: true,
	New:          func() *certificatesv1.CertificateSigningRequest { return &certificatesv1.CertificateSigningRequest{} },
	NewList:      func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} },

	// Any name that can stand in a URL will do.
	NameValidation:   func(string, bool) []string { return nil },
	PrepareForCreate: recordRequester,
	PrepareForUpdate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
		csr.Spec = old.Spec
	},
	Validate: func(_ context.Context, csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return check(csr, tolerated(csr, nil))
	},
	ValidateUpdate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return checkUpdate(csr, old, tolerated(csr, old))
	},
	Status: &api.Status[*certificatesv1.CertificateSigningRequest]{
		Copy:         func(to, from *certificatesv1.CertificateSigningRequest) { to.Status = from.Status },
		KeepMetadata: true,
		Prepare: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
			keepConditions(csr, old, certificatesv1.CertificateApproved)
			keepConditions(csr, old, certificatesv1.CertificateDenied)
			stampConditions(csr, old, metav1.Now())
		},
		Validate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
			options := tolerated(csr, old)
			options.maySign = true
			return checkUpdate(csr, old, options)
		},
	},
	ResetFields: [][]string{{"spec"}},
	Fields: func(csr *certificatesv1.CertificateSigningRequest) fields.Set {
		return fields.Set{"spec.signerName": csr.Spec.SignerName}
	},
	FieldNames: []string{"spec.signerName"},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Age(),
		columns.Text("SignerName", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["signerName"]),
		columns.Text("Requestor", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["request"]),
		columns.Text("RequestedDuration", certificatesv1beta1.CertificateSigningRequestSpec{}.SwaggerDoc()["expirationSeconds"]),
		columns.Text("Condition", certificatesv1beta1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
	},
	Row: func(csr *certificatesv1.CertificateSigningRequest) []any {
		signer, life := "<none>", "<none>"
		if csr.Spec.SignerName != "" {
			signer = csr.Spec.SignerName
		}
		if seconds := csr.Spec.ExpirationSeconds; seconds != nil {
			life = duration.HumanDuration(time.Duration(*seconds) * time.Second)
		}
		return []any{csr.Name, columns.Since(csr.CreationTimestamp.Time), signer, csr.Spec.Username, life, state(csr)}
	},
	Extend: func(_ *api.Environment, _, status *registry.Store) (map[string]rest.Storage, error) {
		approval := *status
		strategy := approvalStrategy{RESTUpdateStrategy: status.UpdateStrategy}
		approval.UpdateStrategy, approval.ResetFieldsStrategy = strategy, strategy
		return map[string]rest.Storage{"certificatesigningrequests/approval": api.NewStatusResource(&approval)}, nil
	},
}

// recordRequester writes down who asks, which signers rely on.
func recordRequester(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) {
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = "", "", nil, nil
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{}
	user, ok := request.UserFrom(ctx)
	if !ok {
		return
	}
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups = user.GetName(), user.GetUID(), user.GetGroups()
	if extra := user.GetExtra(); len(extra) > 0 {
		csr.Spec.Extra = make(map[string]certificatesv1.ExtraValue, len(extra))
		for key, values := range extra {
			csr.Spec.Extra[key] = values
		}
	}
}

// approvalStrategy writes the conditions alone. It takes the rest from the
// status strategy, which it wraps.
type approvalStrategy struct{ rest.RESTUpdateStrategy }

func (s approvalStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	csr, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	stampConditions(csr, before, metav1.Now())
	conditions := csr.Status.Conditions
	csr.Spec, csr.Status = before.Spec, *before.Status.DeepCopy()
	csr.Status.Conditions = conditions
}

func (s approvalStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	csr, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	options := tolerated(csr, before)
	options.mayApprove = true
	return append(checkUpdate(csr, before, options), checkMetaUpdate(csr, before)...)
}

func (s approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(certificatesv1.SchemeGroupVersion.String()): fieldpath.NewSet(
			fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate")),
	}
}

// keepConditions restores the stored conditions of a type, if there are as
// many as before: the status subresource may not touch them. A change of their
// number is left for validation to refuse.
func keepConditions(csr, old *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) {
	now, before := conditionsOf(csr, kind), conditionsOf(old, kind)
	if len(now) != len(before) {
		return
	}
	for i := range now {
		*now[i] = *before[i]
	}
}

// stampConditions sets the times of conditions that lack them.
func stampConditions(csr, old *certificatesv1.CertificateSigningRequest, now metav1.Time) {
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, before := range conditionsOf(old, c.Type) {
			if before.Status == c.Status && !before.LastTransitionTime.IsZero() {
				c.LastTransitionTime = before.LastTransitionTime
				break
			}
		}
	}
}

func conditionsOf(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) (found []*certificatesv1.CertificateSigningRequestCondition) {
	for i := range csr.Status.Conditions {
		if csr.Status.Conditions[i].Type == kind {
			found = append(found, &csr.Status.Conditions[i])
		}
	}
	return found
}

// state sums up the conditions for the table.
func state(csr *certificatesv1.CertificateSigningRequest) string {
	words := []string{"Pending"}
	if len(conditionsOf(csr, certificatesv1.CertificateDenied)) > 0 {
		words[0] = "Denied"
	} else if len(conditionsOf(csr, certificatesv1.CertificateApproved)) > 0 {
		words[0] = "Approved"
	}
	if len(conditionsOf(csr, certificatesv1.CertificateFailed)) > 0 {
		words = append(words, "Failed")
	}
	if len(csr.Status.Certificate) > 0 {
		words = append(words, "Issued")
	}
	return strings.Join(words, ",")
}
