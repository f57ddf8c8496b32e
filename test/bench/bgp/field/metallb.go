// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// metallbKinds are those that the speaker watches and deploy/metallb-compat does not have.
const metallbKinds = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicebgpstatuses.metallb.io}
spec:
  group: metallb.io
  names: {kind: ServiceBGPStatus, listKind: ServiceBGPStatusList, plural: servicebgpstatuses, singular: servicebgpstatus}
  scope: Namespaced
  versions: [{name: v1beta1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: servicel2statuses.metallb.io}
spec:
  group: metallb.io
  names: {kind: ServiceL2Status, listKind: ServiceL2StatusList, plural: servicel2statuses, singular: servicel2status}
  scope: Namespaced
  versions: [{name: v1beta1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// metallbObjects are its peers, as the field's own.
const metallbObjects = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: speaker, namespace: metallb-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: bench-metallb-speaker}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: speaker, namespace: metallb-system}]
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: frr, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: %[1]s, holdTime: 30s}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: bird, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64512, peerAddress: %[2]s, holdTime: 30s}
---
`

// metallbPod is that of a speaker, as which it speaks.
const metallbPod = `
apiVersion: v1
kind: Pod
metadata: {name: %[1]s, namespace: metallb-system}
spec: {nodeName: %[2]s, serviceAccountName: speaker, containers: [{name: speaker, image: none}]}
`

// InstallMetalLB makes MetalLB's kinds, peers that are the two routers, and more.
func (f *Field) InstallMetalLB(ctx context.Context, more string) error {
	compat := filepath.Join(f.o.Root, "deploy", "metallb-compat")
	if _, err := f.Plane().Kubectl(ctx, "", "apply", "--server-side", "-k", compat); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if err := f.Apply(ctx, metallbKinds); err != nil {
		return err
	}
	// The API server takes a moment to know the kinds.
	_, err := harness.Eventually(ctx, time.Minute, func(ctx context.Context) error {
		return f.Apply(ctx, fmt.Sprintf(metallbObjects, f.FRRHost.IPv4(), f.BIRDHost.IPv4())+more)
	})
	return err //nolint:wrapcheck // says what it is
}

// StartSpeaker starts MetalLB's speaker on a node, in its native mode.
func (f *Field) StartSpeaker(ctx context.Context, program string, n *rig.Node) (*plane.Process, error) {
	pod := "speaker-" + n.Name()
	if err := f.Apply(ctx, fmt.Sprintf(metallbPod, pod, n.Name())); err != nil {
		return nil, err
	}
	config, err := f.WriteKubeconfig(ctx, "metallb-"+n.Name(), "metallb-system", "speaker", nil)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it is
	}
	return plane.StartProcess(ctx, plane.Program{ //nolint:wrapcheck // says what it is
		Name: "MetalLB's speaker on " + n.Name(), LogFile: f.Path("metallb-" + n.Name() + ".log"), Path: program, Enter: n.Enter,
		Args: []string{"--kubeconfig=" + config, "--namespace=metallb-system", "--node-name=" + n.Name(), "--pod-name=" + pod, "--host=127.0.0.1", "--log-level=warn"},
		Env:  []string{"METALLB_BGP_TYPE=native"},
	})
}
