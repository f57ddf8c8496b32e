// SPDX-License-Identifier: Apache-2.0

package ipam

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead-lb/fairlead/test/harness"
	"github.com/fairlead-lb/fairlead/test/harness/plane"
)

// controllerUser is who the controller is to the API server.
const controllerUser = "system:serviceaccount:" + harness.Namespace + ":fairlead-controller"

func isWrite(r *plane.Request) bool {
	switch r.Verb {
	case "get", "list", "watch":
		return false
	}
	return !isReview(r)
}

// writesLimit is what one Service may cost the API server by the controller without
// events: finalizer, claim, record, status and the record's status, and a share of the
// pool's status.
const writesLimit = 5.5

// RolloutFaults lists what costs more than promised. CPU is not judged: it depends on
// what else the machine does.
func RolloutFaults(steps []Step) []string {
	var out []string
	for i := range steps {
		if s := &steps[i]; s.ControllerWrites > writesLimit {
			out = append(out, fmt.Sprintf("from %d to %d Services the controller wrote %.2f objects for each, promised are at most %.1f",
				s.From, s.To, s.ControllerWrites, writesLimit))
		}
	}
	return out
}

// isReview: a question in the form of a create.
func isReview(r *plane.Request) bool {
	return strings.HasSuffix(r.Resource, "reviews.authorization.k8s.io")
}

func isLease(r *plane.Request) bool { return strings.HasPrefix(r.Resource, "leases.") }

func isEvent(r *plane.Request) bool {
	return r.Resource == "events" || r.Resource == "events.events.k8s.io"
}

// count fills in who wrote what, per new Service.
func (s *Step) count(requests []plane.Request, services int) {
	per := func(n int) float64 { return float64(n) / float64(services) }
	rows := map[Write]*Write{}
	var writes, events, reads int
	for i := range requests {
		q := &requests[i]
		ours := q.User == controllerUser
		if !isWrite(q) {
			if ours {
				reads++
			}
			continue
		}
		if isLease(q) {
			continue
		}
		key := Write{Writer: writer(q.User), Verb: q.Verb, Resource: q.Resource}
		row := rows[key]
		if row == nil {
			row = &Write{Writer: key.Writer, Verb: key.Verb, Resource: key.Resource}
			rows[key] = row
		}
		done := q.Code < 300
		switch {
		case !done:
			row.Refused++
			continue
		case ours && isEvent(q):
			events++
		case ours:
			writes++
		}
		row.Done++
	}
	s.ControllerWrites, s.EventWrites, s.Reads = per(writes), per(events), per(reads)
	for _, row := range rows {
		row.PerService = per(row.Done)
		s.Writes = append(s.Writes, *row)
	}
	slices.SortFunc(s.Writes, func(a, b Write) int {
		return cmp.Or(cmp.Compare(a.Writer, b.Writer), cmp.Compare(b.Done, a.Done), cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Verb, b.Verb))
	})
}

// writer names who wrote.
func writer(user string) string {
	switch user {
	case controllerUser:
		return "Fairlead's controller"
	case "admin":
		return "the applying client"
	case "system:apiserver":
		return "API server"
	}
	return strings.TrimPrefix(user, "system:serviceaccount:")
}
