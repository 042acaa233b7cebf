// Package resourcequota adds up what the objects of a namespace use and writes
// it into the status of its ResourceQuotas. Admission counts up by itself; this
// controller counts down when objects go, and sets right what has drifted. What
// an object uses stands in controlplane/quota.
package resourcequota
