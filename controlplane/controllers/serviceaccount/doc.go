// Package serviceaccount keeps a ServiceAccount named default in every
// namespace, since pods run as it unless they name another.
package serviceaccount
