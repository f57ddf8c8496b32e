// SPDX-License-Identifier: Apache-2.0

package nlmeter

import (
	"fmt"
	"strconv"
	"strings"
)

// bytesOf reads the bytes received by the monitor link from the text of /proc/net/dev.
func bytesOf(text string) (uint64, error) {
	for line := range strings.Lines(text) {
		name, rest, found := strings.Cut(strings.TrimSpace(line), ":")
		if !found || name != linkName {
			continue
		}
		f := strings.Fields(rest)
		if len(f) == 0 {
			break
		}
		n, err := strconv.ParseUint(f[0], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the counters of %s: %w", linkName, err)
		}
		return n, nil
	}
	return 0, fmt.Errorf("no counters of %s", linkName)
}
