// SPDX-License-Identifier: Apache-2.0

// Package agents asks node agents what their nodes forward and what they tell by BGP, each
// through a port-forward to its pod, because agents tell that on their node's loopback
// address only. It needs the right to forward ports to pods of the namespace
// fairlead-system, and reads nothing else. The commands `top` and `bgp routes` call it.
package agents

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
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
type Ask[T any] func(ctx context.Context, pod *corev1.Pod) (T, error)

// Reports asks all agents, or that of one node, and returns what they tell, and who did not
// answer, both by node. An error means that the agents are not known.
func Reports[T any](ctx context.Context, kube kubernetes.Interface, node string, ask Ask[T]) ([]T, []Gap, error) {
	pods, err := kube.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, nil, fmt.Errorf("list the node agents' pods: %w", err)
	}
	var (
		mu    sync.Mutex
		told  = make(map[string]T)
		gaps  []Gap
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
	)
	for i := range pods.Items {
		pod := &pods.Items[i]
		if node != "" && pod.Spec.NodeName != node {
			continue
		}
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
			told[pod.Spec.NodeName] = r
		})
	}
	wg.Wait()
	var reports []T
	for _, n := range slices.Sorted(maps.Keys(told)) {
		reports = append(reports, told[n])
	}
	slices.SortFunc(gaps, func(a, b Gap) int { return cmp.Compare(a.Node, b.Node) })
	return reports, gaps, nil
}

var errNotRunning = errors.New("its agent does not run")

func one[T any](ctx context.Context, pod *corev1.Pod, ask Ask[T]) (none T, err error) {
	if pod.Status.Phase != corev1.PodRunning {
		return none, errNotRunning
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return ask(ctx, pod)
}

// PortForward asks for a path through port-forwards.
func PortForward[T any](cfg *rest.Config, kube kubernetes.Interface, path string) Ask[T] {
	return func(ctx context.Context, pod *corev1.Pod) (none T, err error) {
		dialer, err := dialerFor(cfg, kube.CoreV1().RESTClient().Post().
			Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("portforward").URL())
		if err != nil {
			return none, err
		}
		stop, ready := make(chan struct{}), make(chan struct{})
		var said bytes.Buffer
		forward, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &said)
		if err != nil {
			return none, fmt.Errorf("forward a port: %w", err)
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
			return none, fmt.Errorf("forward a port: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		case <-ctx.Done():
			return none, fmt.Errorf("forward a port: %w", ctx.Err())
		case <-ready:
		}
		local, err := forward.GetPorts()
		if err != nil || len(local) == 0 {
			return none, fmt.Errorf("forward a port: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		}
		r, err := Get[T](ctx, fmt.Sprintf("http://127.0.0.1:%d", local[0].Local), path)
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

// Get reads the report that the agent at a base URL serves at a path.
func Get[T any](ctx context.Context, base, path string) (r T, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, http.NoBody)
	if err != nil {
		return r, fmt.Errorf("ask the agent: %w", err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return r, fmt.Errorf("ask the agent: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReport))
	switch {
	case err != nil:
		return r, fmt.Errorf("read what the agent tells: %w", err)
	case resp.StatusCode == http.StatusNotFound:
		return r, errOld
	case resp.StatusCode != http.StatusOK:
		return r, fmt.Errorf("the agent answers %s: %s", resp.Status, strings.TrimSpace(string(body[:min(len(body), 200)])))
	}
	if err := json.Unmarshal(body, &r); err != nil {
		var none T
		return none, fmt.Errorf("read what the agent tells: %w", err)
	}
	return r, nil
}

var errOld = errors.New("its agent is of a version that does not tell")
