// SPDX-License-Identifier: Apache-2.0

// Package mirror copies MetalLB's configuration objects into Fairlead's own kinds, so
// that everything else reads one kind of each and `kubectl get ipaddresspools` finds
// what is in use.
//
// It owns the IPAddressPools and L2Advertisements that carry the label
// fairlead.dev/source=metallb.io: it makes them equal to the metallb.io/v1beta1 objects
// of the same name in one namespace and deletes them with their source. It never
// touches an object without that label and never writes to metallb.io.
//
// Only one namespace counts, because a pool steers the network of the whole cluster:
// whoever may write in any namespace must not be able to. While a MetalLB runs there,
// nothing is mirrored and what was is withdrawn: two allocators over one pool would hand
// addresses out twice, two announcers would both answer for them.
//
// The metallb.io kinds may appear after start and go again; absent kinds are empty ones.
// The provider constructs one [Controller] per process; the leader runs it.
package mirror
