// SPDX-License-Identifier: Apache-2.0

package nodeagent

import (
	"time"

	"github.com/fairlead-lb/fairlead/nodeagent/internal/kernel"
)

const (
	// listenAgain is how long a node takes over nothing that had an owner once a link of its
	// is back: its peers tell it what they took over meanwhile, and the API server, whose
	// watches hang for longer, still shows the old owner, which may be this node.
	listenAgain = 2 * time.Second
	// listenAlone is how long at most, while it sees too few peers.
	listenAlone = 10 * time.Second
)

// cables notes when links that were lost come back.
type cables struct {
	present, lost map[string]struct{}
	back          time.Time
}

// look compares the links with those that were there before, and says whether one is back.
func (c *cables) look(now time.Time, links []kernel.Link) bool {
	before := c.present
	c.present = make(map[string]struct{}, len(links))
	for _, k := range links {
		c.present[k.Name] = struct{}{}
		if _, again := c.lost[k.Name]; again {
			delete(c.lost, k.Name)
			c.back = now
		}
	}
	for name := range before {
		if _, still := c.present[name]; !still {
			if c.lost == nil {
				c.lost = make(map[string]struct{})
			}
			c.lost[name] = struct{}{}
		}
	}
	return c.back.Equal(now)
}

// fresh says whether a link came back so lately that an agent that sees few peers may not
// have heard the others yet.
func (c *cables) fresh(now time.Time) bool {
	return !c.back.IsZero() && now.Sub(c.back) < listenAlone
}
