// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import "time"

// Service annotations. Each knob is read under the prefixes of [AnnotationPrefixes]
// in that order: the first one present wins, and a differing value under a later
// prefix is reported once by an event (reason ConflictingAnnotations).
const (
	// PrefixFairlead is the native annotation prefix.
	PrefixFairlead = "fairlead.dev/"
	// PrefixMetalLB is MetalLB's prefix since 0.14.9, read as a synonym.
	PrefixMetalLB = "metallb.io/"
	// PrefixMetalLBLegacy is MetalLB's prefix up to 0.14.8, read as a synonym.
	PrefixMetalLBLegacy = "metallb.universe.tf/"

	// KnobAddresses asks for particular addresses: a comma separated list, at most
	// [MaxAddressesPerFamily] per IP family. Example: "172.20.255.210". Synonyms:
	// loadBalancerIPs.
	// An address that no pool holds, or that another Service holds, is an error on
	// the Service, never replaced by another address.
	KnobAddresses = "addresses"
	// KnobAddressesMetalLB is KnobAddresses under MetalLB's prefixes.
	KnobAddressesMetalLB = "loadBalancerIPs"

	// KnobPool asks for an address of one pool, by IPAddressPool name, and overrides
	// autoAssign: false. Synonym: address-pool.
	KnobPool = "pool"
	// KnobPoolMetalLB is KnobPool under MetalLB's prefixes.
	KnobPoolMetalLB = "address-pool"

	// KnobSharingKey lets Services share addresses: those with the same value may, where
	// no port and protocol clashes and, under externalTrafficPolicy Local, where they
	// select the same pods. Synonyms: allow-shared-ip.
	KnobSharingKey = "sharing-key"
	// KnobSharingKeyMetalLB is KnobSharingKey under MetalLB's prefixes.
	KnobSharingKeyMetalLB = "allow-shared-ip"

	// AnnotationAddressCount asks for that many addresses per IP family, 1 (default) to
	// [MaxAddressesPerFamily]. Addresses named count towards it.
	AnnotationAddressCount = PrefixFairlead + "address-count"
	// AnnotationReclaimPolicy overrides the pool's reclaimPolicy: "Delete" or "Retain".
	AnnotationReclaimPolicy = PrefixFairlead + "reclaim-policy"
	// AnnotationAdvertisements limits the advertisements that announce the Service's
	// addresses to these, a comma separated list of names, of those that select them.
	AnnotationAdvertisements = PrefixFairlead + "advertisements"

	// AnnotationTargetType says what the load balancer sends to: "pod" (default,
	// straight to ready pods) or "node-port" (to the node port of every other node with
	// pods, and to this node's own pods). externalTrafficPolicy Local implies "pod".
	AnnotationTargetType = PrefixFairlead + "target-type"

	// AnnotationDataPlane says who forwards packets for the Service: "ipvs" (default, on
	// nodes whose kernel has it) or "kube-proxy".
	AnnotationDataPlane = PrefixFairlead + "data-plane"
	// AnnotationScheduler is the scheduler of the Service's virtual servers, one of rr (default;
	// wrr where weights are given or targets are node ports), wrr, lc, wlc, lblc, lblcr, dh,
	// sh, sed, nq, fo, ovf and mh, and after a comma the flags of sh and mh: "mh,mh-port",
	// "sh,sh-fallback,sh-port".
	AnnotationScheduler = PrefixFairlead + "scheduler"
	// AnnotationWeight is on a Node or an EndpointSlice: the weight of the real servers
	// there, 1 (default) to 100. The slice's counts before the node's.
	AnnotationWeight = PrefixFairlead + "weight"

	// AnnotationBGPLocalPref, AnnotationBGPMED, AnnotationBGPPrepend and
	// AnnotationBGPCommunities say of the Service's BGP routes what its BGPAdvertisement leaves
	// to it (serviceOverrides): numbers, and a comma separated list of communities, which come
	// in addition to the advertisement's.
	AnnotationBGPLocalPref   = PrefixFairlead + "bgp-local-pref"
	AnnotationBGPMED         = PrefixFairlead + "bgp-med"
	AnnotationBGPPrepend     = PrefixFairlead + "bgp-as-path-prepend"
	AnnotationBGPCommunities = PrefixFairlead + "bgp-communities"
)

// MaxAddressesPerFamily bounds the addresses of one Service, per IP family.
const MaxAddressesPerFamily = 8

// DefaultRetainFor is how long a retained address is kept when its pool does not say.
const DefaultRetainFor = 24 * time.Hour

// FinalizerService is on Services with Fairlead's load balancer class. The stock service
// controller strips its own finalizer from Services that have a class, so theirs is another.
const FinalizerService = PrefixFairlead + "load-balancer"

// DefaultLoadBalancerClass is the spec.loadBalancerClass that Fairlead serves unless its
// configuration names another.
const DefaultLoadBalancerClass = PrefixFairlead + "lb"

// Labels and annotations on Fairlead's own objects.
const (
	// LabelSource marks a mirrored object with the API group it was copied from
	// ("metallb.io"). Mirrored objects are read-only: edit the source.
	LabelSource = "fairlead.dev/source"
	// AnnotationSourceObject names the source of a mirrored object as namespace/name.
	AnnotationSourceObject = "fairlead.dev/source-object"
)
