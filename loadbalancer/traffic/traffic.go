// SPDX-License-Identifier: Apache-2.0

// Package traffic is what a node agent tells of the packets that its node forwards, as
// JSON at /debug/traffic: the contract between the agent, which fills it in, and
// `kubectl fairlead top`, which reads it. It holds figures and decides nothing.
package traffic

// Path is where an agent serves its [Report], on its health port.
const Path = "/debug/traffic"

// Counts are connections, packets and bytes; in is what clients send.
type Counts struct {
	Connections uint64 `json:"connections"`
	PacketsIn   uint64 `json:"packetsIn"`
	PacketsOut  uint64 `json:"packetsOut"`
	BytesIn     uint64 `json:"bytesIn"`
	BytesOut    uint64 `json:"bytesOut"`
}

// Add adds other counts.
func (c *Counts) Add(o Counts) {
	c.Connections += o.Connections
	c.PacketsIn += o.PacketsIn
	c.PacketsOut += o.PacketsOut
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
}

// Flow is what went through a server since it was made, and goes through it each second, as
// of the kernel's last estimate, which is up to two seconds old.
type Flow struct {
	Total     Counts `json:"total"`
	PerSecond Counts `json:"perSecond"`
}

// Add adds another flow.
func (f *Flow) Add(o Flow) {
	f.Total.Add(o.Total)
	f.PerSecond.Add(o.PerSecond)
}

// Backend is one target of a [Server].
type Backend struct {
	// Address is that of the pod or node, with the port.
	Address string `json:"address"`
	Weight  uint32 `json:"weight"`
	// Active connections are established, Inactive ones begin or end, or are of UDP.
	Active   uint32 `json:"active"`
	Inactive uint32 `json:"inactive"`
	Flow
}

// Key is one port of a Service at one address: what it is that nodes forward, and all of
// them call alike.
type Key struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	// Address is empty for what comes from within the cluster to any of the Service's
	// addresses of one IP family.
	Address  string `json:"address,omitempty"`
	Family   string `json:"family"`
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port"`
}

// Server is one port of a Service as the node forwards it.
type Server struct {
	Key
	// Scheduler by its name in the kernel.
	Scheduler string `json:"scheduler"`
	Flow
	Backends []Backend `json:"backends"`
}

// Connections are those of all backends.
func (s *Server) Connections() (active, inactive uint64) {
	for i := range s.Backends {
		active += uint64(s.Backends[i].Active)
		inactive += uint64(s.Backends[i].Inactive)
	}
	return active, inactive
}

// Table is the kernel's table of connections, which all of its virtual servers share.
type Table struct {
	// Buckets of the table, set when ip_vs was loaded; Entries in use.
	Buckets uint64 `json:"buckets"`
	Entries uint64 `json:"entries"`
}

// Report is one node's.
type Report struct {
	Node string `json:"node"`
	// Forwarding, Reason and Message are those of NodeAgent.status.dataPlane.
	Forwarding string `json:"forwarding"`
	Reason     string `json:"reason,omitempty"`
	Message    string `json:"message,omitempty"`
	// Announced addresses of this node.
	Announced int   `json:"announced"`
	Table     Table `json:"table"`
	// Servers ascend by namespace, service, address and port; those for packets from within
	// the cluster are first.
	Servers []Server `json:"servers"`
}
