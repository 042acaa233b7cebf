// Package admissionregistration holds the kinds of the group
// admissionregistration.k8s.io: what clusters add to admission, by webhooks and
// by policies in CEL, and the bindings of policies. Expressions are compiled
// when they are written, by the compiler that later runs them. Admission itself
// is in controlplane/admission.
package admissionregistration
