// Package policytypes checks the expressions of ValidatingAdmissionPolicies
// against the types of what they are about, and tells in the policies' status
// what cannot work: a misspelt field, for example, that would only show when
// the policy is asked.
package policytypes
