// SPDX-License-Identifier: Apache-2.0

package member

import (
	"fmt"
	"time"
)

// Profile names a set of detection times. It is a pflag.Value.
type Profile string

const (
	// ProfileFast has everyone know of a silent death after 0.33 to 0.38 s in the median
	// and 0.5 s at most, with 3 to 50 members, for 20 packets a second and node and 0.5 to
	// 0.8 % of a CPU. On starved machines it holds healthy members for dead now and then;
	// the direct detector keeps that from moving addresses.
	ProfileFast Profile = "fast"
	// ProfileDefault takes 0.7 to 1.2 s in the median and 1.3 s at most, for 10 packets a
	// second and node and 0.3 to 0.4 % of a CPU.
	ProfileDefault Profile = "default"
	// ProfileWAN takes 6 to 10 s in the median and 12 s at most, for 2 packets a second
	// and node and 0.1 % of a CPU. It is for nodes far from each other, or for networks
	// that lose packets for seconds; there is no direct detector.
	ProfileWAN Profile = "wan"
)

// String returns the name.
func (p *Profile) String() string { return string(*p) }

// Type is what pflag shows in a flag's usage.
func (*Profile) Type() string { return "profile" }

// Set takes a name.
func (p *Profile) Set(name string) error {
	switch q := Profile(name); q {
	case ProfileFast, ProfileDefault, ProfileWAN:
		*p = q
		return nil
	default:
		return fmt.Errorf("%q is none of %s, %s and %s", name, ProfileFast, ProfileDefault, ProfileWAN)
	}
}

// Timing is what a profile stands for.
type Timing struct {
	// ProbeInterval is how often the gossip checks one other member, ProbeTimeout how
	// long it waits for the answer before it asks others to try.
	ProbeInterval, ProbeTimeout time.Duration
	// SuspicionMult probe intervals, times the decimal logarithm of the number of members
	// if that is more than 1, pass between suspicion and the verdict of death;
	// SuspicionMaxMult times that if no other member confirms it.
	SuspicionMult, SuspicionMaxMult int
	// GossipInterval is how often changes are passed on, PushPull how often a member
	// exchanges everything with one other.
	GossipInterval, PushPull time.Duration
	// TCPTimeout bounds an exchange of everything.
	TCPTimeout time.Duration
	// PulseInterval is how often the direct detector asks a node's kernel, and PulseMisses
	// how many answers in a row have to stay away; 0 is no direct detector.
	PulseInterval time.Duration
	PulseMisses   int
}

// Verdict is the time that the gossip needs at least to notice a silent death.
func (t Timing) Verdict() time.Duration { return time.Duration(1+t.SuspicionMult) * t.ProbeInterval }

// Timing returns the profile's; an unknown name stands for the default.
func (p Profile) Timing() Timing {
	switch p {
	case ProfileFast:
		return Timing{
			ProbeInterval: 100 * time.Millisecond, ProbeTimeout: 50 * time.Millisecond,
			SuspicionMult: 1, SuspicionMaxMult: 1,
			GossipInterval: 25 * time.Millisecond, PushPull: 10 * time.Second, TCPTimeout: time.Second,
			PulseInterval: 50 * time.Millisecond, PulseMisses: 3,
		}
	case ProfileWAN:
		return Timing{
			ProbeInterval: time.Second, ProbeTimeout: 500 * time.Millisecond,
			SuspicionMult: 4, SuspicionMaxMult: 6,
			GossipInterval: 200 * time.Millisecond, PushPull: 30 * time.Second, TCPTimeout: 10 * time.Second,
		}
	case ProfileDefault:
		fallthrough
	default:
		return Timing{
			ProbeInterval: 200 * time.Millisecond, ProbeTimeout: 100 * time.Millisecond,
			SuspicionMult: 2, SuspicionMaxMult: 2,
			GossipInterval: 50 * time.Millisecond, PushPull: 10 * time.Second, TCPTimeout: time.Second,
			PulseInterval: 100 * time.Millisecond, PulseMisses: 4,
		}
	}
}
