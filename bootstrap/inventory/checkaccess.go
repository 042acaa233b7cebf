package inventory

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"k8s.io/apiserver/pkg/audit/policy"
)

// checkAccess judges who may come in and what is recorded of it.
func (c *checker) checkAccess(inv *Inventory) {
	cluster := inv.Cluster
	if levels := []string{"baseline", "restricted"}; cluster.PodSecurity != "" && !contains(levels, cluster.PodSecurity) {
		c.faultAt("cluster.podSecurity", suggestion(cluster.PodSecurity, levels), "unknown pod security standard %q", cluster.PodSecurity)
	}
	if file := cluster.Audit.Policy; file != "" {
		path := "cluster.audit.policy"
		if text, ok := c.attach(inv, path, file); ok {
			if _, err := policy.LoadPolicyFromBytes(text); err != nil {
				c.faultAt(path, "write a Policy of audit.k8s.io/v1", "audit policy %s: %v", file, err)
			}
		}
	}
	issuers := map[string]int{}
	for i, provider := range cluster.Authentication.OIDC {
		path := fmt.Sprintf("cluster.authentication.oidc[%d]", i)
		issuer, err := url.Parse(provider.Issuer)
		if err != nil || issuer.Scheme != "https" || issuer.Host == "" || issuer.User != nil || issuer.RawQuery != "" || issuer.Fragment != "" {
			c.faultAt(path+".issuer", "write one like https://login.example.org", "issuer %q is no URL of a provider", provider.Issuer)
		}
		c.once(path+".issuer", "issuer", provider.Issuer, issuers)
		if provider.ClientID == "" {
			c.faultAt(path, "add clientID: with the client that the provider knows the cluster as", "issuer %s has no clientID", provider.Issuer)
		}
		if provider.GroupsClaim == "" && c.lines[path+".groupsPrefix"] != 0 {
			c.faultAt(path+".groupsPrefix", "add groupsClaim, or drop it", "groupsPrefix without a groupsClaim means nothing")
		}
		for claim, value := range provider.RequiredClaims {
			if claim == "" || value == "" {
				c.faultAt(path+".requiredClaims", "write claim: value", "required claim %q has the value %q", claim, value)
			}
		}
		if file := provider.CAFile; file != "" {
			text, ok := c.attach(inv, path+".caFile", file)
			if ok && !x509.NewCertPool().AppendCertsFromPEM(text) {
				c.faultAt(path+".caFile", "name a PEM file", "%s holds no certificate", file)
			}
		}
	}
}

// maxAttachment bounds the files that an inventory names, in bytes.
const maxAttachment = 1 << 20

// attach reads a file that the inventory names.
func (c *checker) attach(inv *Inventory, path, name string) ([]byte, bool) {
	text, err := readAttachment(resolvePath(filepath.Dir(inv.File), name))
	if err != nil {
		c.faultAt(path, "name a file that is there", "%v", err)
		return nil, false
	}
	inv.Files[name] = text
	return text, true
}

func readAttachment(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxAttachment {
		return nil, errors.New(path + " is no file of at most a megabyte")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxAttachment))
}
