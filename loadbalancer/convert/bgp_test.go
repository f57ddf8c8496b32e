// SPDX-License-Identifier: Apache-2.0

package convert_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func community(name string, pairs ...string) *v1alpha1.Community {
	c := &v1alpha1.Community{ObjectMeta: metav1.ObjectMeta{Name: name}}
	for i := 0; i < len(pairs); i += 2 {
		c.Spec.Communities = append(c.Spec.Communities, v1alpha1.CommunityAlias{Name: pairs[i], Value: pairs[i+1]})
	}
	return c
}

// wantFaults compares "Reason part-of-the-message" with faults, in order.
func wantFaults(t *testing.T, want []string, got []loadbalancer.BGPFault) {
	t.Helper()
	ok := len(want) == len(got)
	for i := 0; ok && i < len(want); i++ {
		why, part, _ := strings.Cut(want[i], " ")
		ok = got[i].Reason == why && strings.Contains(got[i].Message, part)
	}
	if !ok {
		t.Errorf("faults %+v, want %q", got, want)
	}
}

func TestAliases(t *testing.T) {
	t.Parallel()
	got, faults := convert.Aliases([]*v1alpha1.Community{
		community("z", "site", "65000:9", "same", "65000:2"),
		community("a", "site", "65000:1", "same", "65000:2", "big", "large:1:2:3", "no-export", "65535:65281"),
		community("m", "broken", "65000", "alias-of-alias", "site", "65000:5", "65000:6"),
	})
	if diff := cmp.Diff(map[string]loadbalancer.Community{
		"site": {A: 65000, B: 1}, "same": {A: 65000, B: 2}, "big": {Kind: loadbalancer.LargeCommunity, A: 1, B: 2, C: 3}, "no-export": {A: 65535, B: 65281},
	}, got); diff != "" {
		t.Errorf("aliases (-want +got):\n%s", diff)
	}
	wantFaults(t, []string{
		`UnknownCommunity community m: the value of "broken"`, `UnknownCommunity community m: the value of "alias-of-alias"`,
		`UnknownCommunity community m: the name "65000:5"`, `UnknownCommunity community z: "site" is 65000:9 here and 65000:1 in a`,
	}, faults)
}

func TestBGPAdvertisement(t *testing.T) {
	t.Parallel()
	gold := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}
	none := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "none"}}}
	aliases := map[string]loadbalancer.Community{"site": {A: 65000, B: 1}}
	plain := loadbalancer.BGPAdvertisement{Name: "ad", Here: true, Bits4: 32, Bits6: 128}
	for _, tt := range []struct {
		name   string
		spec   v1alpha1.BGPAdvertisementSpec
		change func(*loadbalancer.BGPAdvertisement)
		faults []string
	}{
		{name: "nothing said", change: func(*loadbalancer.BGPAdvertisement) {}},
		{
			name: "everything",
			spec: v1alpha1.BGPAdvertisementSpec{
				AggregationLength: new(int32(24)), AggregationLengthV6: new(int32(64)), LocalPref: 200, MED: new(int64(0)), ASPathPrepend: 3,
				Communities: []string{"65000:2", "site", "65000:1", "large:1:2:3"}, Peers: []string{"b", "a"}, NodeSelectors: gold,
				ServiceOverrides: []string{"med", "localPref", "communities", "asPathPrepend"},
			},
			change: func(a *loadbalancer.BGPAdvertisement) {
				a.Bits4, a.Bits6, a.Peers = 24, 64, []string{"b", "a"}
				a.ServiceLocalPref, a.ServiceMED, a.ServicePrepend, a.ServiceCommunities = true, true, true, true
				a.Attributes = loadbalancer.BGPAttributes{
					LocalPref: 200, HasLocalPref: true, HasMED: true, Prepend: 3,
					Communities: []loadbalancer.Community{{A: 65000, B: 1}, {A: 65000, B: 2}, {Kind: loadbalancer.LargeCommunity, A: 1, B: 2, C: 3}},
				}
			},
		},
		{name: "no preference is none", spec: v1alpha1.BGPAdvertisementSpec{LocalPref: 0}, change: func(*loadbalancer.BGPAdvertisement) {}},
		{name: "one override", spec: v1alpha1.BGPAdvertisementSpec{ServiceOverrides: []string{"med"}}, change: func(a *loadbalancer.BGPAdvertisement) { a.ServiceMED = true }},
		{name: "another node", spec: v1alpha1.BGPAdvertisementSpec{NodeSelectors: none}, change: func(a *loadbalancer.BGPAdvertisement) { a.Here = false }},
		{
			name: "a community that nobody knows", spec: v1alpha1.BGPAdvertisementSpec{Communities: []string{"elsewhere", "65000:1", "nowhere"}},
			change: func(a *loadbalancer.BGPAdvertisement) {
				a.Here, a.Attributes.Communities = false, []loadbalancer.Community{{A: 65000, B: 1}}
			},
			faults: []string{`UnknownCommunity "elsewhere"`, `UnknownCommunity "nowhere"`},
		},
		{
			name: "a selector that cannot be understood", spec: v1alpha1.BGPAdvertisementSpec{
				ServiceSelectors: []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "x", Operator: "Near"}}}},
			},
			change: func(a *loadbalancer.BGPAdvertisement) { a.Here = false },
			faults: []string{"InvalidSelector serviceSelectors[0]"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, faults := convert.BGPAdvertisement(&v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "ad"}, Spec: tt.spec}, aliases, map[string]string{"tier": "gold"})
			want := plain
			tt.change(&want)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			wantFaults(t, tt.faults, faults)
			if slices.ContainsFunc(faults, func(f loadbalancer.BGPFault) bool { return f.Advertisement != "ad" }) {
				t.Errorf("faults %+v do not name the advertisement", faults)
			}
		})
	}
}

// An L2Advertisement and a BGPAdvertisement select the same by the same words.
func TestBGPSelectors(t *testing.T) {
	t.Parallel()
	gold := []metav1.LabelSelector{{MatchLabels: map[string]string{"tier": "gold"}}}
	s, err := convert.BGPSelectors(&v1alpha1.BGPAdvertisement{Spec: v1alpha1.BGPAdvertisementSpec{
		IPAddressPools: []string{"p"}, IPAddressPoolSelectors: gold, NodeSelectors: gold, ServiceSelectors: gold,
	}})
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"tier": "gold"}
	for name, got := range map[string]bool{
		"pool by name": s.SelectsPool("p", nil), "pool by label": s.SelectsPool("q", labels), "node": s.SelectsNode(labels), "Service": s.SelectsService(labels),
		"not another pool": !s.SelectsPool("q", nil), "not another node": !s.SelectsNode(nil), "not another Service": !s.SelectsService(nil),
	} {
		if !got {
			t.Errorf("%s: no", name)
		}
	}
}

func TestBGPOverrides(t *testing.T) {
	t.Parallel()
	const localPref, med, prepend, communities = "fairlead.dev/bgp-local-pref", "fairlead.dev/bgp-med", "fairlead.dev/bgp-as-path-prepend", "fairlead.dev/bgp-communities"
	long := make([]string, 65)
	for i := range long {
		long[i] = fmt.Sprintf("65000:%d", i)
	}
	for _, tt := range []struct {
		name     string
		pairs    []string
		want     loadbalancer.BGPOverrides
		mentions string
	}{
		{name: "nothing", pairs: []string{localPref, " ", communities, ""}},
		{
			name: "all", pairs: []string{localPref, " 0 ", med, "4294967295", prepend, "16", communities, "no-export, 65000:1,my_alias,65000:1"},
			want: loadbalancer.BGPOverrides{
				HasLocalPref: true, MED: 4294967295, HasMED: true, Prepend: 16, HasPrepend: true, Communities: []string{"65000:1", "my_alias", "no-export"},
			},
		},
		{name: "MED alone", pairs: []string{med, "7"}, want: loadbalancer.BGPOverrides{MED: 7, HasMED: true}},
		{name: "too high", pairs: []string{localPref, "4294967296"}, mentions: localPref},
		{name: "negative", pairs: []string{med, "-1"}, mentions: med},
		{name: "padded", pairs: []string{med, "01"}, mentions: med},
		{name: "prepended too often", pairs: []string{prepend, "17"}, mentions: "from 0 to 16"},
		{name: "an empty word", pairs: []string{communities, "65000:1,"}, mentions: communities},
		{name: "two words", pairs: []string{communities, "a b"}, mentions: `"a b" is no community`},
		{name: "numbers that do not fit", pairs: []string{communities, "65536:1"}, mentions: `"65536:1" is no community`},
		{name: "too many", pairs: []string{communities, strings.Join(long, ",")}, mentions: "65 communities"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			req, err := convert.Service(withAnnotations(tt.pairs...))
			if err != nil || tt.mentions != "" {
				if err == nil || tt.mentions == "" || err.Reason != reason.InvalidAnnotation || !strings.Contains(err.Message, tt.mentions) {
					t.Fatalf("%v, want one with %q", err, tt.mentions)
				}
				return
			}
			if (req.BGP == nil) != cmp.Equal(tt.want, loadbalancer.BGPOverrides{}) {
				t.Errorf("overrides %+v", req.BGP)
			}
			// The record carries it to the nodes.
			record, rerr := convert.Record(&v1alpha1.LoadBalancer{Spec: v1alpha1.LoadBalancerSpec{BGP: req.BGP}})
			if rerr != nil {
				t.Fatal(rerr)
			}
			if diff := cmp.Diff(tt.want, record.BGP); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
