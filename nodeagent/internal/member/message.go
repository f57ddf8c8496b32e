// SPDX-License-Identifier: Apache-2.0

package member

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead-lb/fairlead/loadbalancer"
)

// State is what a node tells the others about itself.
type State struct {
	// Leaving says that the node is withdrawing for good.
	Leaving bool
	// Restarting says that the agent stops now and will be back within this time, while
	// the node's kernel answers for what it announced; 0 is no restart.
	Restarting time.Duration
	// Interfaces that can announce.
	Interfaces []loadbalancer.Interface
	// Gateways are the next hops of the node's default routes.
	Gateways []netip.Addr
	// Claims are the names of the claims that the node announces and of their groups,
	// with their epochs (never 0).
	Claims map[loadbalancer.Group]uint64
}

// message carries a part or all of one node's state. Every entry has the sequence
// number of its last change, the message that of its newest; entries may arrive twice
// and in any order, the highest number wins. A boot is one run of the agent: state of
// a later boot replaces all of an earlier one's. Unknown fields are ignored, so that
// later versions can add some.
type message struct {
	Node string `json:"n"`
	Boot uint64 `json:"b"`
	Seq  uint64 `json:"s"`
	// Full messages list every entry: what is missing was dropped.
	Full bool `json:"f,omitempty"`
	// Want asks the receiver for its full state.
	Want   bool    `json:"w,omitempty"`
	Facts  *facts  `json:"i,omitempty"`
	Claims []claim `json:"c,omitempty"`
}

type facts struct {
	Seq        uint64       `json:"s"`
	Leaving    bool         `json:"l,omitempty"`
	Restarting int64        `json:"r,omitempty"` // milliseconds
	Interfaces []ifaces     `json:"i,omitempty"`
	Gateways   []netip.Addr `json:"g,omitempty"`
}

type ifaces struct {
	Name     string         `json:"n"`
	Prefixes []netip.Prefix `json:"p,omitempty"`
	MAC      []byte         `json:"m,omitempty"`
	NoIPv4   bool           `json:"4,omitempty"`
	NoIPv6   bool           `json:"6,omitempty"`
}

// claim with epoch 0 says that the claim or group was given up.
type claim struct {
	Group string `json:"g"`
	Epoch uint64 `json:"e,omitempty"`
	Seq   uint64 `json:"s"`
}

// Limits on what a peer may send; a holder of the key is trusted, a bug is not.
const (
	maxMessage    = 8 << 20
	maxNameLength = 253
)

func encode(m message) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode gossip message: %w", err)
	}
	return b, nil
}

func decode(b []byte) (message, error) {
	if len(b) > maxMessage {
		return message{}, fmt.Errorf("gossip message of %d bytes", len(b))
	}
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, fmt.Errorf("decode gossip message: %w", err)
	}
	if m.Node == "" || len(m.Node) > maxNameLength || m.Boot == 0 {
		return message{}, fmt.Errorf("gossip message without a sender: node %q, boot %d", m.Node, m.Boot)
	}
	return m, nil
}

// onlyNew says whether a change tells of first announcements and of nothing else.
func (m message) onlyNew() bool {
	return m.Facts == nil && !m.Full && !slices.ContainsFunc(m.Claims, func(c claim) bool { return c.Epoch != 1 })
}

func factsOf(s State, seq uint64) *facts {
	f := &facts{Seq: seq, Leaving: s.Leaving, Restarting: s.Restarting.Milliseconds(), Gateways: s.Gateways}
	for _, i := range s.Interfaces {
		f.Interfaces = append(f.Interfaces, ifaces{i.Name, i.Prefixes, i.MAC[:], i.NoIPv4, i.NoIPv6})
	}
	return f
}

func (f *facts) interfaces() []loadbalancer.Interface {
	out := make([]loadbalancer.Interface, 0, len(f.Interfaces))
	for _, i := range f.Interfaces {
		o := loadbalancer.Interface{Name: i.Name, Prefixes: i.Prefixes, NoIPv4: i.NoIPv4, NoIPv6: i.NoIPv6}
		copy(o.MAC[:], i.MAC)
		out = append(out, o)
	}
	return out
}

func sameFacts(a, b State) bool {
	return a.Leaving == b.Leaving && a.Restarting == b.Restarting && slices.Equal(a.Gateways, b.Gateways) && slices.EqualFunc(a.Interfaces, b.Interfaces, func(x, y loadbalancer.Interface) bool {
		return x.Name == y.Name && x.MAC == y.MAC && x.NoIPv4 == y.NoIPv4 && x.NoIPv6 == y.NoIPv6 && slices.Equal(x.Prefixes, y.Prefixes)
	})
}
