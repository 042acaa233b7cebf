// Package devicetainteviction deletes pods that use devices whose driver has
// tainted them NoExecute, unless their claims tolerate it, and once they
// tolerate it no longer. That new pods do not get such devices is the
// scheduler's business. Taints by DeviceTaintRule, an API that Kubernetes 1.36
// leaves off, are not known here.
package devicetainteviction
