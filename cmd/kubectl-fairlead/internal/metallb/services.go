// SPDX-License-Identifier: Apache-2.0

package metallb

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/manifest"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
	"github.com/fairlead-lb/fairlead/loadbalancer/convert"
	"github.com/fairlead-lb/fairlead/loadbalancer/pool"
)

// AnnotatedService is a Service that carries MetalLB's annotations.
type AnnotatedService struct {
	// Service as namespace/name.
	Service string
	// Read are the annotations that Fairlead reads as its own, sorted.
	Read []string
}

// service is what a migration reads of one.
type service struct {
	object corev1.Service
	r      *remarks
}

// knobFromPool is what MetalLB writes on Services for people to see.
const knobFromPool = "ip-allocated-from-pool"

func (c *converter) service(o manifest.Object, r *remarks) {
	var svc corev1.Service
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Fields, &svc); err != nil {
		r.lostObject(userFields(o), fmt.Sprintf("is not a Service (%v)", err), "correct it in the input")
		return
	}
	if svc.Namespace == "" {
		svc.Namespace = metav1.NamespaceDefault
	}
	same := func(other service) bool {
		return other.object.Namespace == svc.Namespace && other.object.Name == svc.Name
	}
	if slices.ContainsFunc(c.services, same) {
		r.note("is in the input twice, the first one counts", "")
		return
	}
	c.services = append(c.services, service{svc, r})
	read := []string{v1alpha1.KnobAddressesMetalLB, v1alpha1.KnobPoolMetalLB, v1alpha1.KnobSharingKeyMetalLB}
	found := AnnotatedService{Service: svc.Namespace + "/" + svc.Name}
	for _, key := range sortedKeys(svc.Annotations) {
		knob, ok := strings.CutPrefix(key, v1alpha1.PrefixMetalLB)
		if !ok {
			knob, ok = strings.CutPrefix(key, v1alpha1.PrefixMetalLBLegacy)
		}
		switch {
		case !ok, knob == knobFromPool:
		case slices.Contains(read, knob):
			found.Read = append(found.Read, key)
		default:
			r.lost([]string{join("metadata.annotations", key)}, "is no annotation that Fairlead reads", "check its spelling; if MetalLB reads it, look for its meaning in MetalLB's documents")
		}
	}
	if len(found.Read) > 0 {
		c.result.Services = append(c.result.Services, found)
	}
}

// keepAddresses makes one claim for each address that a Service of type LoadBalancer
// shows and that lies in a pool of the output.
func (c *converter) keepAddresses() {
	if !c.opts.Claims {
		return
	}
	slices.SortFunc(c.services, func(a, b service) int {
		return cmp.Or(cmp.Compare(a.object.Namespace, b.object.Namespace), cmp.Compare(a.object.Name, b.object.Name))
	})
	tenants := make(map[netip.Addr][]*corev1.Service)
	pools := make(map[netip.Addr]string)
	for i := range c.services {
		s := &c.services[i]
		if s.object.Spec.Type != corev1.ServiceTypeLoadBalancer {
			continue
		}
		for _, a := range convert.StatusAddresses(&s.object) {
			p, ok := c.poolOf(a)
			if !ok {
				c.strange(s, a)
				continue
			}
			pools[a] = p
			if !slices.Contains(tenants[a], &s.object) { // a status may name an address twice
				tenants[a] = append(tenants[a], &s.object)
			}
		}
	}
	for _, a := range slices.SortedFunc(maps.Keys(tenants), netip.Addr.Compare) {
		c.result.Claims = append(c.result.Claims, c.claim(a, pools[a], tenants[a]))
	}
}

// strange names an address that MetalLB seems to have given from a pool that is not in
// the output. A Service with another load balancer's class is none of MetalLB's.
func (c *converter) strange(s *service, a netip.Addr) {
	byMetalLB := s.object.Annotations[v1alpha1.PrefixMetalLB+knobFromPool] != "" || s.object.Annotations[v1alpha1.PrefixMetalLBLegacy+knobFromPool] != ""
	if s.object.Spec.LoadBalancerClass == nil || byMetalLB {
		s.r.lost([]string{"status.loadBalancer.ingress"}, fmt.Sprintf("shows %s, which lies in no pool of the output: it is not kept", a),
			"add the address to a pool, or accept that the Service gets another")
	}
}

func (c *converter) poolOf(a netip.Addr) (string, bool) {
	for i := range c.result.Pools {
		for _, text := range c.result.Pools[i].Spec.Addresses {
			if iv, err := pool.ParseInterval(text); err == nil && iv.Contains(a) {
				return c.result.Pools[i].Name, true
			}
		}
	}
	return "", false
}

func (c *converter) claim(a netip.Addr, poolName string, services []*corev1.Service) v1alpha1.IPClaim {
	until := c.opts.RetainUntil
	out := v1alpha1.IPClaim{
		TypeMeta: typeMeta("IPClaim"), ObjectMeta: metav1.ObjectMeta{Name: v1alpha1.ClaimName(a)},
		Spec: v1alpha1.IPClaimSpec{
			Address: a.String(), Pool: poolName, Group: v1alpha1.ClaimName(a), Phase: v1alpha1.ClaimRetained,
			RetainFor: &metav1.Duration{Duration: c.opts.RetainFor}, RetainUntil: &until,
		},
	}
	for _, svc := range services {
		if out.Spec.SharingKey == "" {
			out.Spec.SharingKey = sharingKey(svc)
		}
		out.Spec.Services = append(out.Spec.Services, v1alpha1.ServiceReference{Namespace: svc.Namespace, Name: svc.Name, UID: svc.UID})
	}
	return out
}

// sharingKey reads the annotation in the order of docs/reference/annotations.md.
func sharingKey(svc *corev1.Service) string {
	for _, key := range []string{
		v1alpha1.PrefixFairlead + v1alpha1.KnobSharingKey,
		v1alpha1.PrefixMetalLB + v1alpha1.KnobSharingKeyMetalLB,
		v1alpha1.PrefixMetalLBLegacy + v1alpha1.KnobSharingKeyMetalLB,
	} {
		if v := strings.TrimSpace(svc.Annotations[key]); v != "" {
			return v
		}
	}
	return ""
}
