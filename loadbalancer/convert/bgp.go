// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

const (
	// hostBits4 and hostBits6 are the lengths of a route to one address.
	hostBits4 = 32
	hostBits6 = 128
	// maxPrepend bounds AS path prepending, as the API does.
	maxPrepend = 16
)

// Values of spec.serviceOverrides.
const (
	overrideLocalPref   = "localPref"
	overrideMED         = "med"
	overridePrepend     = "asPathPrepend"
	overrideCommunities = "communities"
)

// Aliases reads the names of communities. Of a name with two values the one in the object
// whose own name comes first counts; a value that is no number, and a name that is one, are
// left out. All of that is told.
func Aliases(in []*v1alpha1.Community) (map[string]loadbalancer.Community, []loadbalancer.BGPFault) {
	out := make(map[string]loadbalancer.Community)
	from := make(map[string]string)
	var faults []loadbalancer.BGPFault
	fault := func(object, format string, args ...any) {
		faults = append(faults, loadbalancer.BGPFault{
			Reason: reason.UnknownCommunity.String(), Message: "community " + object + ": " + fmt.Sprintf(format, args...),
		})
	}
	objects := slices.SortedFunc(slices.Values(in), func(a, b *v1alpha1.Community) int { return strings.Compare(a.Name, b.Name) })
	for _, o := range objects {
		for _, alias := range o.Spec.Communities {
			value, err := loadbalancer.ParseCommunity(alias.Value, nil)
			if err != nil {
				fault(o.Name, "the value of %q: %v", alias.Name, err)
				continue
			}
			if known, err := loadbalancer.ParseCommunity(alias.Name, nil); err == nil && strings.Contains(alias.Name, ":") {
				fault(o.Name, "the name %q is the number %s itself; write another name", alias.Name, known)
				continue
			}
			if first, taken := from[alias.Name]; taken {
				if out[alias.Name] != value {
					fault(o.Name, "%q is %s here and %s in %s, which counts; remove one of them", alias.Name, value, out[alias.Name], first)
				}
				continue
			}
			out[alias.Name], from[alias.Name] = value, o.Name
		}
	}
	return out, faults
}

// BGPSelectors understands what a BGPAdvertisement selects. An error means that it is used
// by nobody, as an L2Advertisement is (reason.InvalidSelector).
func BGPSelectors(in *v1alpha1.BGPAdvertisement) (Selectors, error) {
	return newSelectors(in.Spec.IPAddressPools, in.Spec.IPAddressPoolSelectors, in.Spec.NodeSelectors, in.Spec.ServiceSelectors)
}

// BGPAdvertisement converts a BGPAdvertisement as the node with these labels sees it. With a
// fault of reason InvalidSelector or UnknownCommunity it is used by no node: half of a wish
// may tell a route from where, or to whom, the administrator meant not to.
func BGPAdvertisement(in *v1alpha1.BGPAdvertisement, aliases map[string]loadbalancer.Community, nodeLabels map[string]string) (loadbalancer.BGPAdvertisement, []loadbalancer.BGPFault) {
	spec := &in.Spec
	out := loadbalancer.BGPAdvertisement{
		Name: in.Name, Bits4: bits(spec.AggregationLength, hostBits4), Bits6: bits(spec.AggregationLengthV6, hostBits6),
		Peers:              slices.Clone(spec.Peers),
		ServiceLocalPref:   slices.Contains(spec.ServiceOverrides, overrideLocalPref),
		ServiceMED:         slices.Contains(spec.ServiceOverrides, overrideMED),
		ServicePrepend:     slices.Contains(spec.ServiceOverrides, overridePrepend),
		ServiceCommunities: slices.Contains(spec.ServiceOverrides, overrideCommunities),
	}
	var faults []loadbalancer.BGPFault
	fault := func(r reason.Reason, err error) {
		faults = append(faults, loadbalancer.BGPFault{Advertisement: in.Name, Reason: r.String(), Message: err.Error()})
	}
	selected, err := BGPSelectors(in)
	if err != nil {
		fault(reason.InvalidSelector, err)
	}
	out.Attributes = loadbalancer.BGPAttributes{LocalPref: clamp32(spec.LocalPref), HasLocalPref: spec.LocalPref > 0, Prepend: prepend(spec.ASPathPrepend)}
	if spec.MED != nil {
		out.Attributes.MED, out.Attributes.HasMED = clamp32(*spec.MED), true
	}
	var communities []loadbalancer.Community
	for _, word := range spec.Communities {
		c, err := loadbalancer.ParseCommunity(word, aliases)
		if err != nil {
			fault(reason.UnknownCommunity, err)
			continue
		}
		communities = append(communities, c)
	}
	if len(communities) > 0 {
		out.Attributes.Communities = loadbalancer.SortCommunities(communities...)
	}
	out.Here = len(faults) == 0 && selected.SelectsNode(nodeLabels)
	return out, faults
}

// overrides reads what a record says of its routes.
func overrides(in *v1alpha1.BGPOverrides) loadbalancer.BGPOverrides {
	var out loadbalancer.BGPOverrides
	if in == nil {
		return out
	}
	if in.LocalPref != nil {
		out.LocalPref, out.HasLocalPref = clamp32(*in.LocalPref), true
	}
	if in.MED != nil {
		out.MED, out.HasMED = clamp32(*in.MED), true
	}
	if in.ASPathPrepend != nil {
		out.Prepend, out.HasPrepend = prepend(*in.ASPathPrepend), true
	}
	out.Communities = slices.Clone(in.Communities)
	return out
}

// bits is the length of a prefix, that of one address where none is given.
func bits(in *int32, host int) int {
	if in == nil || *in < 1 || int(*in) > host {
		return host
	}
	return int(*in)
}

// clamp32 brings a number of the API, which its schema bounds, into 32 bits.
func clamp32(in int64) uint32 {
	return uint32(min(max(in, 0), math.MaxUint32)) // within bounds
}

func prepend(in int32) uint8 {
	return uint8(min(max(in, 0), maxPrepend)) // within bounds
}
