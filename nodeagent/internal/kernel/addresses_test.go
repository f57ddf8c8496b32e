// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// An address is known by either mark alone: kernels before 5.18 do not keep the protocol.
func TestMark(t *testing.T) {
	t.Parallel()
	metric, proto := nl.NewRtAttr(unix.IFA_RT_PRIORITY, nl.Uint32Attr(markMetric)), nl.NewRtAttr(ifaProto, nl.Uint8Attr(markProto))
	tests := map[string]struct {
		addr  string
		bits  uint8
		attrs []*nl.RtAttr
		want  bool
	}{
		"metric":         {"192.0.2.1", 32, []*nl.RtAttr{metric}, true},
		"protocol":       {"2001:db8::1", 128, []*nl.RtAttr{proto}, true},
		"no mark":        {"192.0.2.1", 32, nil, false},
		"other metric":   {"192.0.2.1", 32, []*nl.RtAttr{nl.NewRtAttr(unix.IFA_RT_PRIORITY, nl.Uint32Attr(100))}, false},
		"other protocol": {"192.0.2.1", 32, []*nl.RtAttr{nl.NewRtAttr(ifaProto, nl.Uint8Attr(3))}, false},
		"a whole subnet": {"192.0.2.1", 24, []*nl.RtAttr{metric, proto}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := netip.MustParseAddr(tt.addr)
			msg := nl.NewIfAddrmsg(unix.AF_INET)
			msg.Index, msg.Prefixlen = 7, tt.bits
			raw := append(msg.Serialize(), nl.NewRtAttr(unix.IFA_ADDRESS, addr.AsSlice()).Serialize()...)
			for _, a := range tt.attrs {
				raw = append(raw, a.Serialize()...)
			}
			got, ours := parseMarked(raw)
			if ours != tt.want || got != (key{7, addr}) {
				t.Errorf("parseMarked = %v, %t, want %v, %t", got, ours, addr, tt.want)
			}
			if _, ours := parseMarked(raw[:3]); ours {
				t.Error("a piece of a message is ours")
			}
		})
	}
}
