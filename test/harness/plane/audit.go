// SPDX-License-Identifier: Apache-2.0

package plane

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"
)

// auditPolicy logs who did what to which kind, once per request when it is answered.
// Watches are left out: they are answered when they end.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - level: None
    verbs: [watch]
  - level: Metadata
`

// Request is one answered request to the API server, without watches.
type Request struct {
	Verb string
	User string
	// Resource with group and subresource, as "ipclaims.fairlead.dev/status".
	Resource  string
	Namespace string
	Name      string
	Code      int
	At        time.Time
}

// AuditLog is the file that the API server writes when Options.Audit is set.
func (p *Plane) AuditLog() string { return p.path("audit.log") }

// Requests reads the audit log from an offset in bytes and returns the offset of its end.
func (p *Plane) Requests(from int64) ([]Request, int64, error) {
	f, err := os.Open(p.AuditLog())
	if err != nil {
		return nil, from, fmt.Errorf("read the audit log: %w", err)
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, from, fmt.Errorf("read the audit log: %w", err)
	}
	var out []Request
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			return out, from, nil // half a line is read the next time
		}
		if err != nil {
			return nil, from, fmt.Errorf("read the audit log: %w", err)
		}
		from += int64(len(line))
		var e struct {
			Verb string `json:"verb"`
			User struct {
				Username string `json:"username"`
			} `json:"user"`
			ObjectRef struct {
				Resource    string `json:"resource"`
				APIGroup    string `json:"apiGroup"`
				Subresource string `json:"subresource"`
				Namespace   string `json:"namespace"`
				Name        string `json:"name"`
			} `json:"objectRef"`
			ResponseStatus struct {
				Code int `json:"code"`
			} `json:"responseStatus"`
			StageTimestamp time.Time `json:"stageTimestamp"`
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, from, fmt.Errorf("read the audit log: %w", err)
		}
		resource := e.ObjectRef.Resource
		if e.ObjectRef.APIGroup != "" {
			resource += "." + e.ObjectRef.APIGroup
		}
		if e.ObjectRef.Subresource != "" {
			resource += "/" + e.ObjectRef.Subresource
		}
		out = append(out, Request{
			Verb: e.Verb, User: e.User.Username, Resource: resource, Namespace: e.ObjectRef.Namespace,
			Name: e.ObjectRef.Name, Code: e.ResponseStatus.Code, At: e.StageTimestamp,
		})
	}
}
