// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
	"github.com/fairlead-lb/fairlead/loadbalancer/reason"
)

func addressKeys() []string {
	return []string{
		v1alpha1.PrefixFairlead + v1alpha1.KnobAddresses,
		v1alpha1.PrefixMetalLB + v1alpha1.KnobAddressesMetalLB,
		v1alpha1.PrefixMetalLBLegacy + v1alpha1.KnobAddressesMetalLB,
	}
}

func poolKeys() []string {
	return []string{
		v1alpha1.PrefixFairlead + v1alpha1.KnobPool,
		v1alpha1.PrefixMetalLB + v1alpha1.KnobPoolMetalLB,
		v1alpha1.PrefixMetalLBLegacy + v1alpha1.KnobPoolMetalLB,
	}
}

func sharingKeys() []string {
	return []string{
		v1alpha1.PrefixFairlead + v1alpha1.KnobSharingKey,
		v1alpha1.PrefixMetalLB + v1alpha1.KnobSharingKeyMetalLB,
		v1alpha1.PrefixMetalLBLegacy + v1alpha1.KnobSharingKeyMetalLB,
	}
}

// maxSharingKey is the longest sharing key that a claim holds, in bytes.
const maxSharingKey = 253

// knob returns the value under the first key that is set, and that key. A blank
// value counts as unset: templates leave such behind. A differing value under a
// later key is a warning.
func (r *ServiceRequest) knob(svc *corev1.Service, keys []string) (value, key string) {
	for _, k := range keys {
		v := strings.TrimSpace(svc.Annotations[k])
		switch {
		case v == "" || v == value:
		case key == "":
			value, key = v, k
		default:
			r.Warnings = append(r.Warnings, pool.Error{Reason: reason.ConflictingAnnotations, Message: fmt.Sprintf(
				"annotation %s: %q is ignored, because %s: %q comes first; remove one of them", k, v, key, value)})
		}
	}
	return value, key
}

// invalid says that an annotation's value cannot be understood.
func invalid(key, format string, args ...any) *pool.Error {
	return &pool.Error{Reason: reason.InvalidAnnotation, Message: "annotation " + key + ": " + fmt.Sprintf(format, args...)}
}

func (r *ServiceRequest) readReclaim(svc *corev1.Service) *pool.Error {
	switch v := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationReclaimPolicy]); v {
	case "":
	case string(v1alpha1.ReclaimDelete), string(v1alpha1.ReclaimRetain):
		r.Reclaim = v1alpha1.ReclaimPolicy(v)
	default:
		return invalid(v1alpha1.AnnotationReclaimPolicy, "%q is neither Delete nor Retain; write one of them", v)
	}
	return nil
}

func (*ServiceRequest) readAdvertisements(svc *corev1.Service) *pool.Error {
	_, err := Advertisements(svc)
	return err
}

// Advertisements returns the names that the annotation fairlead.dev/advertisements
// limits a Service to, each once; none when it has no such annotation. What is no name
// is an error, and is among the names all the same: it must not loosen the limit.
func Advertisements(svc *corev1.Service) (names []string, err *pool.Error) {
	value := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationAdvertisements])
	if value == "" {
		return nil, nil
	}
	for text := range strings.SplitSeq(value, ",") {
		text = strings.TrimSpace(text)
		if err == nil && len(validation.IsDNS1123Subdomain(text)) > 0 {
			err = invalid(v1alpha1.AnnotationAdvertisements, "%q is not an object's name; write a comma separated list such as lan, dmz", text)
		}
		if text != "" && !slices.Contains(names, text) {
			names = append(names, text)
		}
	}
	return names, err
}

func (r *ServiceRequest) readSharingKey(svc *corev1.Service) *pool.Error {
	value, key := r.knob(svc, sharingKeys())
	switch {
	case value == pool.ExternalKey:
		return invalid(key, "%q is reserved; write another key", value)
	case len(value) > maxSharingKey:
		return invalid(key, "the key is longer than %d bytes; write a shorter one", maxSharingKey)
	}
	r.Pool.SharingKey = value
	return nil
}

// readCount reads how many addresses per family are asked for; it comes after readAddresses.
func (r *ServiceRequest) readCount(svc *corev1.Service) *pool.Error {
	value := strings.TrimSpace(svc.Annotations[v1alpha1.AnnotationAddressCount])
	if value == "" {
		return nil
	}
	n, err := parseCount(value)
	if err != nil {
		return invalid(v1alpha1.AnnotationAddressCount, "%v", err)
	}
	for _, f := range []pool.Family{pool.IPv4, pool.IPv6} {
		if countOf(r.Pool.Addresses, f) > n {
			return &pool.Error{Reason: reason.ConflictingRequests, Message: fmt.Sprintf(
				"annotation %s: %q asks for fewer %s addresses than are named; raise it or name fewer addresses", v1alpha1.AnnotationAddressCount, value, f)}
		}
	}
	r.Pool.Count = n
	return nil
}

// parseCount reads a number of addresses per family.
func parseCount(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil || n < 1 || n > v1alpha1.MaxAddressesPerFamily || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%q is not a number from 1 to %d; write one", s, v1alpha1.MaxAddressesPerFamily)
	}
	return int(n), nil
}

func countOf(addrs []netip.Addr, f pool.Family) int {
	n := 0
	for _, a := range addrs {
		if pool.FamilyOf(a) == f {
			n++
		}
	}
	return n
}

// readAddresses reads the annotation, then spec.loadBalancerIP, the last way of asking.
func (r *ServiceRequest) readAddresses(svc *corev1.Service) *pool.Error {
	value, key := r.knob(svc, addressKeys())
	if key != "" {
		addrs, err := parseAddresses(value)
		if err != nil {
			return invalid(key, "%v", err)
		}
		r.Pool.Addresses = addrs
	}
	// Blank counts as absent here too.
	lbip := strings.TrimSpace(svc.Spec.LoadBalancerIP)
	if lbip == "" {
		return nil
	}
	addrs, err := parseAddresses(lbip)
	switch {
	case err != nil:
		return &pool.Error{Reason: reason.InvalidAnnotation, Message: fmt.Sprintf("spec.loadBalancerIP: %v", err)}
	case key == "":
		r.Pool.Addresses = addrs
	default:
		for _, a := range addrs {
			if !slices.Contains(r.Pool.Addresses, a) {
				return &pool.Error{Reason: reason.ConflictingRequests, Message: fmt.Sprintf(
					"annotation %s: %q and spec.loadBalancerIP: %q ask for different addresses; drop one of the two", key, value, lbip)}
			}
		}
	}
	return nil
}

// parseAddresses reads a comma separated list with at most MaxAddressesPerFamily
// addresses per family, none twice.
func parseAddresses(s string) ([]netip.Addr, error) {
	var out []netip.Addr
	for text := range strings.SplitSeq(s, ",") {
		text = strings.TrimSpace(text)
		a, err := netip.ParseAddr(text)
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6():
			return nil, fmt.Errorf("%q is not an IP address; write a comma separated list such as 192.0.2.10", text)
		case slices.Contains(out, a):
			return nil, fmt.Errorf("%s is named twice; name it once", a)
		case countOf(out, pool.FamilyOf(a)) == v1alpha1.MaxAddressesPerFamily:
			return nil, fmt.Errorf("there are more than %d %s addresses; ask for fewer", v1alpha1.MaxAddressesPerFamily, pool.FamilyOf(a))
		}
		out = append(out, a)
	}
	return out, nil
}
