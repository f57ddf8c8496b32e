// SPDX-License-Identifier: Apache-2.0

package field

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/rig"
)

const (
	// probeFlows ask every probeInterval each; a third of them reaches the node that is cut.
	probeFlows    = 24
	probeInterval = 10 * time.Millisecond
)

// ErrNoFlow means that at the moment of a cut no flow reached the node any more, because
// FRR had just taken its routes out: the cut says nothing.
var ErrNoFlow = errors.New("no flow reached the node at the moment of the cut")

// Cut is one power cut of a node.
type Cut struct {
	Node string `json:"node"`
	// Flows of the prober that reached the node, and Others that did not but had a gap of more
	// than ten intervals too.
	Flows  int `json:"flows"`
	Others int `json:"others"`
	// BlackoutMs is the longest gap between two answers of the node's flows; NoticedMs is when
	// FRR's kernel was without the node.
	BlackoutMs float64 `json:"blackoutMs"`
	NoticedMs  float64 `json:"noticedMs"`
}

// PowerCut cuts a node's power at a random moment while flows are asked every 10 ms, waits
// until all are answered again, and switches it on again.
func (f *Field) PowerCut(ctx context.Context, n *rig.Node, limit time.Duration) (Cut, error) {
	c := Cut{Node: n.Name()}
	if err := f.Whole(ctx); err != nil {
		return c, err
	}
	p, err := f.startReaching(ctx, n)
	if err != nil {
		return c, err
	}
	if err := harness.Pause(ctx, 200*time.Millisecond+rand.N(600*time.Millisecond)); err != nil { //nolint:gosec // chance, not secrecy
		p.Stop()
		return c, err //nolint:wrapcheck // the end of ctx
	}
	others := slices.DeleteFunc(f.Nodes(), func(x *rig.Node) bool { return x == n })
	p.Cut()
	cut, err := n.PowerCut()
	var noticed time.Time
	if err == nil {
		noticed, err = f.WaitHops(ctx, limit, others...)
	}
	if err == nil {
		_, err = Until(ctx, probeInterval, patience, func() error {
			if s := p.Silent(); s > 10*probeInterval {
				return fmt.Errorf("a flow has had no answer for %s", s)
			}
			return nil
		})
	}
	c.NoticedMs = Ms(noticed.Sub(cut))
	for _, fl := range p.Stop() {
		switch {
		case fl.Before == n.Name():
			c.Flows++
			c.BlackoutMs = max(c.BlackoutMs, Ms(fl.Gap))
		case fl.Gap > 10*probeInterval:
			c.Others++
		}
	}
	if err == nil && c.Flows == 0 {
		err = ErrNoFlow
	}
	// The node comes back whatever happened: other measurements need it.
	return c, errors.Join(err, f.powerOn(ctx, n))
}

// PowerCutAgain is [Field.PowerCut], repeated up to three times where a cut says nothing.
func (f *Field) PowerCutAgain(ctx context.Context, n *rig.Node, limit time.Duration) (c Cut, err error) {
	for range 4 {
		if c, err = f.PowerCut(ctx, n, limit); !errors.Is(err, ErrNoFlow) {
			break
		}
	}
	return c, err
}

// startReaching starts flows of which at least two reach the node.
func (f *Field) startReaching(ctx context.Context, n *rig.Node) (*Flows, error) {
	for range 5 {
		p, err := f.StartFlows(ctx, probeFlows, probeInterval)
		if err != nil {
			return nil, err
		}
		if err := harness.Pause(ctx, 200*time.Millisecond); err != nil {
			p.Stop()
			return nil, err //nolint:wrapcheck // the end of ctx
		}
		if p.Reach()[n.Name()] > 1 {
			return p, nil
		}
		p.Stop()
	}
	return nil, fmt.Errorf("of %d flows less than two reach %s, five times", probeFlows, n.Name())
}

func (f *Field) powerOn(ctx context.Context, n *rig.Node) error {
	if err := n.PowerOn(ctx); err != nil {
		return err //nolint:wrapcheck // says what it is
	}
	if err := f.Serve(n); err != nil {
		return err
	}
	_, err := f.WaitHops(ctx, patience, f.Nodes()...)
	return err
}

// Ms is a time in milliseconds.
func Ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// Stat sums up values of one kind.
type Stat struct {
	N   int     `json:"n"`
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	Max float64 `json:"max"`
}

// NewStat of values in any order.
func NewStat(values []float64) Stat {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return Stat{}
	}
	return Stat{N: len(v), Min: v[0], P50: (v[(len(v)-1)/2] + v[len(v)/2]) / 2, Max: v[len(v)-1]}
}

// String is "median (minimum–maximum)".
func (s Stat) String() string {
	if s.N == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s–%s)", Short(s.P50), Short(s.Min), Short(s.Max))
}

// Short has three figures.
func Short(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
