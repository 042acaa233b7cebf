package hostconfig

import (
	"net/netip"
	"testing"
)

func TestParseAddressRange(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.0/24":               "192.0.2.1-192.0.2.254",
		"192.0.2.128/31":             "192.0.2.128-192.0.2.129",
		"192.0.2.7/32":               "192.0.2.7-192.0.2.7",
		"192.0.2.7":                  "192.0.2.7-192.0.2.7",
		"192.0.2.10-192.0.2.20":      "192.0.2.10-192.0.2.20",
		"192.0.2.10 - 192.0.2.20":    "192.0.2.10-192.0.2.20",
		"2001:db8::/120":             "2001:db8::-2001:db8::ff",
		"2001:db8::1-2001:db8::1:ff": "2001:db8::1-2001:db8::1:ff",
		"192.0.2.1/24":               "",
		"192.0.2.20-192.0.2.10":      "",
		"192.0.2.1-2001:db8::1":      "",
		"fe80::1%eth0":               "",
		"lan":                        "",
		"":                           "",
	} {
		r, err := ParseAddressRange(text)
		switch got := r.First.String() + "-" + r.Last.String(); {
		case want == "" && err == nil:
			t.Errorf("%q: no error, but %s", text, got)
		case want != "" && (err != nil || got != want):
			t.Errorf("%q: got %s, error %v; want %s", text, got, err, want)
		}
	}
}

func TestAddressRanges(t *testing.T) {
	r := RangeOf(netip.MustParsePrefix("192.0.2.64/26"))
	for address, want := range map[string]bool{
		"192.0.2.64": true, "192.0.2.127": true, "192.0.2.63": false, "192.0.2.128": false, "2001:db8::": false,
	} {
		a := netip.MustParseAddr(address)
		if r.Contains(a) != want || r.Overlaps(AddressRange{a, a}) != want {
			t.Errorf("%s: contains %t, want %t", a, r.Contains(a), want)
		}
	}
	if !r.Overlaps(RangeOf(netip.MustParsePrefix("192.0.0.0/16"))) {
		t.Error("a larger network does not overlap")
	}
}
