// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/api/v1alpha1"
)

// forward reads from a record how its Service is forwarded. Ports and addresses that cannot
// be understood are left out. A source range that cannot must not widen who may connect:
// such a record is not forwarded at all.
func forward(out *loadbalancer.Record, in *v1alpha1.LoadBalancer) error {
	spec := &in.Spec
	if spec.Forwarding == v1alpha1.ForwardingIPVS {
		out.DataPlane = loadbalancer.IPVS
	}
	if spec.TargetType == v1alpha1.TargetNodePort {
		out.Targets = loadbalancer.TargetNodePort
	}
	out.Scheduler, out.Revision = spec.Scheduler, in.ResourceVersion
	out.Affinity = time.Duration(max(spec.SessionAffinitySeconds, 0)) * time.Second
	var errs []error
	for _, f := range spec.SchedulerFlags {
		switch f {
		case flagFallback:
			out.Flags |= loadbalancer.SchedFallback
		case flagPort:
			out.Flags |= loadbalancer.SchedPort
		default:
			errs = append(errs, fmt.Errorf("spec.schedulerFlags: unknown flag %q", f))
		}
	}
	for _, p := range spec.Ports {
		port, err := servicePort(p)
		errs = append(errs, err)
		if err == nil {
			out.Ports = append(out.Ports, port)
		}
	}
	for _, text := range spec.NodeAddresses {
		a, err := netip.ParseAddr(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("spec.nodeAddresses: %w", err))
			continue
		}
		out.NodeAddrs = append(out.NodeAddrs, a)
	}
	sources, err := prefixes(spec.SourceRanges)
	if err != nil {
		out.DataPlane = loadbalancer.KubeProxy
		errs = append(errs, fmt.Errorf("spec.sourceRanges: %w", err))
	}
	// Ranges of one family let nobody of the other in, but for the usual way to write everybody.
	if len(sources) != 1 || sources[0].Bits() != 0 {
		out.Sources = sources
	}
	return errors.Join(errs...)
}

func servicePort(in v1alpha1.Port) (loadbalancer.ServicePort, error) {
	out := loadbalancer.ServicePort{Name: in.Name, Port: uint16(in.Port), NodePort: uint16(in.NodePort)} //nolint:gosec // checked below
	proto, known := protocol(in.Protocol)
	if !known || in.Port < 1 || in.Port > maxPort || in.NodePort < 0 || in.NodePort > maxPort {
		return out, fmt.Errorf("spec.ports: %s %d with node port %d is no port", in.Protocol, in.Port, in.NodePort)
	}
	out.Protocol = proto
	return out, nil
}

const maxPort = 65535

// Values of spec.schedulerFlags.
const (
	flagFallback = "fallback"
	flagPort     = "port"
)

// protocol reads a protocol's name; none means TCP, as in Services and EndpointSlices.
func protocol(name string) (p loadbalancer.Protocol, known bool) {
	switch name {
	case "", "TCP":
		return loadbalancer.TCP, true
	case "UDP":
		return loadbalancer.UDP, true
	case "SCTP":
		return loadbalancer.SCTP, true
	default:
		return 0, false
	}
}

// prefixes reads CIDRs; they ascend, without host bits and without those that lie in
// another one, which an nftables interval set would refuse.
func prefixes(in []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	var errs []error
	for _, text := range in {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, p.Masked())
	}
	return loadbalancer.Disjoint(out), errors.Join(errs...)
}

// podCIDRs reads a Node's pod ranges; what is none is left out.
func podCIDRs(primary string, all []string) []netip.Prefix {
	if primary != "" && !slices.Contains(all, primary) {
		all = append([]string{primary}, all...)
	}
	out, _ := prefixes(all)
	return out
}
