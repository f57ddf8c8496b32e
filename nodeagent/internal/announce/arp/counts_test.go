// SPDX-License-Identifier: Apache-2.0

package arp

import "sync/atomic"

// counts are the figures that a test looks at.
type counts struct{ requests, replies, gratuitous, conflicts atomic.Int64 }

func (c *counts) Request()    { c.requests.Add(1) }
func (c *counts) Reply()      { c.replies.Add(1) }
func (c *counts) Gratuitous() { c.gratuitous.Add(1) }
func (c *counts) Conflict()   { c.conflicts.Add(1) }
