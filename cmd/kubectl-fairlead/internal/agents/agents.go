// SPDX-License-Identifier: Apache-2.0

// Package agents asks node agents what their nodes forward, each through a port-forward to
// its pod, because agents tell that on their node's loopback address only. It needs the
// right to forward ports to pods of the namespace fairlead-system, and reads nothing else.
// The command `top` calls it.
package agents

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
)

const (
	namespace = "fairlead-system"
	selector  = "app.kubernetes.io/name=fairlead,app.kubernetes.io/component=node-agent"
	// port of an agent's debug endpoint.
	port = 7957
	// atOnce is how many agents are asked at the same time.
	atOnce = 16
	// patience with one agent.
	patience = 15 * time.Second
	// maxReport bounds what one agent tells.
	maxReport = 256 << 20
)

// Gap is a node whose agent could not be asked.
type Gap struct {
	Node  string `json:"node"`
	Cause string `json:"cause"`
}

// Ask is how one agent is asked.
type Ask func(ctx context.Context, pod *corev1.Pod) (traffic.Report, error)

// Reports asks all agents and returns what they tell, and who did not answer, both by node.
// An error means that the agents are not known.
func Reports(ctx context.Context, kube kubernetes.Interface, ask Ask) ([]traffic.Report, []Gap, error) {
	pods, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, nil, fmt.Errorf("list the node agents' pods: %w", err)
	}
	var (
		mu      sync.Mutex
		reports []traffic.Report
		gaps    []Gap
		wg      sync.WaitGroup
		slots   = make(chan struct{}, atOnce)
	)
	for i := range pods.Items {
		pod := &pods.Items[i]
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			r, err := one(ctx, pod, ask)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				gaps = append(gaps, Gap{Node: pod.Spec.NodeName, Cause: err.Error()})
				return
			}
			reports = append(reports, r)
		})
	}
	wg.Wait()
	slices.SortFunc(reports, func(a, b traffic.Report) int { return cmp.Compare(a.Node, b.Node) })
	slices.SortFunc(gaps, func(a, b Gap) int { return cmp.Compare(a.Node, b.Node) })
	return reports, gaps, nil
}

var errNotRunning = errors.New("its agent does not run")

func one(ctx context.Context, pod *corev1.Pod, ask Ask) (traffic.Report, error) {
	if pod.Status.Phase != corev1.PodRunning {
		return traffic.Report{}, errNotRunning
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return ask(ctx, pod)
}

// PortForward asks through port-forwards.
func PortForward(cfg *rest.Config, kube kubernetes.Interface) Ask {
	return func(ctx context.Context, pod *corev1.Pod) (traffic.Report, error) {
		dialer, err := dialerFor(cfg, kube.CoreV1().RESTClient().Post().
			Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL())
		if err != nil {
			return traffic.Report{}, err
		}
		stop, ready := make(chan struct{}), make(chan struct{})
		var said bytes.Buffer
		forward, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &said)
		if err != nil {
			return traffic.Report{}, fmt.Errorf("forward a port: %w", err)
		}
		done := make(chan error, 1)
		go func() { done <- forward.ForwardPorts() }()
		defer func() {
			close(stop)
			<-done //nolint:errcheck // it ends because it was told to
		}()
		select {
		case err := <-done:
			done <- nil
			return traffic.Report{}, fmt.Errorf("forward a port: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		case <-ctx.Done():
			return traffic.Report{}, fmt.Errorf("forward a port: %w", ctx.Err())
		case <-ready:
		}
		local, err := forward.GetPorts()
		if err != nil || len(local) == 0 {
			return traffic.Report{}, fmt.Errorf("forward a port: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		}
		r, err := Get(ctx, fmt.Sprintf("http://127.0.0.1:%d", local[0].Local))
		if text := strings.TrimSpace(said.String()); err != nil && text != "" {
			err = fmt.Errorf("%w (%s)", err, text)
		}
		return r, err
	}
}

// dialerFor speaks WebSocket, or SPDY with API servers that do not know the former here.
func dialerFor(cfg *rest.Config, to *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
	dialer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return portforward.NewFallbackDialerForStreaming(dialer, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// Get reads the report of the agent at a base URL.
func Get(ctx context.Context, base string) (traffic.Report, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+traffic.Path, http.NoBody)
	if err != nil {
		return traffic.Report{}, fmt.Errorf("ask the agent: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return traffic.Report{}, fmt.Errorf("ask the agent: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	switch {
	case err != nil:
		return traffic.Report{}, fmt.Errorf("read what the agent tells: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return traffic.Report{}, errOld
	case resp.StatusCode != http.StatusOK:
		return traffic.Report{}, fmt.Errorf("the agent answers %s: %s", resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	var r traffic.Report
	if err := json.Unmarshal(body, &r); err != nil {
		return traffic.Report{}, fmt.Errorf("read what the agent tells: %w", err)
	}
	return r, nil
}

var errOld = errors.New("its agent is of a version that does not tell")
