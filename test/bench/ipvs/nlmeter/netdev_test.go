// SPDX-License-Identifier: Apache-2.0

package nlmeter

import "testing"

func TestBytesOf(t *testing.T) {
	const head = "Inter-|   Receive |  Transmit\n face |bytes    packets|bytes    packets\n    lo:    1       0    2       0\n"
	if n, err := bytesOf(head + linkName + ": 1234      16    0 0\n"); err != nil || n != 1234 {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := bytesOf(head); err == nil {
		t.Error("counted without a link")
	}
}
