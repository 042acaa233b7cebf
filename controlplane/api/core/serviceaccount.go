package core

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"

	"github.com/google/uuid"
)

func serviceAccountKind() api.Kind {
	kind := api.Define(api.Definition[*corev1.ServiceAccount]{
		GroupVersion: groupVersion, Kind: "ServiceAccount", Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"},
		New:     func() *corev1.ServiceAccount { return &corev1.ServiceAccount{} },
		NewList: func() runtime.Object { return &corev1.ServiceAccountList{} },

		NameValidation:   apivalidation.ValidateServiceAccountName,
		PrepareForCreate: func(_ context.Context, s *corev1.ServiceAccount) { cleanReferences(s) },
		PrepareForUpdate: func(_ context.Context, s, _ *corev1.ServiceAccount) { cleanReferences(s) },
		Columns:          []metav1.TableColumnDefinition{columns.Name(), columns.Age()},
		Row:              func(s *corev1.ServiceAccount) []any { return []any{s.Name, columns.Since(s.CreationTimestamp.Time)} },
		ReturnDeleted:    true,
		Extend: func(env *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
			return map[string]rest.Storage{"serviceaccounts/token": &tokenRequests{env: env, accounts: store}}, nil
		},
	})
	return registering{kind, func(scheme *runtime.Scheme) error {
		scheme.AddTypeDefaultingFunc(&authenticationv1.TokenRequest{}, func(object any) {
			r := object.(*authenticationv1.TokenRequest)
			if r.Spec.ExpirationSeconds == nil {
				r.Spec.ExpirationSeconds = ptr.To[int64](60 * 60)
			}
		})
		return nil
	}}
}

// cleanReferences leaves the names of secrets only: nothing else is looked at.
func cleanReferences(s *corev1.ServiceAccount) {
	for i := range s.Secrets {
		s.Secrets[i] = corev1.ObjectReference{Name: s.Secrets[i].Name}
	}
}

// tokenRequests serves serviceaccounts/token: tokens of limited life, for some
// audiences, that end with the object they are bound to.
type tokenRequests struct {
	env      *api.Environment
	accounts rest.Getter
}

var (
	_ rest.NamedCreater                   = (*tokenRequests)(nil)
	_ rest.GroupVersionKindProvider       = (*tokenRequests)(nil)
	_ rest.SubresourceObjectMetaPreserver = (*tokenRequests)(nil)
)

var tokenRequestKind = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

func (*tokenRequests) New() runtime.Object { return &authenticationv1.TokenRequest{} }
func (*tokenRequests) Destroy()            {}

func (*tokenRequests) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return tokenRequestKind
}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID: it is
// a precondition on the account.
func (*tokenRequests) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

const (
	// projectedSeconds is the life that admission asks for in pods; to be
	// told apart from what people ask for, it is an odd number.
	projectedSeconds = 60*60 + 7
	// extendedSeconds is what such a token lives in fact, for clients that do
	// not read it again; after projectedSeconds its use is reported.
	extendedSeconds = 365 * 24 * 60 * 60
)

func (t *tokenRequests) Create(ctx context.Context, name string, object runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := object.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest object: %T", object))
	}
	namespace, ok := request.NamespaceFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("namespace is required")
	}
	wrong := func(errs ...*field.Error) error {
		return apierrors.NewInvalid(tokenRequestKind.GroupKind(), name, errs)
	}
	if req.Name != "" && req.Name != name {
		return nil, wrong(field.Invalid(field.NewPath("metadata", "name"), req.Name, "must match the service account name if specified"))
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return nil, wrong(field.Invalid(field.NewPath("metadata", "namespace"), req.Namespace, "must match the service account namespace if specified"))
	}
	object, err := t.accounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	account := object.(*corev1.ServiceAccount)
	if req.UID != "" && req.UID != account.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: tokenRequestKind.Group, Resource: tokenRequestKind.Kind}, name,
			fmt.Errorf("the UID in the token request (%s) does not match the UID of the service account (%s)", req.UID, account.UID))
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = t.env.Audiences
	}
	now := time.Now()
	req.Name, req.Namespace, req.UID, req.CreationTimestamp = account.Name, account.Namespace, account.UID, metav1.NewTime(now)
	req.Status = authenticationv1.TokenRequestStatus{}
	if errs := validateTokenRequest(req); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequestKind.GroupKind(), "", errs)
	}
	if validate != nil {
		if err := validate(ctx, req.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	claims := kubernetesClaims{Namespace: account.Namespace, ServiceAccount: claimRef{account.Name, string(account.UID)}}
	if err := t.bind(ctx, req, &claims); err != nil {
		return nil, err
	}
	life := *req.Spec.ExpirationSeconds
	ours := !slices.ContainsFunc(req.Spec.Audiences, func(a string) bool { return !slices.Contains(t.env.Audiences, a) })
	if claims.Pod != nil && life == projectedSeconds && ours {
		claims.WarnAfter = ptr.To(now.Add(time.Duration(life) * time.Second).Unix())
		life = extendedSeconds
	}
	token, err := t.env.Tokens.Issue(ctx,
		publicClaims{
			Subject: serviceaccount.MakeUsername(account.Namespace, account.Name), Audience: req.Spec.Audiences,
			Expiry: now.Add(time.Duration(life) * time.Second).Unix(), ID: uuid.NewString(),
		},
		privateClaims{claims})
	if err != nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("failed to generate token: %w", err))
	}
	out := req.DeepCopy()
	out.Status = authenticationv1.TokenRequestStatus{
		Token:               token,
		ExpirationTimestamp: metav1.NewTime(now.Add(time.Duration(*out.Spec.ExpirationSeconds) * time.Second)),
	}
	return out, nil
}

// publicClaims are the registered ones that the issuer does not set itself.
type publicClaims struct {
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expiry   int64    `json:"exp"`
	ID       string   `json:"jti"`
}

type privateClaims struct {
	Kubernetes kubernetesClaims `json:"kubernetes.io"`
}

type kubernetesClaims struct {
	Namespace      string    `json:"namespace,omitempty"`
	ServiceAccount claimRef  `json:"serviceaccount,omitzero"`
	Pod            *claimRef `json:"pod,omitempty"`
	Secret         *claimRef `json:"secret,omitempty"`
	Node           *claimRef `json:"node,omitempty"`
	WarnAfter      *int64    `json:"warnafter,omitempty"`
}

type claimRef struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

func validateTokenRequest(req *authenticationv1.TokenRequest) field.ErrorList {
	const shortest = 10 * 60
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	seconds := ptr.Deref(req.Spec.ExpirationSeconds, 60*60)
	req.Spec.ExpirationSeconds = &seconds
	if seconds < shortest {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration less than 10 minutes"))
	}
	if seconds > 1<<32 {
		errs = append(errs, field.Invalid(path, seconds, "may not specify a duration larger than 2^32 seconds"))
	}
	return errs
}

// bind checks the object that the token ends with and notes it in the claims.
func (t *tokenRequests) bind(ctx context.Context, req *authenticationv1.TokenRequest, claims *kubernetesClaims) error {
	ref := req.Spec.BoundObjectRef
	if ref == nil {
		return nil
	}
	var uid types.UID
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch {
	case gvk.Group == "" && gvk.Kind == "Pod":
		object, err := t.get(ctx, "/pods", ref.Name)
		if err != nil {
			return err
		}
		pod := object.(*corev1.Pod)
		if pod.Spec.ServiceAccountName != req.Name {
			return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", req.Name))
		}
		uid, claims.Pod = pod.UID, &claimRef{pod.Name, string(pod.UID)}
		if pod.Spec.NodeName != "" {
			claims.Node = &claimRef{Name: pod.Spec.NodeName}
			node, err := t.get(ctx, "/nodes", pod.Spec.NodeName)
			switch {
			case err == nil:
				claims.Node.UID = string(node.(*corev1.Node).UID)
			case !apierrors.IsNotFound(err):
				return apierrors.NewInternalError(err)
			}
		}
	case gvk.Group == "" && gvk.Kind == "Node":
		object, err := t.get(ctx, "/nodes", ref.Name)
		if err != nil {
			return err
		}
		uid = object.(*corev1.Node).UID
		claims.Node = &claimRef{ref.Name, string(uid)}
	case gvk.Group == "" && gvk.Kind == "Secret":
		object, err := t.get(ctx, "/secrets", ref.Name)
		if err != nil {
			return err
		}
		uid = object.(*corev1.Secret).UID
		claims.Secret = &claimRef{ref.Name, string(uid)}
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return nil
}

func (t *tokenRequests) get(ctx context.Context, resource, name string) (runtime.Object, error) {
	store, err := getter(t.env, resource)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	// Errors name what the request is for.
	info := &request.RequestInfo{IsResourceRequest: true, Verb: "get", APIVersion: "v1", Resource: strings.TrimPrefix(resource, "/"), Name: name}
	if resource == "/nodes" {
		ctx = clusterScope(ctx)
	} else {
		info.Namespace = request.NamespaceValue(ctx)
	}
	ctx = request.WithRequestInfo(ctx, info)
	return store.Get(ctx, name, &metav1.GetOptions{})
}
