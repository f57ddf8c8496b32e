// SPDX-License-Identifier: Apache-2.0

package metrics_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
	"github.com/fairlead-lb/fairlead/nodeagent/internal/metrics"
)

func TestTraffic(t *testing.T) {
	t.Parallel()
	const beyond32 = 1 << 40
	var fails error
	read := func() (traffic.Report, error) {
		return traffic.Report{Table: traffic.Table{Buckets: 4096, Entries: 3}, Servers: []traffic.Server{{
			Key: traffic.Key{Namespace: "shop", Service: "web", Address: "192.0.2.1", Family: "IPv4", Protocol: "TCP", Port: 80},
			Flow: traffic.Flow{
				Total: traffic.Counts{Connections: 5, BytesOut: beyond32}, PerSecond: traffic.Counts{Connections: 2},
			},
			Backends: []traffic.Backend{{Address: "10.0.0.1:80", Weight: 0, Active: 2, Inactive: 1, Flow: traffic.Flow{Total: traffic.Counts{Connections: 5}}}},
		}}}, fails
	}
	for _, backends := range []bool{false, true} {
		reg := prometheus.NewPedanticRegistry()
		if err := metrics.NewTraffic(reg, read, backends); err != nil {
			t.Fatal(err)
		}
		const labels = `{address="192.0.2.1",family="IPv4",namespace="shop",port="80",protocol="TCP",service="web"}`
		want := `# HELP fairlead_agent_connection_table_entries Entries of the kernel's table of IPVS connections, all virtual servers' together.
# TYPE fairlead_agent_connection_table_entries gauge
fairlead_agent_connection_table_entries 3
# HELP fairlead_agent_service_active_connections Established connections.
# TYPE fairlead_agent_service_active_connections gauge
fairlead_agent_service_active_connections` + labels + ` 2
# HELP fairlead_agent_service_bytes_out_total Number of bytes to clients that this node forwarded.
# TYPE fairlead_agent_service_bytes_out_total counter
fairlead_agent_service_bytes_out_total` + labels + ` 1.099511627776e+12
# HELP fairlead_agent_service_connections_per_second Number of connections each second, by the kernel's estimate.
# TYPE fairlead_agent_service_connections_per_second gauge
fairlead_agent_service_connections_per_second` + labels + ` 2
`
		err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fairlead_agent_connection_table_entries", "fairlead_agent_service_active_connections",
			"fairlead_agent_service_bytes_out_total", "fairlead_agent_service_connections_per_second")
		if err != nil {
			t.Error(err)
		}
		if n, err := testutil.GatherAndCount(reg, "fairlead_agent_backend_connections_total", "fairlead_agent_backend_weight"); err != nil || n != map[bool]int{true: 2}[backends] {
			t.Errorf("with backends %t: %d series of backends, %v", backends, n, err)
		}
	}
	fails = errors.New("the kernel has no ip_vs")
	reg := prometheus.NewPedanticRegistry()
	if err := metrics.NewTraffic(reg, read, true); err != nil {
		t.Fatal(err)
	}
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 0 {
		t.Errorf("where it cannot read: %d series, %v", n, err)
	}
}
