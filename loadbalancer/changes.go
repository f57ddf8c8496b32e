// SPDX-License-Identifier: Apache-2.0

package loadbalancer

// Changes say which of many objects are others than they were, so that what follows from the
// rest need not be looked at again. To say that more changed than did is never wrong.
type Changes struct {
	// All says that anything may have changed; the rest does not matter then.
	All bool
	// Claims by name.
	Claims map[Group]ClaimChange
	// Records that are new, others or gone, or of whose Services the endpoints are others.
	Records map[ServiceUID]struct{}
	// Epochs are names of claims and groups of which a higher epoch was heard, or none is
	// known any more.
	Epochs map[Group]struct{}
}

// ClaimChange is a claim before and now, nil where there is none. What they point to does not
// change.
type ClaimChange struct{ Before, Now *Claim }

// Claim notes one of a claim.
func (c *Changes) Claim(name Group, is ClaimChange) {
	if was, again := c.Claims[name]; again {
		is.Before = was.Before
	}
	if c.Claims == nil {
		c.Claims = make(map[Group]ClaimChange)
	}
	c.Claims[name] = is
}

// Record notes one of a record.
func (c *Changes) Record(uid ServiceUID) {
	if c.Records == nil {
		c.Records = make(map[ServiceUID]struct{})
	}
	c.Records[uid] = struct{}{}
}

// Epoch notes one of an epoch.
func (c *Changes) Epoch(name Group) {
	if c.Epochs == nil {
		c.Epochs = make(map[Group]struct{})
	}
	c.Epochs[name] = struct{}{}
}

// Then adds what changed afterwards.
func (c *Changes) Then(later *Changes) {
	c.All = c.All || later.All
	for name, is := range later.Claims {
		c.Claim(name, is)
	}
	for uid := range later.Records {
		c.Record(uid)
	}
	for name := range later.Epochs {
		c.Epoch(name)
	}
}
