package csrapprove

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/csr"
	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 1
	// A new node reports its addresses a moment after it asks for its serving
	// certificate; a request is looked at again for so long.
	patience = 10 * time.Minute
	again    = 2 * time.Second
)

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	requests := env.Informers.Certificates().V1().CertificateSigningRequests()
	nodes := env.Informers.Core().V1().Nodes().Lister()
	var loop *reconcile.Loop
	loop = reconcile.NewLoop(env, "csrapprove", workers, func(ctx context.Context, name string) error {
		cached, err := requests.Lister().Get(name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(cached.Status.Certificate) > 0 || csr.Has(cached, certificatesv1.CertificateApproved) || csr.Has(cached, certificatesv1.CertificateDenied) {
			return nil
		}
		if !known(cached) {
			return nil
		}
		request, err := csr.Parse(cached)
		if err == nil {
			err = csr.Check(cached, request)
		}
		if err != nil {
			loop.Logger().Info("left to an operator", "csr", name, "reason", err)
			return nil
		}
		node, err := nodes.Get(csr.NodeName(request))
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if apierrors.IsNotFound(err) {
			node = nil
		}
		verdict := judge(cached, request, node)
		if verdict.refusal != "" {
			if verdict.mayChange && time.Since(cached.CreationTimestamp.Time) < patience {
				loop.AddAfter(name, again)
			} else {
				loop.Logger().Info("left to an operator", "csr", name, "reason", verdict.refusal)
			}
			return nil
		}
		approved := cached.DeepCopy()
		approved.Status.Conditions = append(approved.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type:           certificatesv1.CertificateApproved,
			Status:         corev1.ConditionTrue,
			Reason:         "AutoApproved",
			Message:        verdict.reason,
			LastUpdateTime: metav1.Now(),
		})
		if _, err := env.Client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, name, approved, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("approve: %w", err)
		}
		return nil
	})
	err := reconcile.Watch(env, requests.Informer(), reconcile.Handlers[*certificatesv1.CertificateSigningRequest]{
		Add:    func(o *certificatesv1.CertificateSigningRequest) { loop.AddObject(o) },
		Update: func(_, o *certificatesv1.CertificateSigningRequest) { loop.AddObject(o) },
	})
	if err != nil {
		return nil, err
	}
	return loop, nil
}

func known(o *certificatesv1.CertificateSigningRequest) bool {
	return o.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName || o.Spec.SignerName == certificatesv1.KubeletServingSignerName
}

type verdict struct {
	reason    string // why it is approved
	refusal   string // or why not
	mayChange bool   // the node may yet report what is missing
}

// judge decides on a request that its signer could sign. node is nil if there
// is none of the name asked for.
func judge(o *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, node *corev1.Node) verdict {
	self := o.Spec.Username == request.Subject.CommonName && slices.Contains(o.Spec.Groups, "system:nodes")
	if o.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
		switch {
		case self:
			return verdict{reason: "The node renews its own client certificate."}
		case slices.Contains(o.Spec.Groups, "system:bootstrappers"):
			return verdict{reason: "A node asks for its client certificate with a bootstrap token."}
		}
		return verdict{refusal: fmt.Sprintf("%s may not ask for the identity of %s", o.Spec.Username, request.Subject.CommonName)}
	}
	if !self {
		return verdict{refusal: fmt.Sprintf("%s may not ask for a serving certificate of %s", o.Spec.Username, request.Subject.CommonName)}
	}
	if node == nil {
		return verdict{refusal: "the node does not exist", mayChange: true}
	}
	own := map[string]bool{node.Name: true}
	for _, address := range node.Status.Addresses {
		own[address.Address] = true
	}
	for _, name := range request.DNSNames {
		if !own[name] {
			return verdict{refusal: fmt.Sprintf("%s is no name of the node", name), mayChange: true}
		}
	}
	for _, ip := range request.IPAddresses {
		if !own[ip.String()] {
			return verdict{refusal: fmt.Sprintf("%s is no address of the node", ip), mayChange: true}
		}
	}
	return verdict{reason: "All names and addresses are the node's own."}
}
