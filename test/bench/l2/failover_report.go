// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// sums of the cuts of one case.
type failoverSum struct {
	first, median, last, announced, perVIP Stat
	others, doubles                        int
	spread                                 string
}

func (f *FailoverCase) sum() failoverSum {
	var first, median, last, announced, frames []float64
	s := failoverSum{}
	spread := map[string]int{}
	for i := range f.Cuts {
		c := &f.Cuts[i]
		first, median, last = append(first, c.FirstMs), append(median, c.MedianMs), append(last, c.LastMs)
		announced = append(announced, c.AnnouncedMs)
		frames = append(frames, float64(c.Frames)/float64(f.VIPs))
		s.others += c.Others
		s.doubles += c.Doubles
		for n, k := range c.Spread {
			spread[n] += k
		}
	}
	s.first, s.median, s.last, s.announced, s.perVIP = newStat(first), newStat(median), newStat(last), newStat(announced), newStat(frames)
	parts := make([]string, 0, len(spread))
	for _, n := range slices.Sorted(maps.Keys(spread)) {
		parts = append(parts, fmt.Sprint(spread[n]))
	}
	s.spread = strings.Join(parts, " : ")
	return s
}

const failoverText = `
Three node agents (real processes with the shipped arguments, each in its own network namespace with eth0 on one Linux bridge), a real etcd and
kube-apiserver, the shipped controller; no kubelet and no kube-proxy, everything on this machine. The node with the addresses dies
at a random moment: *power cut* is its bridge port down and its agent killed at once, *link down* the port alone. A client asks for every
address by ARP broadcast (each every 10 ms, at most 10,000 requests a second in all: 1,000 addresses every 100 ms), the kernel stamps
answers and announcements when they arrive. With 100 and more all are on the first node, a single one is where it went the last time. Times are milliseconds since the cut, as median (minimum–maximum) over the runs: of the first,
the median and the last address answered, and of the last address whose new owner has announced it. *Frames* are announcements per address that moved,
until nobody had announced anything for a while; *others* are announcements of addresses that did not move (with 100 and more, 20 others are on the survivors),
*doubles* addresses that two nodes answered for when the dead node was back. Periodic repetition is off. Profiles were measured at the same time, each on nodes of its own.
`

// Markdown shows the result for people.
func (f *Failover) Markdown() string {
	var b strings.Builder
	b.WriteString(f.markdown("layer 2 fail-over"))
	b.WriteString(failoverText)
	b.WriteString("\n| profile | death | addresses | runs | first answered | median | **last answered** | last announced | frames per address | others | doubles | new owners |\n" +
		"|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for i := range f.Cases {
		c := &f.Cases[i]
		s := c.sum()
		_, _ = fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %s | **%s** | %s | %s | %d | %d | %s |\n", c.Profile, c.Kind, c.VIPs, len(c.Cuts),
			s.first, s.median, s.last, s.announced, s.perVIP, s.others, s.doubles, s.spread)
	}
	b.WriteString("\nMetalLB (main of July 2026, layer 2, native mode, measured before on a like machine by the same method, **not in this run**): 1 address, power cut, 10 runs: " +
		"5,671 (5,061–6,713) as a TCP prober sees it; 347 addresses: 5,370 / 5,480 / 5,560 to the first announcement (1 run), 9,994 frames in 10 s, 28.8 per address that moved, " +
		"because every address is announced again after a change of membership.\n")
	return b.String()
}
