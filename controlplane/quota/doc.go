// Package quota measures objects against resource quotas: what a pod, a
// service or a claim uses of which resources, and which quotas look at it.
// Admission refuses by it (controlplane/admission), and a controller adds it up.
//
// How quotas are compared, and how objects of other kinds are counted, is
// k8s.io/apiserver's.
package quota
