// Package rootca publishes the cluster CA's certificate in every namespace, as
// the ConfigMap kube-root-ca.crt that service-account volumes project.
package rootca
