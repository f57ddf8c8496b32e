// SPDX-License-Identifier: Apache-2.0

// Package reason is the one list of answers to "why not?". A reason is at once a
// condition reason, an event reason, a metric label, a log value and a test oracle.
// It holds names and remedies only; who decides on a reason writes the message.
package reason

// Reason is a CamelCase machine-readable cause. Names are stable API.
type Reason string

// Everything is fine.
const (
	// Allocated: the Service has every address it asked for.
	Allocated Reason = "Allocated"
	// Announced: a node announces every address of the Service.
	Announced Reason = "Announced"
	// Valid: a configuration object is in use.
	Valid Reason = "Valid"
	// Running: the node agent announces or is ready to.
	Running Reason = "Running"
)

// Why a Service has no address.
const (
	// NoPool: no IPAddressPool offers addresses to this Service.
	NoPool Reason = "NoPool"
	// PoolExhausted: every pool that serves this Service is full.
	PoolExhausted Reason = "PoolExhausted"
	// PoolNotFound: the pool asked for does not exist or is not valid.
	PoolNotFound Reason = "PoolNotFound"
	// AddressNotInPool: the address asked for lies in no pool.
	AddressNotInPool Reason = "AddressNotInPool"
	// AddressInUse: the address asked for belongs to another Service.
	AddressInUse Reason = "AddressInUse"
	// AddressReserved: the address asked for is a node's own, or avoided by its pool.
	AddressReserved Reason = "AddressReserved"
	// AddressReleasing: the address asked for was released and may still be answered for.
	AddressReleasing Reason = "AddressReleasing"
	// FamilyMismatch: the addresses asked for do not fit the Service's IP families.
	FamilyMismatch Reason = "FamilyMismatch"
	// NoAddressOfFamily: no pool that serves this Service has a needed IP family.
	NoAddressOfFamily Reason = "NoAddressOfFamily"
	// InvalidAnnotation: an annotation's value cannot be understood.
	InvalidAnnotation Reason = "InvalidAnnotation"
	// ConflictingRequests: two ways of asking contradict each other.
	ConflictingRequests Reason = "ConflictingRequests"
	// PoolDisabled: the pool asked for gives no more addresses.
	PoolDisabled Reason = "PoolDisabled"
	// PoolNotAllowed: the pool asked for, or of the address asked for, does not serve
	// this Service (serviceAllocation).
	PoolNotAllowed Reason = "PoolNotAllowed"
	// AddressExcluded: the address asked for is excluded by its pool, or lies in a pod
	// or Service range.
	AddressExcluded Reason = "AddressExcluded"
	// AddressRetained: the address asked for is kept for a Service of another name.
	AddressRetained Reason = "AddressRetained"
	// SharingKeyMismatch: the address asked for is another Service's, and their sharing
	// keys differ.
	SharingKeyMismatch Reason = "SharingKeyMismatch"
	// PortInUse: a Service that shares the address has the same port and protocol.
	PortInUse Reason = "PortInUse"
	// BackendsDiffer: sharers must all have externalTrafficPolicy Cluster, or all Local
	// with one selector.
	BackendsDiffer Reason = "BackendsDiffer"
	// ExternalIPNotGranted: the ExternalIPPolicy does not allow an address of
	// spec.externalIPs. It is neither claimed nor announced.
	ExternalIPNotGranted Reason = "ExternalIPNotGranted"
	// ExternalIPInUse: an address of spec.externalIPs belongs to another Service.
	ExternalIPInUse Reason = "ExternalIPInUse"
	// ConflictingAnnotations: a knob differs between annotation prefixes; the first prefix won.
	ConflictingAnnotations Reason = "ConflictingAnnotations"
)

// Why an address is not announced.
const (
	// NotAllocated: there is no address to announce.
	NotAllocated Reason = "NotAllocated"
	// NoAdvertisement: no advertisement selects the address's pool and the Service.
	NoAdvertisement Reason = "NoAdvertisement"
	// NoEligibleNode: no node may announce: selectors, exclusion label, or no interface
	// in the address's subnet.
	NoEligibleNode Reason = "NoEligibleNode"
	// NoCommonNode: addresses that one node must announce together, because Services
	// share them or have several, are advertised from different nodes or interfaces.
	NoCommonNode Reason = "NoCommonNode"
	// NoEndpoints: no pod is ready to serve.
	NoEndpoints Reason = "NoEndpoints"
	// WaitingForAgent: an eligible node has not answered yet.
	WaitingForAgent Reason = "WaitingForAgent"
	// Released: the claim is being released.
	Released Reason = "Released"
)

// Why a configuration object is not used.
const (
	// InvalidAddresses: a pool's addresses cannot be understood.
	InvalidAddresses Reason = "InvalidAddresses"
	// Overlap: a pool overlaps an older pool.
	Overlap Reason = "Overlap"
	// Disabled: the pool gives no more addresses; Services keep what they hold.
	Disabled Reason = "Disabled"
	// OverlapsPodRange: a pool overlaps the addresses of pods.
	OverlapsPodRange Reason = "OverlapsPodRange"
	// OverlapsServiceRange: a pool overlaps the cluster's Service range.
	OverlapsServiceRange Reason = "OverlapsServiceRange"
	// OverlapsNode: addresses of a pool are nodes', gateways' or the API server's own.
	OverlapsNode Reason = "OverlapsNode"
	// NoConflict: every address of a pool may be handed out.
	NoConflict Reason = "NoConflict"
	// FieldNotSupported: a metallb.io object has fields that this release does not read.
	FieldNotSupported Reason = "FieldNotSupported"
	// KindNotSupported: this release does not read metallb.io objects of this kind.
	KindNotSupported Reason = "KindNotSupported"
	// InvalidSelector: a label selector cannot be understood.
	InvalidSelector Reason = "InvalidSelector"
	// UnknownPool: an advertisement names a pool that does not exist.
	UnknownPool Reason = "UnknownPool"
	// WrongNamespace: a metallb.io object lies outside the namespace that counts.
	WrongNamespace Reason = "WrongNamespace"
	// NameTaken: a metallb.io object cannot be mirrored: a fairlead.dev object has its name.
	NameTaken Reason = "NameTaken"
	// MetalLBRunning: metallb.io objects are not read while a MetalLB runs.
	MetalLBRunning Reason = "MetalLBRunning"
)

// Why an agent is not ready, or a node not a candidate.
const (
	// NoGossipKey: the gossip Secret is not there yet.
	NoGossipKey Reason = "NoGossipKey"
	// Syncing: caches are not synced yet.
	Syncing Reason = "Syncing"
	// Listening: the agent listens to its peers before it acts.
	Listening Reason = "Listening"
	// Leaving: the agent is withdrawing for good.
	Leaving Reason = "Leaving"
	// NotOwner: another node owns the group.
	NotOwner Reason = "NotOwner"
	// NodeExcluded: the node carries the exclusion label.
	NodeExcluded Reason = "NodeExcluded"
	// NetworkUnavailable: the node's network is not up.
	NetworkUnavailable Reason = "NetworkUnavailable"
	// NodeNotSelected: no advertisement's nodeSelectors match the node.
	NodeNotSelected Reason = "NodeNotSelected"
	// NoInterface: the node has no interface for the address.
	NoInterface Reason = "NoInterface"
	// NoLocalEndpoint: externalTrafficPolicy Local and no serving pod on the node.
	NoLocalEndpoint Reason = "NoLocalEndpoint"
	// NodeCordoned: the node is unschedulable, and another node may announce.
	NodeCordoned Reason = "NodeCordoned"
	// NodeShuttingDown: the node's kubelet says that it is shutting down.
	NodeShuttingDown Reason = "NodeShuttingDown"
	// Restarting: the agent stops and will be back; the node's kernel answers meanwhile.
	Restarting Reason = "Restarting"
	// DuplicateAddress: a host that is no node of the cluster has the address.
	DuplicateAddress Reason = "DuplicateAddress"
	// Minority: the agent sees fewer than half of the last known members and takes nothing over.
	Minority Reason = "Minority"
)

// Why a node, or a Service, is not forwarded by IPVS, or not fully.
const (
	// Forwarded: IPVS forwards on every node.
	Forwarded Reason = "Forwarded"
	// KernelWithoutIPVS: the node's kernel has no ip_vs.
	KernelWithoutIPVS Reason = "KernelWithoutIPVS"
	// KernelRefuses: the kernel refused what the agent programs; the message says what.
	KernelRefuses Reason = "KernelRefuses"
	// CNIBypassed: the CNI's network policies would not see packets that IPVS forwards.
	CNIBypassed Reason = "CNIBypassed"
	// HostFirewall: a host firewall drops packets to Services before IPVS has them.
	HostFirewall Reason = "HostFirewall"
	// KubeProxyExcludeCIDRs: kube-proxy in its ipvs mode removes what it did not make,
	// unless ipvs.excludeCIDRs names the pools.
	KubeProxyExcludeCIDRs Reason = "KubeProxyExcludeCIDRs"
	// LeftToKubeProxy: it is asked for, or it is kube-proxy's by its own rules.
	LeftToKubeProxy Reason = "LeftToKubeProxy"
	// NotEveryNode: some node leaves forwarding to kube-proxy, or has not programmed the Service yet.
	NotEveryNode Reason = "NotEveryNode"
)

// Why a BGP session, or an advertisement by BGP, is not as it is configured.
const (
	// NotEstablished: the session is not up; the message says what ended it.
	NotEstablished Reason = "NotEstablished"
	// NoSession: no node has an established session of the peers of the advertisement.
	NoSession Reason = "NoSession"
	// WrongASN: the peer has another AS number than was configured.
	WrongASN Reason = "WrongASN"
	// BFDDown: BFD says that the peer is not there.
	BFDDown Reason = "BFDDown"
	// NoPassword: the Secret of the password is not there, or not as it must be.
	NoPassword Reason = "NoPassword"
	// UnknownPeer: an advertisement names a BGPPeer that does not exist.
	UnknownPeer Reason = "UnknownPeer"
	// UnknownProfile: a peer names a BFDProfile that does not exist.
	UnknownProfile Reason = "UnknownProfile"
	// UnknownCommunity: a community is neither a number nor a known name.
	UnknownCommunity Reason = "UnknownCommunity"
	// InvalidPeer: a peer's fields cannot be understood, or contradict each other on a node.
	InvalidPeer Reason = "InvalidPeer"
	// FamilyNotAgreed: the session is up, but the peer does not take routes of a family.
	FamilyNotAgreed Reason = "FamilyNotAgreed"
	// NoNextHop: the session is up, but this node has no next hop to name for a family's routes.
	NoNextHop Reason = "NoNextHop"
	// PassiveNotEnabled: a peer is to connect to us, and the agent is not allowed to listen.
	PassiveNotEnabled Reason = "PassiveNotEnabled"
	// CannotListen: the agent cannot listen for a peer; the message says why, such as another
	// program that has the port.
	CannotListen Reason = "CannotListen"
	// VRFNotSupported: a peer asks for a VRF.
	VRFNotSupported Reason = "VRFNotSupported"
	// ConflictingAdvertisements: two advertisements say different things of one route.
	ConflictingAdvertisements Reason = "ConflictingAdvertisements"
	// BGPOnly: only BGP announces the address, so that layer 2 has nothing to do.
	BGPOnly Reason = "BGPOnly"
	// Draining: routes ask for the least preference, because the node is about to leave.
	Draining Reason = "Draining"
)

// String returns the reason's name.
func (r Reason) String() string { return string(r) }
