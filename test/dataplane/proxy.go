// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

// Mode of kube-proxy.
type Mode string

// Modes lists all of them, ipvs first: some of what it sets in the kernel it never takes back.
func Modes() []Mode { return []Mode{IPVS, IPTables, NFTables} }

// The modes of kube-proxy.
const (
	IPTables Mode = "iptables"
	NFTables Mode = "nftables"
	IPVS     Mode = "ipvs"
)

const (
	proxyAccount = "kube-proxy"
	// proxyLink holds addresses of Services in ipvs mode.
	proxyLink    = "kube-ipvs0"
	proxyTimeout = 4 * time.Minute
)

// Proxy is kube-proxy on one node.
type Proxy struct {
	Node *rig.Node
	w    *World
	proc *plane.Process
	mode Mode
}

// prepareProxies makes the account that kube-proxy acts as.
func (w *World) prepareProxies(ctx context.Context) error {
	w.kubeProxy = w.Rig.Plane().Program(proxyAccount)
	kube := w.Rig.Kube()
	meta := metav1.ObjectMeta{Name: proxyAccount, Namespace: metav1.NamespaceSystem}
	_, err := kube.CoreV1().ServiceAccounts(meta.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make kube-proxy's account: %w", err)
	}
	_, err = kube.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "test:" + proxyAccount},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:node-proxier"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: meta.Namespace}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make kube-proxy's account: %w", err)
	}
	if w.proxyConfig, err = w.Rig.WriteKubeconfig(ctx, proxyAccount, meta.Namespace, meta.Name, nil); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	for _, n := range w.Rig.Nodes() {
		w.Proxies = append(w.Proxies, &Proxy{Node: n, w: w})
	}
	return nil
}

// Start runs kube-proxy in a mode; it must not be running. Args replace those of their name:
// of lists, kube-proxy would join them.
func (p *Proxy) Start(ctx context.Context, mode Mode, args ...string) error {
	p.mode = mode
	all := slices.DeleteFunc(p.arguments(mode), func(own string) bool {
		name, _, _ := strings.Cut(own, "=")
		return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, name+"=") })
	})
	all = append(all, args...)
	var err error
	p.proc, err = plane.StartProcess(ctx, plane.Program{
		Name: "kube-proxy of " + p.Node.Name(), LogFile: p.w.Rig.Path("kube-proxy-" + p.Node.Name() + ".log"),
		Path: p.w.kubeProxy, Args: all, Enter: p.Node.Enter,
	})
	return err //nolint:wrapcheck // says what it is
}

func (p *Proxy) arguments(mode Mode) []string {
	pods4, pods6 := rig.PodRanges()
	return []string{
		"--kubeconfig=" + p.w.proxyConfig, "--hostname-override=" + p.Node.Name(),
		"--proxy-mode=" + string(mode), fmt.Sprintf("--cluster-cidr=%s,%s", pods4, pods6),
		// These belong to the whole machine.
		"--conntrack-max-per-core=0", "--conntrack-min=0",
		"--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		// What the documentation asks for beside kube-proxy's own use of IPVS.
		"--ipvs-strict-arp", "--ipvs-exclude-cidrs=" + strings.Join([]string{pool4, pool6, documentation}, ","),
	}
}

// Running waits until it says that it has programmed what it knows.
func (p *Proxy) Running(ctx context.Context) error {
	_, err := harness.Eventually(ctx, proxyTimeout, func(ctx context.Context) error {
		return errors.Join(p.proc.Err(), p.healthy(ctx))
	})
	return err //nolint:wrapcheck // says what it is
}

func (p *Proxy) healthy(ctx context.Context) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dialer(p.Node), DisableKeepAlives: true}}
	for url, want := range map[string]string{
		"http://127.0.0.1:10256/livez": "", "http://127.0.0.1:10249/proxyMode": string(p.mode),
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return fmt.Errorf("ask kube-proxy: %w", err)
		}
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("ask kube-proxy of %s: %w", p.Node.Name(), err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close() // was read
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			return fmt.Errorf("kube-proxy of %s: %s: %s: %s, %w", p.Node.Name(), url, resp.Status, body, err)
		}
	}
	return nil
}

// Stop ends it and leaves its rules, as it does itself.
func (p *Proxy) Stop() error { return p.proc.Stop() } //nolint:wrapcheck // says what it is

// Cleanup ends it and takes away what it has in the kernel, as before a change of its mode:
// kube-proxy's own --cleanup takes minutes under emulation, by all the programs it starts.
func (p *Proxy) Cleanup(ctx context.Context) error {
	if p.proc == nil {
		return nil
	}
	if err := p.Stop(); err != nil {
		return err
	}
	var rules strings.Builder
	for _, family := range []string{"ip", "ip6"} {
		for _, table := range []string{"kube-proxy", "nat", "filter", "mangle"} {
			// What is added first can be deleted whether it was there or not.
			fmt.Fprintf(&rules, "add table %[1]s %[2]s; delete table %[1]s %[2]s; ", family, table)
		}
	}
	if _, err := OnNode(ctx, p.Node, "nft", rules.String()); err != nil {
		return err
	}
	k, err := ReadKernel(ctx, p.Node)
	if err != nil {
		return err
	}
	for line := range strings.Lines(k.Proxy) {
		if f := strings.Fields(line); f[0] == "-A" {
			if _, err := OnNode(ctx, p.Node, "ipvsadm", "-D", f[1], f[2]); err != nil {
				return err
			}
		}
	}
	if strings.Contains(k.Proxy, proxyLink) {
		_, err = OnNode(ctx, p.Node, "ip", "link", "del", proxyLink)
	}
	return err
}

// Use runs every node's kube-proxy in a mode, and waits until they have programmed it.
func (w *World) Use(ctx context.Context, mode Mode, args ...string) error {
	if err := w.each(func(p *Proxy) error {
		return errors.Join(p.Cleanup(ctx), p.Start(ctx, mode, args...))
	}); err != nil {
		return err
	}
	return w.each(func(p *Proxy) error { return p.Running(ctx) })
}

// each calls f for every kube-proxy at the same time.
func (w *World) each(f func(p *Proxy) error) error {
	errs := make([]error, len(w.Proxies))
	done := make(chan struct{})
	for i, p := range w.Proxies {
		go func() {
			errs[i] = f(p)
			done <- struct{}{}
		}()
	}
	for range w.Proxies {
		<-done
	}
	return errors.Join(errs...)
}
