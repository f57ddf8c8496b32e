// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fairlead-lb/fairlead/test/harness"
)

// What partitioned nodes are cut off from.
const (
	FromAPI   = "api"
	FromPeers = "peers"
	FromAll   = "all"
)

const (
	// settleTime is how long a partition gets before it is looked at: the detectors'
	// verdict and the minority's wait, with a reserve for a slow machine.
	settleTime = 6 * time.Second
	// lookTime is how long the answers are collected for one look: two requests.
	lookTime = 2 * time.Second
	// healTime is how long the answers are recorded after the heal.
	healTime = 6 * time.Second
)

// Split is what a partition showed.
type Split struct {
	// Nodes were cut off from what From says.
	Nodes []string
	From  string
	// Faults are the addresses that more than one node answered for among nodes that
	// could see each other, while the partition lasted and once it was healed.
	Faults []string
	// Doubled counts the addresses that both sides answered for, as clients saw it that
	// reach both.
	Doubled int
	// Changes of owners from the cut until the end.
	Changes []Change
	// Silent counts the addresses that nobody answered for during the partition.
	Silent int
	// Healed is how long after the heal the last wrong answer came; its resolution is a
	// quarter of a second. Zero means that there was none.
	Healed time.Duration
}

// Partition cuts the first address's owner, and others besides, off from the API server,
// from the other nodes, or both. Clients reach all of them all the time, which is the
// worst case: they see every wrong answer.
func (f *Field) Partition(ctx context.Context, from string, nodes ...string) (s *Split, err error) {
	s = &Split{Nodes: nodes, From: from}
	w := NewWatch(ctx, f.lab, f.Addresses)
	defer w.Stop()
	if _, err := f.lab.Partition(ctx, from, nodes...); err != nil {
		return s, err
	}
	defer func() { // healing twice does no harm
		_, herr := f.lab.Heal(context.WithoutCancel(ctx))
		err = errors.Join(err, herr, f.Whole(ctx))
	}()
	if err := harness.Pause(ctx, settleTime); err != nil {
		return s, err
	}
	during, err := f.record(ctx, lookTime)()
	if err != nil {
		return s, err
	}
	f.judge(s, during)
	record := f.record(ctx, healTime+time.Second)
	if err := harness.Pause(ctx, 500*time.Millisecond); err != nil {
		return s, err
	}
	began, err := f.lab.Heal(ctx)
	if err != nil {
		return s, err
	}
	after, err := record()
	if err != nil {
		return s, err
	}
	f.settled(s, after, began)
	s.Changes = w.Stop()
	return s, nil
}

// judge counts what each side answers.
func (f *Field) judge(s *Split, heard map[string][]answer) {
	for _, a := range f.sample() {
		var inside, outside []string
		for _, mac := range macs(heard[a], time.Time{}) {
			if node := f.macs[mac]; slices.Contains(s.Nodes, node) {
				inside = append(inside, node)
			} else {
				outside = append(outside, node)
			}
		}
		if s.From == FromAPI { // all nodes see each other
			outside, inside = append(outside, inside...), nil
		}
		for _, side := range [][]string{inside, outside} {
			if len(side) > 1 {
				s.Faults = append(s.Faults, fmt.Sprintf("%s: %v answer though they see each other", a, side))
			}
		}
		switch {
		case len(inside) > 0 && len(outside) > 0:
			s.Doubled++
		case len(inside)+len(outside) == 0:
			s.Silent++
		}
	}
}

// settled finds the last answer after the heal that was not the last one's sender's.
func (f *Field) settled(s *Split, heard map[string][]answer, healed time.Time) {
	for _, a := range f.sample() {
		all := heard[a]
		if len(all) == 0 {
			s.Faults = append(s.Faults, a+": no answer after the heal")
			continue
		}
		final := all[len(all)-1].mac
		for _, one := range all {
			if one.mac != final && one.at.After(healed) {
				s.Healed = max(s.Healed, one.at.Sub(healed))
			}
		}
		if late := macs(all, healed.Add(healTime-lookTime)); len(late) > 1 {
			s.Faults = append(s.Faults, fmt.Sprintf("%s: %v still answer %s after the heal", a, late, healTime-lookTime))
		}
	}
}

// answer is one ARP reply.
type answer struct {
	at  time.Time
	mac string
}

// macs are the distinct senders of the answers after a moment.
func macs(answers []answer, after time.Time) []string {
	var out []string
	for _, a := range answers {
		if a.at.After(after) && !slices.Contains(out, a.mac) {
			out = append(out, a.mac)
		}
	}
	return out
}

// record starts to ask by broadcast for each address of the sample four times a second,
// and returns what waits for all answers.
func (f *Field) record(ctx context.Context, length time.Duration) func() (map[string][]answer, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	heard := map[string][]answer{}
	var errs []error
	for _, a := range f.sample() {
		wg.Go(func() {
			res, err := f.lab.Exec(ctx, client, "sh", "-c", askScript(a, length))
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
			heard[a] = parseAnswers(res.Stdout)
		})
	}
	return func() (map[string][]answer, error) {
		wg.Wait()
		return heard, errors.Join(errs...)
	}
}

// askScript runs four askers of one request a second, a quarter of a second apart, and
// puts the time before each line.
func askScript(address string, length time.Duration) string {
	seconds := max(1, int(length/time.Second))
	return fmt.Sprintf(`for k in 0 25 50 75; do (sleep 0.$k; arping -b -I eth0 -w %d %s) & done | `+
		`while read -r line; do echo "$(date +%%s.%%N) $line"; done`, seconds, address)
}

// stampedReply matches "1790000000.123456789 Unicast reply from 172.20.248.1 [02:42:AC:14:00:03]  1.1ms".
var stampedReply = regexp.MustCompile(`^(\d+)\.(\d+) .*reply from \S+ \[([0-9A-Fa-f:]{17})\]`)

func parseAnswers(out string) []answer {
	var answers []answer
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		m := stampedReply.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		sec, errSec := strconv.ParseInt(m[1], 10, 64)
		nsec, errNsec := strconv.ParseInt(m[2], 10, 64)
		if errSec == nil && errNsec == nil {
			answers = append(answers, answer{at: time.Unix(sec, nsec), mac: strings.ToLower(m[3])})
		}
	}
	slices.SortStableFunc(answers, func(a, b answer) int { return a.at.Compare(b.at) })
	return answers
}
