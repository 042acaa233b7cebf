package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"clusterctl/bootstrap/pki"
	"clusterctl/bootstrap/plan"
	"clusterctl/hostop"
)

// perform carries out one step: it uploads what is missing, fills in secrets
// and applies. An upload ends with ctx; the operations go on until work ends.
func (r *run) perform(ctx, work context.Context, step plan.Step) (changed bool, err error) {
	hand := r.hands[step.Hand()]
	if hand == nil {
		return false, fmt.Errorf("%s is not connected", step.Hand())
	}
	if err := r.upload(ctx, hand, step); err != nil {
		if ctx.Err() != nil {
			err = errStop
		}
		return false, err
	}
	ops, err := r.withSecrets(step.Ops)
	if err != nil {
		return false, err
	}
	var fault string
	_, err = hand.Call(work, hostop.Request{Method: hostop.MethodApply, Ops: ops}, nil, func(e hostop.Event) {
		changed = changed || e.State == hostop.StateChanged
		told := Event{Kind: KindProgress, State: e.State, Detail: e.Detail, Error: e.Error}
		if e.Op >= 0 && e.Op < len(step.Ops) {
			told.Op = step.Ops[e.Op].Describe()
		}
		if e.State == hostop.StateFailed {
			fault = e.Error
			if told.Op != "" {
				fault = told.Op + ": " + e.Error
			}
		}
		r.emit(about(step, told))
	})
	switch {
	case err == nil:
		return changed, nil
	case work.Err() != nil:
		return changed, fmt.Errorf("%w: %w", errStop, err)
	case fault != "":
		return changed, errors.New(fault)
	}
	return changed, err
}

// blob is a payload file that an operation unpacks.
type blob struct {
	digest string
	size   int64
	op     hostop.Op
}

func blobs(ops hostop.Ops) []blob {
	var found []blob
	for _, op := range ops {
		switch o := op.(type) {
		case *hostop.Blob:
			found = append(found, blob{o.Digest, o.Size, o})
		case *hostop.Image:
			found = append(found, blob{o.Digest, o.Size, o})
		}
	}
	return found
}

// upload brings the payload files that the step needs and the host lacks.
func (r *run) upload(ctx context.Context, hand Hand, step plan.Step) error {
	needed := blobs(step.Ops)
	if len(needed) == 0 {
		return nil
	}
	digests := make([]string, len(needed))
	offered := map[string]blob{}
	for i, b := range needed {
		digests[i] = b.digest
		offered[b.digest] = b
	}
	var missing []string
	if err := call(ctx, hand, hostop.MethodHave, digests, &missing); err != nil {
		return fmt.Errorf("ask for payload files: %w", err)
	}
	for _, digest := range missing {
		b, known := offered[digest]
		if !known {
			return fmt.Errorf("the host asks for %s, which it was not offered", digest)
		}
		if err := r.put(ctx, hand, step, b); err != nil {
			return fmt.Errorf("upload %s: %w", b.op.Describe(), err)
		}
	}
	return nil
}

func (r *run) put(ctx context.Context, hand Hand, step plan.Step, b blob) error {
	if r.options.Payload == nil {
		return errors.New("there is no payload")
	}
	body, err := r.options.Payload(b.digest)
	if err != nil {
		return fmt.Errorf("open payload: %w", err)
	}
	defer body.Close()
	params, err := json.Marshal(hostop.PutParams{Digest: b.digest})
	if err != nil {
		return fmt.Errorf("encode parameters: %w", err)
	}
	told := int64(0)
	counted := &counter{r: body, tell: func(sent int64) {
		if sent-told >= uploadStep || sent == b.size {
			told = sent
			r.emit(about(step, Event{Kind: KindUpload, Op: b.op.Describe(), Bytes: sent, Size: b.size}))
		}
	}}
	_, err = hand.Call(ctx, hostop.Request{Method: hostop.MethodPut, Params: params, BodySize: b.size}, counted, nil)
	return err
}

// uploadStep is how many bytes lie between two events of an upload.
const uploadStep = 2 << 20

type counter struct {
	r    io.Reader
	sent int64
	tell func(int64)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.sent += int64(n)
		c.tell(c.sent)
	}
	return n, err
}

// withSecrets copies operations and fills keys and certificates in. The plan's
// own operations stay without.
func (r *run) withSecrets(ops hostop.Ops) (hostop.Ops, error) {
	filled := make(hostop.Ops, len(ops))
	var prints map[string]string
	for i, op := range ops {
		filled[i] = op
		switch o := op.(type) {
		case *hostop.Encryption:
			with := *o
			with.Content = r.options.Encryption
			filled[i] = &with
			continue
		case *hostop.Authorities, *hostop.Certificate, *hostop.TrustAnchor:
		default:
			continue
		}
		if prints == nil {
			if len(r.options.Authorities) == 0 {
				return nil, errors.New("there are no certificate authorities to issue from")
			}
			var err error
			if prints, err = r.options.Authorities.Fingerprints(); err != nil {
				return nil, err
			}
		}
		with, err := r.fill(op, r.options.Authorities, prints)
		if err != nil {
			return nil, err
		}
		filled[i] = with
	}
	return filled, nil
}

func (r *run) fill(op hostop.Op, authorities pki.Bundle, prints map[string]string) (hostop.Op, error) {
	switch o := op.(type) {
	case *hostop.Authorities:
		with := *o
		with.Keys, with.Bundle = prints, authorities
		return &with, nil
	case *hostop.TrustAnchor:
		with := *o
		with.AuthorityKey, with.Cert = prints[o.Authority+".crt"], authorities.Certificate(o.Authority)
		return &with, nil
	case *hostop.Certificate:
		with := *o
		with.AuthorityKey = prints[o.Authority+".crt"]
		var err error
		with.Cert, with.Key, err = authorities.Issue(*o, r.options.Now())
		return &with, err
	}
	return op, nil
}
