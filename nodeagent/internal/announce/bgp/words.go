// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	"fmt"
	"strings"
	"unicode/utf8"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
)

// Codes of NOTIFICATIONs that are sent here.
const (
	codeHeader = gobgp.BGP_ERROR_MESSAGE_HEADER_ERROR
	codeOpen   = gobgp.BGP_ERROR_OPEN_MESSAGE_ERROR
	codeFSM    = gobgp.BGP_ERROR_FSM_ERROR
	codeCease  = gobgp.BGP_ERROR_CEASE
	codeHold   = gobgp.BGP_ERROR_HOLD_TIMER_EXPIRED
	sendHold   = 8  // RFC 9687
	badPeerAS  = 2  // RFC 4271 §6.2
	adminDown  = 2  // RFC 4486
	adminReset = 4  // RFC 4486
	subBFDDown = 10 // RFC 9384
	// subCollision is RFC 4486's: there is another connection.
	subCollision = 7
	maxShutdown  = 255
)

// notification is a NOTIFICATION (RFC 4271 §4.5).
type notification struct {
	code, subcode uint8
	data          []byte
}

// bytes on the wire.
func (n notification) bytes() []byte {
	m := gobgp.NewBGPNotificationMessage(n.code, n.subcode, n.data)
	b, err := m.Serialize()
	if err != nil {
		return nil // not possible: three fields of fixed meaning
	}
	return b
}

// shutdown is a Cease with a message for the operator of the router (RFC 9003).
func shutdown(subcode uint8, message string) *notification {
	if len(message) > maxShutdown {
		message = message[:maxShutdown]
	}
	return &notification{code: codeCease, subcode: subcode, data: append([]byte{byte(len(message))}, message...)} //nolint:gosec // cut above
}

// String says what it means, with the numbers for who searches for them.
func (n notification) String() string {
	code, sub := names(n.code, n.subcode)
	var b strings.Builder
	b.WriteString(code)
	if sub != "" {
		b.WriteString("/" + sub)
	}
	fmt.Fprintf(&b, " (%d/%d)", n.code, n.subcode)
	if n.code == codeCease && (n.subcode == adminDown || n.subcode == adminReset) {
		if text := communicated(n.data); text != "" {
			fmt.Fprintf(&b, ": %q", text)
		}
	}
	if n.code == codeOpen && n.subcode == badPeerAS && len(n.data) == 2 {
		fmt.Fprintf(&b, ": AS %d", int(n.data[0])<<8|int(n.data[1]))
	}
	return b.String()
}

// communicated is the message of RFC 9003 (and 8203): one octet of length, then UTF-8.
func communicated(data []byte) string {
	if len(data) < 2 || int(data[0]) > len(data)-1 {
		return ""
	}
	text := data[1 : 1+int(data[0])]
	if !utf8.Valid(text) {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, string(text))
}

// names of a code and its subcode: RFC 4271 §4.5, 4486, 6608, 7313, 8538, 9384, 9687.
func names(code, subcode uint8) (string, string) {
	var name string
	var subs []string
	switch code {
	case codeHeader:
		name, subs = "Message Header Error", []string{"Connection Not Synchronized", "Bad Message Length", "Bad Message Type"}
	case codeOpen:
		name, subs = "OPEN Message Error", []string{
			"Unsupported Version Number", "Bad Peer AS", "Bad BGP Identifier", "Unsupported Optional Parameter",
			"Authentication Failure", "Unacceptable Hold Time", "Unsupported Capability", "", "", "", "Role Mismatch",
		}
	case gobgp.BGP_ERROR_UPDATE_MESSAGE_ERROR:
		name, subs = "UPDATE Message Error", []string{
			"Malformed Attribute List", "Unrecognized Well-known Attribute", "Missing Well-known Attribute", "Attribute Flags Error",
			"Attribute Length Error", "Invalid ORIGIN Attribute", "AS Routing Loop", "Invalid NEXT_HOP Attribute",
			"Optional Attribute Error", "Invalid Network Field", "Malformed AS_PATH",
		}
	case codeHold:
		name = "Hold Timer Expired"
	case codeFSM:
		name, subs = "Finite State Machine Error", []string{
			"Unexpected Message in OpenSent", "Unexpected Message in OpenConfirm", "Unexpected Message in Established",
		}
	case codeCease:
		name, subs = "Cease", []string{
			"Maximum Number of Prefixes Reached", "Administrative Shutdown", "Peer De-configured", "Administrative Reset",
			"Connection Rejected", "Other Configuration Change", "Connection Collision Resolution", "Out of Resources", "Hard Reset", "BFD Down",
		}
	case gobgp.BGP_ERROR_ROUTE_REFRESH_MESSAGE_ERROR:
		name, subs = "ROUTE-REFRESH Message Error", []string{"Invalid Message Length"}
	case sendHold:
		name = "Send Hold Timer Expired"
	default:
		return "Unknown Error", ""
	}
	if i := int(subcode) - 1; i >= 0 && i < len(subs) {
		return name, subs[i]
	}
	return name, ""
}
