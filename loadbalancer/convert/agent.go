// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// Claim converts an IPClaim. The address is the one in its name, which is the key of
// the allocation; a spec that says otherwise is an error. Claims of any phase but Bound,
// those of later releases included, count as releasing: no node answers for them.
func Claim(in *v1alpha1.IPClaim) (loadbalancer.Claim, error) {
	addr, err := v1alpha1.ParseClaimName(in.Name)
	if err != nil {
		return loadbalancer.Claim{}, err
	}
	if in.Spec.Address != addr.String() {
		return loadbalancer.Claim{}, fmt.Errorf("claim %s: spec.address is %q", in.Name, in.Spec.Address)
	}
	out := loadbalancer.Claim{
		Name: loadbalancer.Group(in.Name), Addr: addr, Group: loadbalancer.Group(in.Spec.Group),
		Persisted: Ownership(in.Status.Owner),
		Releasing: in.Spec.Phase != v1alpha1.ClaimBound || in.DeletionTimestamp != nil,
	}
	if out.Group == "" {
		out.Group = loadbalancer.Group(in.Name)
	}
	for _, s := range in.Spec.Services {
		out.Services = append(out.Services, loadbalancer.ServiceUID(s.UID))
	}
	for _, n := range in.Spec.Successors {
		out.Successors = append(out.Successors, loadbalancer.NodeName(n))
	}
	return out, nil
}

// Ownership converts an owner; nil or an epoch below 1 is nobody's.
func Ownership(in *v1alpha1.Owner) loadbalancer.Ownership {
	if in == nil || in.Epoch < 1 {
		return loadbalancer.Ownership{}
	}
	return loadbalancer.Ownership{Node: loadbalancer.NodeName(in.Node), Epoch: uint64(in.Epoch)}
}

// Record converts a LoadBalancer. What cannot be understood is left out and reported; the
// record is usable all the same.
func Record(in *v1alpha1.LoadBalancer) (loadbalancer.Record, error) {
	out := loadbalancer.Record{
		UID:     loadbalancer.ServiceUID(in.Spec.ServiceUID),
		Service: loadbalancer.ServiceKey{Namespace: in.Namespace, Name: in.Name},
	}
	if in.Spec.ExternalTrafficPolicy == v1alpha1.TrafficPolicyLocal {
		out.Policy = loadbalancer.Local
	}
	var errs []error
	for _, a := range in.Spec.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			errs = append(errs, fmt.Errorf("load balancer %s: %w", out.Service, err))
			continue
		}
		out.Addrs = append(out.Addrs, addr)
	}
	for _, ad := range in.Spec.Advertisements {
		if ad.Kind != v1alpha1.KindBGPAdvertisement {
			out.Advertisements = append(out.Advertisements, ad.Name)
			continue
		}
		out.BGPAdvertisements = append(out.BGPAdvertisements, ad.Name)
		if err := limit(&out, ad); err != nil {
			errs = append(errs, fmt.Errorf("load balancer %s: %w", out.Service, err))
		}
	}
	out.BGP = overrides(in.Spec.BGP)
	if err := forward(&out, in); err != nil {
		errs = append(errs, fmt.Errorf("load balancer %s: %w", out.Service, err))
	}
	return out, errors.Join(errs...)
}

// limit reads to which addresses a BGPAdvertisement is limited. One that cannot be read
// is told by nobody.
func limit(out *loadbalancer.Record, ad v1alpha1.AdvertisementReference) error {
	if len(ad.Addresses) == 0 {
		return nil
	}
	addrs := make([]netip.Addr, 0, len(ad.Addresses))
	var errs []error
	for _, text := range ad.Addresses {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", ad.Kind, ad.Name, err))
			continue
		}
		addrs = append(addrs, addr)
	}
	if out.BGPAddrs == nil {
		out.BGPAddrs = make(map[string][]netip.Addr)
	}
	out.BGPAddrs[ad.Name] = addrs
	return errors.Join(errs...)
}

// Node converts a Node. Addresses that are names are left out.
func Node(in *corev1.Node) loadbalancer.Node {
	out := loadbalancer.Node{
		Name: loadbalancer.NodeName(in.Name), Excluded: excluded(in.Labels), Cordoned: in.Spec.Unschedulable,
		PodCIDRs: podCIDRs(in.Spec.PodCIDR, in.Spec.PodCIDRs),
	}
	for _, a := range in.Status.Addresses {
		if a.Type != corev1.NodeInternalIP && a.Type != corev1.NodeExternalIP {
			continue
		}
		addr, err := netip.ParseAddr(a.Address)
		if err != nil {
			continue
		}
		out.Addrs = append(out.Addrs, addr)
		if a.Type == corev1.NodeInternalIP {
			out.InternalIPs = append(out.InternalIPs, addr)
		}
	}
	for _, c := range in.Status.Conditions {
		if c.Type == corev1.NodeNetworkUnavailable {
			out.NetworkUnavailable = c.Status == corev1.ConditionTrue
		}
		if c.Type == corev1.NodeReady {
			out.Ready = c.Status == corev1.ConditionTrue
			out.ShuttingDown = !out.Ready && strings.Contains(c.Message, shuttingDown)
		}
	}
	return out
}

// shuttingDown is in the message of the Ready condition from when a kubelet begins a
// graceful shutdown (kubelet's nodeshutdown manager); there is no field for it.
const shuttingDown = "node is shutting down"

// excluded reads node.kubernetes.io/exclude-from-external-load-balancers as a boolean;
// a value that is none excludes, as the bare label always did in Kubernetes.
func excluded(l map[string]string) bool {
	v, ok := l[corev1.LabelNodeExcludeBalancers]
	if !ok {
		return false
	}
	b, err := strconv.ParseBool(v)
	return err != nil || b
}

// NodeLabels is one Node's name and labels.
type NodeLabels struct {
	Name   loadbalancer.NodeName
	Labels map[string]string
}

// Resolve converts an L2Advertisement and matches its node selectors with the nodes.
func Resolve(in *v1alpha1.L2Advertisement, nodes []NodeLabels) (loadbalancer.Advertisement, error) {
	ad, err := L2Advertisement(in)
	if err != nil {
		return loadbalancer.Advertisement{}, fmt.Errorf("advertisement %s: %w", in.Name, err)
	}
	out := loadbalancer.Advertisement{Name: ad.Name, Interfaces: ad.Interfaces, AllNodes: len(ad.nodes) == 0}
	if out.AllNodes {
		return out, nil
	}
	out.Nodes = make(map[loadbalancer.NodeName]struct{})
	for _, n := range nodes {
		if ad.SelectsNode(n.Labels) {
			out.Nodes[n.Name] = struct{}{}
		}
	}
	return out, nil
}
