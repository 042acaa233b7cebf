package hostconfig

import (
	"fmt"
	"testing"
)

func TestParseNetworks(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"10.244.0.0/16", "[10.244.0.0/16]"},
		{"10.244.0.0/16,fd00:10:244::/56", "[10.244.0.0/16 fd00:10:244::/56]"},
		{"fd00:10:244::7/56, 10.244.0.0/16", "[fd00:10:244::/56 10.244.0.0/16]"},
		{"10.244.0.0/16,10.245.0.0/16", ""},
		{"10.244.0.0/16,fd00::/56,fd01::/56", ""},
		{"10.244.0.0/16,", ""},
		{"", ""},
	} {
		got, err := ParseNetworks(test.text)
		if err != nil {
			if test.want != "" {
				t.Errorf("%q: %v", test.text, err)
			}
			continue
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%q: got %v, want %s", test.text, got, test.want)
		}
	}
}
