// SPDX-License-Identifier: Apache-2.0

package metallb

import "maps"

// words says how a source writes the names of fields: the kinds of metallb.io as Fairlead's
// own do (nil), the ConfigMap of MetalLB before 0.13 in a way of its own.
type words map[string]string

// of returns a field's name in the source, and false where the source has no such field.
func (w words) of(field string) (string, bool) {
	if w == nil {
		return field, true
	}
	word, ok := w[field]
	return word, ok
}

// old reports whether the source is the ConfigMap.
func (w words) old() bool { return w != nil }

// legacyWords are the ConfigMap's.
func legacyWords() words {
	return words{
		"myASN": "my-asn", "peerASN": "peer-asn", "peerAddress": "peer-address", "sourceAddress": "source-address",
		"peerPort": "peer-port", "holdTime": "hold-time", "keepaliveTime": "keepalive-time", "routerID": "router-id",
		"nodeSelectors": "node-selectors", "password": "password", "bfdProfile": "bfd-profile", "ebgpMultiHop": "ebgp-multihop",
		"matchLabels": "match-labels", "matchExpressions": "match-expressions",
		"aggregationLength": "aggregation-length", "aggregationLengthV6": "aggregation-length-v6", "localPref": "localpref",
		"communities": "communities", "receiveInterval": "receive-interval", "transmitInterval": "transmit-interval",
		"detectMultiplier": "detect-multiplier", "echoInterval": "echo-interval", "echoMode": "echo-mode",
		"passiveMode": "passive-mode", "minimumTtl": "minimum-ttl",
	}
}

// reader reads the fields of one object in the words of its source; a field that the source
// does not have is absent.
type reader struct {
	*fields
	words words
}

func (r reader) text(field string) string {
	if word, ok := r.words.of(field); ok {
		return r.fields.text(word)
	}
	return ""
}

func (r reader) isTrue(field string) bool {
	b := r.flag(field)
	return b != nil && *b
}

func (r reader) flag(field string) *bool {
	if word, ok := r.words.of(field); ok {
		return r.fields.flag(word)
	}
	return nil
}

func (r reader) texts(field string) []string {
	if word, ok := r.words.of(field); ok {
		return r.fields.texts(word)
	}
	return nil
}

// path is where a field stands, for remarks.
func (r reader) path(field string) string {
	word, _ := r.words.of(field)
	return join(r.at, word)
}

// rename returns a map with the given fields under Fairlead's names.
func (w words) rename(m map[string]any, fields ...string) map[string]any {
	out := maps.Clone(m)
	for _, field := range fields {
		if v, ok := m[w[field]]; ok {
			delete(out, w[field])
			out[field] = v
		}
	}
	return out
}
