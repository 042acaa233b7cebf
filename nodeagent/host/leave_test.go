package host

import (
	"testing"

	"clusterctl/hostop"
)

func TestLackingQuorum(t *testing.T) {
	well := func(id string) hostop.EtcdMemberStatus {
		return hostop.EtcdMemberStatus{ID: id, Name: id, Healthy: true}
	}
	dead := func(id string) hostop.EtcdMemberStatus { return hostop.EtcdMemberStatus{ID: id, Name: id} }
	learner := hostop.EtcdMemberStatus{ID: "l", Learner: true, Healthy: true}
	for name, test := range map[string]struct {
		members []hostop.EtcdMemberStatus
		want    string
	}{
		"a dead one of three":               {[]hostop.EtcdMemberStatus{well("a"), well("b"), dead("x")}, ""},
		"a live one of three":               {[]hostop.EtcdMemberStatus{well("a"), well("b"), well("x")}, ""},
		"a live one beside a dead one":      {[]hostop.EtcdMemberStatus{well("a"), dead("b"), well("x")}, "1 of the 2 members that stay take part (not b); etcd would lose its quorum"},
		"learners do not count":             {[]hostop.EtcdMemberStatus{well("a"), dead("b"), learner, well("x")}, "1 of the 2 members that stay take part (not b); etcd would lose its quorum"},
		"two dead ones of five, one by one": {[]hostop.EtcdMemberStatus{well("a"), well("b"), well("c"), dead("d"), dead("x")}, ""},
		"the last one":                      {[]hostop.EtcdMemberStatus{well("x")}, "0 of the 0 members that stay take part (not ); etcd would lose its quorum"},
	} {
		if got := lackingQuorum(test.members, "x"); got != test.want {
			t.Errorf("%s: %q", name, got)
		}
	}
}
