// SPDX-License-Identifier: Apache-2.0

package nodeagent

import "time"

const (
	// restPerWork is how much longer than a round the rest after it is: with thousands of
	// addresses a round takes milliseconds, and a rollout has several changes for each.
	restPerWork = 9
	// maxRest bounds the rest, because a new address waits for it.
	maxRest = 200 * time.Millisecond
)

// pace spreads the rounds that may wait for a moment: those for objects that changed, for
// new addresses of peers and for the end of probing. With few addresses they hardly wait.
// Rounds for deaths, links and whatever else moves an address do not wait at all.
type pace struct{ until time.Time }

// worked notes a round.
func (p *pace) worked(begin, end time.Time) {
	p.until = end.Add(min(restPerWork*end.Sub(begin), maxRest))
}

// rest is how long a round that may wait has to.
func (p *pace) rest(now time.Time) time.Duration { return max(p.until.Sub(now), 0) }
