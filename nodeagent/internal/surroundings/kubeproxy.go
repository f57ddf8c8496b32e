// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// kubeProxyAddress is where kube-proxy serves its metrics unless told otherwise.
	kubeProxyAddress = "http://127.0.0.1:10249"
	// patience with kube-proxy, which is on this machine or not there.
	patience = time.Second
	// enough is the most that is read of an answer, in bytes.
	enough = 1 << 20
)

// getKubeProxy asks the kube-proxy of this node.
func getKubeProxy(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, kubeProxyAddress+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy: %w", err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // never a proxy: it is this machine
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask kube-proxy: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("kube-proxy answers %s to %s", resp.Status, path)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, enough))
	if err != nil {
		return nil, fmt.Errorf("read what kube-proxy answers: %w", err)
	}
	return body, nil
}

// mode is what kube-proxy says, or, where it does not answer, what its traces say: the link
// of its ipvs mode, the table of its nftables mode. Its iptables mode leaves none that
// another program does not leave too.
func (l *Looker) mode(ctx context.Context, links []string, tables []table) Mode {
	if body, err := l.get(ctx, "/proxyMode"); err == nil {
		switch m := Mode(strings.TrimSpace(string(body))); m {
		case IPTables, NFTables, IPVS:
			return m
		}
	}
	switch {
	case slices.Contains(links, "kube-ipvs0"):
		return IPVS
	case slices.ContainsFunc(tables, func(t table) bool { return t.Name == "kube-proxy" }):
		return NFTables
	default:
		return ""
	}
}

// excluded reads ipvs.excludeCIDRs from the configuration that kube-proxy shows. What
// cannot be read excludes nothing.
func (l *Looker) excluded(ctx context.Context) []netip.Prefix {
	body, err := l.get(ctx, "/configz")
	if err != nil {
		return nil
	}
	var configz map[string]struct {
		IPVS struct {
			ExcludeCIDRs []string `json:"excludeCIDRs"`
		} `json:"ipvs"`
	}
	if err := json.Unmarshal(body, &configz); err != nil {
		return nil
	}
	var out []netip.Prefix
	for _, config := range configz {
		for _, text := range config.IPVS.ExcludeCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				out = append(out, p.Masked())
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}
