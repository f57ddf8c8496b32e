// SPDX-License-Identifier: Apache-2.0

package surroundings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
)

// table is an nftables table; rules of iptables are in such tables as well, except those of
// its legacy variant.
type table struct {
	Family string `json:"family"`
	Name   string `json:"name"`
}

type chain struct {
	Table  string `json:"table"`
	Name   string `json:"name"`
	Hook   string `json:"hook"`
	Policy string `json:"policy"`
}

type rule struct {
	Chain string                       `json:"chain"`
	Expr  []map[string]json.RawMessage `json:"expr"`
}

// listing is what nft lists as JSON: objects of one key each.
type listing struct {
	Objects []struct {
		Table *table `json:"table"`
		Chain *chain `json:"chain"`
		Rule  *rule  `json:"rule"`
	} `json:"nftables"`
}

func runNFT(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "nft", append([]string{"--json", "--terse"}, args...)...) //nolint:gosec // no input of others but names of tables
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

func (l *Looker) list(ctx context.Context, args ...string) (listing, error) {
	var out listing
	data, err := l.nft(ctx, append([]string{"list"}, args...)...)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(data, &out); err != nil {
		return out, fmt.Errorf("read what nft lists: %w", err)
	}
	return out, nil
}

func (l *Looker) tables(ctx context.Context) ([]table, error) {
	all, err := l.list(ctx, "tables")
	if err != nil {
		return nil, err
	}
	var tables []table
	for _, o := range all.Objects {
		if o.Table != nil {
			tables = append(tables, *o.Table)
		}
	}
	return tables, nil
}

// firewall names the chain that drops what is sent to an address of the node, if one does.
func (l *Looker) firewall(ctx context.Context, tables []table) (string, error) {
	var errs []error
	for _, t := range tables {
		if !mayFilterInput(t) {
			continue
		}
		all, err := l.list(ctx, "table", t.Family, t.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if name := dropping(all); name != "" {
			return fmt.Sprintf("%s of table %s %s", name, t.Family, t.Name), errors.Join(errs...)
		}
	}
	return "", errors.Join(errs...)
}

// mayFilterInput leaves out tables that are no firewall, some of them huge.
func mayFilterInput(t table) bool {
	families := []string{"ip", "ip6", "inet"}
	others := []string{"kube-proxy", "fairlead", "nat", "mangle", "raw"}
	return slices.Contains(families, t.Family) && !slices.Contains(others, t.Name)
}

// dropping names a base chain at input that drops the packet of [verdictOf].
func dropping(all listing) string {
	rules := make(map[string][]rule)
	for _, o := range all.Objects {
		if o.Rule != nil {
			rules[o.Rule.Chain] = append(rules[o.Rule.Chain], *o.Rule)
		}
	}
	for _, o := range all.Objects {
		c := o.Chain
		if c == nil || c.Hook != "input" {
			continue
		}
		v := walk(rules, c.Name, 0)
		if v == drop || v == fallThrough && c.Policy == "drop" {
			return c.Name
		}
	}
	return ""
}

type verdict int

const (
	fallThrough verdict = iota // the chain ended, or returned
	accept
	drop
)

// deepest is how far chains call each other at most: the kernel's own limit.
const deepest = 16

// walk follows through a chain a packet to a pool's address: the first of a TCP connection,
// from a machine outside, to a port that no rule names. A rule that asks for something
// else, or for something unknown, is taken not to match.
func walk(rules map[string][]rule, name string, depth int) verdict {
	if depth > deepest {
		return fallThrough
	}
	for _, r := range rules[name] {
		s := r.evaluate()
		switch {
		case s.verdict != fallThrough:
			return s.verdict
		case s.leaves && s.target == "":
			return fallThrough
		case s.target == "":
			continue
		}
		v := walk(rules, s.target, depth+1)
		if s.perhaps && v == drop {
			v = fallThrough
		}
		if v != fallThrough || s.leaves && !s.perhaps {
			return v
		}
	}
	return fallThrough
}

// step is what a rule does to the packet: a verdict, or a chain to go to, or nothing.
type step struct {
	verdict verdict
	target  string
	// leaves: the rest of the chain is not asked.
	leaves bool
	// perhaps: the rule names destinations, which may be ours or not.
	perhaps bool
}

// evaluate takes a rule that names destinations for one about pools if it accepts them:
// somebody wrote it for us. To drop, it may mean others.
func (r rule) evaluate() step {
	perhaps := false
	for _, e := range r.Expr {
		for kind, data := range e {
			switch kind {
			case "counter", "log", "comment":
			case "match":
				fits, destination := matches(data)
				if !fits {
					return step{}
				}
				perhaps = perhaps || destination
			case "vmap":
				return lookUp(data)
			default: // a verdict, or something unknown, which ends the rule without one
				s := stepOf(kind, data)
				s.perhaps = perhaps
				if perhaps && (s.verdict == drop || s.leaves && s.target == "") {
					return step{}
				}
				return s
			}
		}
	}
	return step{}
}

func stepOf(kind string, data json.RawMessage) step {
	switch kind {
	case "accept":
		return step{verdict: accept}
	case "drop", "reject":
		return step{verdict: drop}
	case "return":
		return step{leaves: true}
	case "jump", "goto":
		var to struct {
			Target string `json:"target"`
		}
		if json.Unmarshal(data, &to) != nil {
			return step{}
		}
		return step{target: to.Target, leaves: kind == "goto"}
	default:
		return step{}
	}
}
