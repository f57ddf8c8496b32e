// SPDX-License-Identifier: Apache-2.0

package top_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/agents"
	"github.com/fairlead-lb/fairlead/cmd/kubectl-fairlead/internal/top"
	"github.com/fairlead-lb/fairlead/loadbalancer/traffic"
)

func flow(connections, in, out uint64) traffic.Flow {
	c := traffic.Counts{Connections: connections, BytesIn: in, BytesOut: out}
	return traffic.Flow{Total: c, PerSecond: c}
}

func web(address string, connections uint64, backends ...traffic.Backend) traffic.Server {
	return traffic.Server{
		Key:       traffic.Key{Namespace: "shop", Service: "web", Address: address, Family: "IPv4", Protocol: "TCP", Port: 80},
		Scheduler: "rr", Flow: flow(connections, 1536, 3<<20), Backends: backends,
	}
}

func input() top.Input {
	p1 := traffic.Backend{Address: "10.244.1.2:8080", Weight: 1, Active: 2, Inactive: 1, Flow: flow(3, 512, 512)}
	p2 := traffic.Backend{Address: "10.244.2.2:8080", Weight: 1, Active: 1, Flow: flow(2, 512, 512)}
	drained := p2
	drained.Weight = 0
	dns := web("192.0.2.2", 1)
	dns.Namespace, dns.Service, dns.Protocol, dns.Port = "infra", "dns", "UDP", 53
	return top.Input{
		Reports: []traffic.Report{
			{
				Node: "n1", Forwarding: "ipvs", Announced: 1, Table: traffic.Table{Buckets: 4096, Entries: 7},
				Servers: []traffic.Server{dns, web("", 4, p1, p2), web("192.0.2.1", 5, p1, p2)},
			},
			{Node: "n2", Forwarding: "ipvs", Table: traffic.Table{Buckets: 4096}, Servers: []traffic.Server{web("192.0.2.1", 6, p1, drained)}},
			{Node: "n3", Forwarding: "kube-proxy", Reason: "KernelWithoutIPVS", Announced: 2},
		},
		Gaps: []agents.Gap{{Node: "n4", Cause: "its agent does not run"}},
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	shop := input()
	shop.Namespace, shop.Gaps = "shop", nil
	for name, c := range map[string]struct{ got, want string }{
		"nodes": {top.ByNode(input()).Text(), `NODE   FORWARDING                       ANNOUNCED   SERVERS   ACTIVE   INACTIVE   CONN/S   IN/S   OUT/S   TABLE
n1     ipvs                             1           3         6        2          10       4.5K   9.0M    7/4096
n2     ipvs                             0           1         3        1          6        1.5K   3.0M    0/4096
n3     kube-proxy (KernelWithoutIPVS)   2           0         0        0          0        0B     0B      -
n4 is not in it: its agent does not run
`},
		"services": {top.ByService(input()).Text(), `NAMESPACE   SERVICE   ADDRESS          PORT     SCHEDULER   NODES   ACTIVE   INACTIVE   CONNECTIONS   CONN/S   IN/S   OUT/S
infra       dns       192.0.2.2        53/UDP   rr          1       0        0          1             1        1.5K   3.0M
shop        web       (cluster IPv4)   80/TCP   rr          1       3        1          4             4        1.5K   3.0M
shop        web       192.0.2.1        80/TCP   rr          2       6        2          11            11       3.0K   6.0M
n4 is not in it: its agent does not run
`},
		"backends of a namespace": {top.ByBackend(shop).Text(), `NAMESPACE   SERVICE   ADDRESS          PORT     BACKEND           WEIGHT   ACTIVE   INACTIVE   CONNECTIONS   CONN/S   IN/S   OUT/S
shop        web       (cluster IPv4)   80/TCP   10.244.1.2:8080   1        2        1          3             3        512B   512B
shop        web       (cluster IPv4)   80/TCP   10.244.2.2:8080   1        1        0          2             2        512B   512B
shop        web       192.0.2.1        80/TCP   10.244.1.2:8080   1        4        2          6             6        1.0K   1.0K
shop        web       192.0.2.1        80/TCP   10.244.2.2:8080   0-1      2        0          4             4        1.0K   1.0K
`},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Programs read the fields by these names, at the top of each line.
func TestJSON(t *testing.T) {
	t.Parallel()
	const (
		key    = `"namespace":"shop","service":"web","address":"192.0.2.1","family":"IPv4","protocol":"TCP","port":80,`
		counts = `{"connections":5,"packetsIn":0,"packetsOut":0,"bytesIn":1536,"bytesOut":3145728}`
		one    = `{"connections":3,"packetsIn":0,"packetsOut":0,"bytesIn":512,"bytesOut":512}`
	)
	p := traffic.Backend{Address: "10.244.1.2:8080", Weight: 1, Active: 2, Inactive: 1, Flow: flow(3, 512, 512)}
	in := top.Input{Reports: []traffic.Report{{Node: "n1", Servers: []traffic.Server{web("192.0.2.1", 5, p)}}}}
	for name, c := range map[string]struct {
		got  any
		want string
	}{
		"what an agent tells": {in.Reports[0].Servers, `[{` + key + `"scheduler":"rr","total":` + counts + `,"perSecond":` + counts +
			`,"backends":[{"address":"10.244.1.2:8080","weight":1,"active":2,"inactive":1,"total":` + one + `,"perSecond":` + one + `}]}]`},
		"services": {top.ByService(in), `{"services":[{` + key + `"scheduler":"rr","nodes":1,"active":2,"inactive":1,"total":` + counts + `,"perSecond":` + counts + `}]}`},
		"backends": {top.ByBackend(in), `{"backends":[{` + key + `"backend":"10.244.1.2:8080","minWeight":1,"maxWeight":1,"active":2,"inactive":1,"total":` +
			one + `,"perSecond":` + one + `}]}`},
	} {
		got, err := json.Marshal(c.got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
