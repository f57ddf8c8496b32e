// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of every Fairlead kind.
const GroupName = "fairlead.dev"

// Version is the served and stored version.
const Version = "v1alpha1"

// SchemeGroupVersion returns fairlead.dev/v1alpha1.
func SchemeGroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: GroupName, Version: Version}
}

// AddToScheme registers every kind of this package; it has the signature that
// runtime.SchemeBuilder and client-go's codecs expect.
func AddToScheme(s *runtime.Scheme) error {
	gv := SchemeGroupVersion()
	s.AddKnownTypes(gv,
		&IPAddressPool{}, &IPAddressPoolList{},
		&L2Advertisement{}, &L2AdvertisementList{},
		&IPClaim{}, &IPClaimList{},
		&LoadBalancer{}, &LoadBalancerList{},
		&NodeAgent{}, &NodeAgentList{},
		&ExternalIPPolicy{}, &ExternalIPPolicyList{},
		&BGPPeer{}, &BGPPeerList{},
		&BGPAdvertisement{}, &BGPAdvertisementList{},
		&BFDProfile{}, &BFDProfileList{},
		&Community{}, &CommunityList{},
	)
	metav1.AddToGroupVersion(s, gv)
	return nil
}
