// Package legacytokens fills secrets of the type
// kubernetes.io/service-account-token with a token of the account that they
// name, which lives as long as they do, removes those whose account is gone, and
// takes deleted ones off their account's list.
package legacytokens
