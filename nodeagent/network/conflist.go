package network

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"clusterctl/hostconfig"
)

// The CNI configuration, as far as we write it. The loopback interface is the
// runtime's business.
type (
	conflist struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Plugins    []any  `json:"plugins"`
	}
	bridgePlugin struct {
		Type             string    `json:"type"`
		Bridge           string    `json:"bridge"`
		IsDefaultGateway bool      `json:"isDefaultGateway"`
		ForceAddress     bool      `json:"forceAddress"`
		HairpinMode      bool      `json:"hairpinMode"`
		MTU              int       `json:"mtu"`
		IPAM             hostLocal `json:"ipam"`
	}
	hostLocal struct {
		Type    string     `json:"type"`
		DataDir string     `json:"dataDir"`
		Ranges  [][]subnet `json:"ranges"`
	}
	subnet struct {
		Subnet string `json:"subnet"`
	}
)

// renderConflist is the configuration for pods with an address in each of cidrs.
func renderConflist(cidrs []netip.Prefix, mtu int) ([]byte, error) {
	var ranges [][]subnet
	for _, cidr := range cidrs {
		ranges = append(ranges, []subnet{{cidr.String()}})
	}
	raw, err := json.MarshalIndent(conflist{
		CNIVersion: "1.0.0",
		Name:       "clusterctl",
		Plugins: []any{
			bridgePlugin{
				Type:             "bridge",
				Bridge:           BridgeLink,
				IsDefaultGateway: true,
				ForceAddress:     true, // should the node ever get another CIDR
				HairpinMode:      true, // pods reach themselves through a service
				MTU:              mtu,
				IPAM: hostLocal{
					Type: "host-local",
					// No pod outlives a restart of the host, nor may its address.
					DataDir: hostconfig.RunDir + "/cni",
					Ranges:  ranges,
				},
			},
		},
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode CNI configuration: %w", err)
	}
	return append(raw, '\n'), nil
}

// writeConflist writes the configuration unless it is there.
func writeConflist(path string, cidrs []netip.Prefix, mtu int) error {
	want, err := renderConflist(cidrs, mtu)
	if err != nil {
		return err
	}
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, want) {
		return nil
	}
	return writeFile(path, want, 0o644)
}

// writeFile replaces a file in one step, making its directory if need be.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	temporary, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Chmod(mode)
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
