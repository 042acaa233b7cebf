// Package legacytokens fills secrets of the type
// kubernetes.io/service-account-token with a token of the account that they
// name, which lives as long as they do, removes those whose account is gone, and
// takes deleted ones off their account's list. Those that an account lists, and
// that nobody has used for a year, it marks as no longer valid, and removes after
// another year (clean.go).
package legacytokens
