// SPDX-License-Identifier: Apache-2.0

package l2

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"time"
)

// verdict is a line of an agent's log that says that a peer is gone or silent.
type verdict struct {
	at   time.Time
	peer string
	// pulse says that the peer's kernel did not answer, else the gossip lost it.
	pulse bool
}

// verdictLine matches klog's header (I0102 15:04:05.000000, local time without a year) and
// the two messages; a peer that left or restarts said so itself.
var verdictLine = regexp.MustCompile(`^[IWE](\d{4} \d\d:\d\d:\d\d\.\d{6}) .*\] "(Peer is gone|Node's kernel does not answer)" .*\bpeer="([^"]+)"(.*)$`)

// said matches the goodbyes.
var said = regexp.MustCompile(`left=true|restarting="[1-9]`)

// readVerdicts returns the verdicts of an agent since an instant, oldest first.
func readVerdicts(file string, since time.Time) ([]verdict, error) {
	f, err := os.Open(file) //nolint:gosec // the rig's own
	if err != nil {
		return nil, fmt.Errorf("read an agent's log: %w", err)
	}
	defer f.Close()
	var out []verdict
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if v, ok := parseVerdict(lines.Text(), since); ok && !v.at.Before(since) {
			out = append(out, v)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read an agent's log: %w", err)
	}
	return out, nil
}

// parseVerdict takes the year from near, which is not far from the line's time.
func parseVerdict(line string, near time.Time) (verdict, bool) {
	m := verdictLine.FindStringSubmatch(line)
	if m == nil || said.MatchString(m[4]) {
		return verdict{}, false
	}
	at, err := time.ParseInLocation("0102 15:04:05.000000", m[1], near.Location())
	if err != nil {
		return verdict{}, false
	}
	at = time.Date(near.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), at.Nanosecond(), near.Location())
	return verdict{at: at, peer: m[3], pulse: m[2] != "Peer is gone"}, true
}
