// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"context"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsv1client "k8s.io/client-go/kubernetes/typed/apps/v1"
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"
	authorizationv1client "k8s.io/client-go/kubernetes/typed/authorization/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryv1client "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/fairlead-lb/fairlead/loadbalancer"
	"github.com/fairlead-lb/fairlead/loadbalancer/client"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bfd"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/bgp"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/l2"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/announce/unnumbered"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/intake"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/member"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
)

// A fail-over of a thousand addresses is a thousand small writes of one agent.
const (
	clientQPS   = 100
	clientBurst = 200
)

// New makes an agent from options. It reads the kubeconfig and opens netlink, but
// sends nothing yet. reg receives the agent's metrics.
func New(o Options, version string, reg *prometheus.Registry) (*Agent, error) {
	cfg, err := restConfig(o.Kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.QPS, cfg.Burst = clientQPS, clientBurst
	cfg.UserAgent = "fairlead-node-agent/" + version
	d, err := connect(cfg, o)
	if err != nil {
		return nil, err
	}
	d.registry = reg
	k, err := kernel.New(kernel.WithSysctlRoot(o.SysctlRoot))
	if err != nil {
		return nil, err //nolint:wrapcheck // says what failed
	}
	d.kernel = k
	d.openARP = func(l kernel.Link) (l2.Conn, error) { return k.OpenARP(l) }
	d.openNDP = func(l kernel.Link) (l2.Conn, error) { return k.OpenNDP(l) }
	d.plane = connectPlane(k)
	detector := bfd.New(bfd.Options{})
	finder := unnumbered.New(unnumbered.Options{Links: k, Open: func(l kernel.Link) (unnumbered.Conn, error) { return k.OpenRouters(l) }})
	d.bfd, d.finder = detector, finder
	d.speaker = bgp.New(bgp.Options{Detector: detector, Routers: finder, ListenPort: uint16(o.BGPListenPort)}) //nolint:gosec // validated
	d.newGossip = func(c member.Config, notify func()) gossip { return member.New(c, notify) }
	return newAgent(o, version, d)
}

// restConfig is not left to clientcmd alone, which warns about the usual case.
func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}

// connect makes the clients; they share one HTTP client.
func connect(cfg *rest.Config, o Options) (deps, error) {
	http, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return deps{}, fmt.Errorf("make HTTP client: %w", err)
	}
	core, err := corev1client.NewForConfigAndClient(cfg, http)
	if err != nil {
		return deps{}, fmt.Errorf("make core client: %w", err)
	}
	discovery, err := discoveryv1client.NewForConfigAndClient(cfg, http)
	if err != nil {
		return deps{}, fmt.Errorf("make discovery client: %w", err)
	}
	authn, err := authenticationv1client.NewForConfigAndClient(cfg, http)
	if err != nil {
		return deps{}, fmt.Errorf("make authentication client: %w", err)
	}
	authz, err := authorizationv1client.NewForConfigAndClient(cfg, http)
	if err != nil {
		return deps{}, fmt.Errorf("make authorization client: %w", err)
	}
	apps, err := appsv1client.NewForConfigAndClient(cfg, http)
	if err != nil {
		return deps{}, fmt.Errorf("make apps client: %w", err)
	}
	fl, err := client.New(cfg)
	if err != nil {
		return deps{}, err //nolint:wrapcheck // says what failed
	}
	return deps{
		cluster: apiCluster{apps: apps.DaemonSets(o.Namespace), nodes: core.Nodes(), daemonSet: o.DaemonSetName, node: o.NodeName},
		claims:  fl.Claims(), agents: fl.NodeAgents(),
		auth: metrics.NewAuthorizer(authn.TokenReviews(), authz.SubjectAccessReviews()),
		newObjects: func(notify func()) (objects, error) {
			return intake.New(intake.Clients{Fairlead: fl, Core: core, Discovery: discovery, Secrets: core},
				intake.Own{Node: loadbalancer.NodeName(o.NodeName), Namespace: o.Namespace}, notify)
		},
	}, nil
}

// apiCluster asks the API server for the two objects that tell a restart from a leave.
type apiCluster struct {
	apps            appsv1client.DaemonSetInterface
	nodes           corev1client.NodeInterface
	daemonSet, node string
}

func (c apiCluster) DaemonSet(ctx context.Context) (*appsv1.DaemonSet, error) {
	return c.apps.Get(ctx, c.daemonSet, metav1.GetOptions{}) //nolint:wrapcheck // its kind decides
}

func (c apiCluster) Node(ctx context.Context) (*corev1.Node, error) {
	return c.nodes.Get(ctx, c.node, metav1.GetOptions{}) //nolint:wrapcheck // its kind decides
}
