// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"fmt"
	"slices"
	"strings"
)

// Event is one object as it was from one revision of the store on. All kinds of objects
// share the store's revisions, so events of several watches have one order.
type Event struct {
	Revision uint64
	// Kind is "service", "claim" or "record", Key the object's namespace/name or name.
	Kind, Key string
	// The object; all nil when it was deleted.
	Service *Service
	Claim   *Claim
	Record  *Record
}

func (e *Event) String() string {
	switch {
	case e.Service != nil:
		return fmt.Sprintf("%d %s", e.Revision, e.Service)
	case e.Claim != nil:
		return fmt.Sprintf("%d %s", e.Revision, e.Claim)
	case e.Record != nil:
		return fmt.Sprintf("%d %s", e.Revision, e.Record)
	}
	return fmt.Sprintf("%d %s %s deleted", e.Revision, e.Kind, e.Key)
}

// Book replays events in the order of their revisions and says at each whether an
// address is given twice. The zero value is empty.
type Book struct {
	services map[string]*Service
	claims   map[string]*Claim
	records  map[string]*Record
	// shown and claimed index the two by address.
	shown   map[string]map[string]bool
	claimed map[string]map[string]bool
	// granted are the ports that a claim last said a Service holds, by "address uid". A
	// user may change a Service's ports to those of its neighbour at any time: until the
	// controller has answered, the Service holds what it held.
	granted map[string][]Port
	// held are the UIDs that ever held an address, by "address namespace/name".
	held map[string]map[string]bool
	// back counts Services that got the address which a namesake before them had held,
	// elsewhere those that got another one while theirs was kept for them.
	back, elsewhere int
}

// NewBook returns an empty book.
func NewBook() *Book {
	return &Book{
		services: map[string]*Service{}, claims: map[string]*Claim{}, records: map[string]*Record{},
		shown: map[string]map[string]bool{}, claimed: map[string]map[string]bool{}, granted: map[string][]Port{},
		held: map[string]map[string]bool{},
	}
}

// Apply takes the next event and returns what is wrong from then on because of it.
func (b *Book) Apply(e *Event) []string {
	var touched []string
	switch e.Kind {
	case "service":
		old := b.services[e.Key]
		if old != nil {
			unindex(b.shown, old.Shown, e.Key)
		}
		delete(b.services, e.Key)
		if s := e.Service; s != nil {
			b.returned(old, s)
			b.services[e.Key] = s
			if !s.Leaving {
				index(b.shown, s.Shown, e.Key)
				touched = s.Shown
			}
		}
	case "claim":
		if old := b.claims[e.Key]; old != nil {
			unindex(b.claimed, []string{old.Address}, e.Key)
		}
		delete(b.claims, e.Key)
		if c := e.Claim; c != nil {
			b.claims[e.Key] = c
			index(b.claimed, []string{c.Address}, e.Key)
			b.grant(c)
			touched = []string{c.Address}
		}
	case "record":
		delete(b.records, e.Key)
		if e.Record != nil {
			b.records[e.Key] = e.Record
		}
	}
	var faults []string
	for _, a := range touched {
		faults = append(faults, b.check(a)...)
	}
	return faults
}

// grant notes what a claim says its tenants hold.
func (b *Book) grant(c *Claim) {
	for _, t := range c.Tenants {
		if c.Phase == "Bound" && len(t.Ports) > 0 {
			b.granted[c.Address+" "+t.UID] = t.Ports
		}
		index(b.held, []string{c.Address + " " + t.Key}, t.UID)
	}
}

// returned looks whether a Service that shows its first address has a namesake's.
func (b *Book) returned(old, s *Service) {
	if len(s.Shown) == 0 || (old != nil && old.UID == s.UID && len(old.Shown) > 0) {
		return
	}
	for _, addr := range s.Shown {
		for uid := range b.held[addr+" "+s.Key] {
			if uid != s.UID {
				b.back++
				return
			}
		}
	}
	for _, c := range b.claims {
		if c.Phase == "Retained" && slices.ContainsFunc(c.Tenants, func(t Tenant) bool { return t.Key == s.Key && t.UID != s.UID }) {
			b.elsewhere++
			return
		}
	}
}

// ports of a Service on one address.
func (b *Book) ports(s *Service, addr string) []Port {
	if p, ok := b.granted[addr+" "+s.UID]; ok {
		return p
	}
	return s.Ports
}

func index(m map[string]map[string]bool, addresses []string, key string) {
	for _, a := range addresses {
		if m[a] == nil {
			m[a] = map[string]bool{}
		}
		m[a][key] = true
	}
}

func unindex(m map[string]map[string]bool, addresses []string, key string) {
	for _, a := range addresses {
		delete(m[a], key)
	}
}

// check looks at everything that is said about one address.
func (b *Book) check(addr string) []string {
	var faults []string
	claims := sorted(b.claimed[addr])
	if len(claims) > 1 {
		faults = append(faults, fmt.Sprintf("%s has %d claims: %s", addr, len(claims), strings.Join(claims, ", ")))
	}
	for _, name := range claims {
		faults = append(faults, clashes(b.claims[name])...)
	}
	shown := sorted(b.shown[addr])
	for i, key := range shown {
		s := b.services[key]
		for _, other := range shown[:i] {
			if p, clash := common(b.ports(s, addr), b.ports(b.services[other], addr)); clash {
				faults = append(faults, fmt.Sprintf("%s %s/%d is shown by %s and by %s", addr, p.Protocol, p.Port, other, key))
			}
		}
		for _, name := range claims {
			faults = append(faults, b.givenAway(s, addr, b.claims[name])...)
		}
	}
	return faults
}

// clashes finds two tenants of one claim that serve the same port.
func clashes(c *Claim) []string {
	var faults []string
	if c.Phase != "Bound" {
		return nil
	}
	for i, t := range c.Tenants {
		if len(c.Tenants) > 1 && len(t.Ports) == 0 {
			faults = append(faults, fmt.Sprintf("%s does not say which ports %s serves", c, t.Key))
		}
		for _, other := range c.Tenants[:i] {
			if p, clash := common(t.Ports, other.Ports); clash {
				faults = append(faults, fmt.Sprintf("%s: both serve %s/%d", c, p.Protocol, p.Port))
			}
		}
	}
	return faults
}

// givenAway finds a Service that still shows an address that others hold with a port of its own.
func (b *Book) givenAway(s *Service, addr string, c *Claim) []string {
	if c.Phase != "Bound" || c.names(s.UID) {
		return nil
	}
	for _, t := range c.Tenants {
		ports := t.Ports
		if other := b.services[t.Key]; len(ports) == 0 && other != nil {
			ports = other.Ports
		}
		if p, clash := common(b.ports(s, addr), ports); clash && t.Key != s.Key {
			return []string{fmt.Sprintf("%s %s/%d is shown by %s but held by %s", addr, p.Protocol, p.Port, s.Key, t.Key)}
		}
	}
	return nil
}

func sorted(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Verdict of a replay.
type Verdict struct {
	// Faults with the events that led to each.
	Faults []string
	// Back counts Services that got the address that a namesake before them had held,
	// Elsewhere those that got another while that one was kept for them.
	Back, Elsewhere int
}

// Replay applies all events in order.
func Replay(events []Event) Verdict {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b Event) int {
		switch {
		case a.Revision < b.Revision:
			return -1
		case a.Revision > b.Revision:
			return 1
		}
		return 0
	})
	b := NewBook()
	seen := map[string]bool{}
	var faults []string
	for i := range events {
		for _, f := range b.Apply(&events[i]) {
			if !seen[f] {
				seen[f] = true
				faults = append(faults, fmt.Sprintf("at revision %d: %s\n%s", events[i].Revision, f, history(events[:i+1], f)))
			}
		}
	}
	return Verdict{Faults: faults, Back: b.back, Elsewhere: b.elsewhere}
}

// historyLength is how many events a trace shows.
const historyLength = 14

// history shows the last events about the objects that a fault names.
func history(events []Event, fault string) string {
	addr, _, _ := strings.Cut(strings.TrimPrefix(fault, "claim "), " ")
	var out []string
	for i := len(events) - 1; i >= 0 && len(out) < historyLength; i-- {
		e := &events[i]
		text := e.String()
		if strings.Contains(fault, e.Key) || strings.Contains(text, addr+"]") || strings.Contains(text, addr+" ") || strings.Contains(text, addr+":") {
			out = append(out, "    "+text)
		}
	}
	slices.Reverse(out)
	return strings.Join(out, "\n")
}
