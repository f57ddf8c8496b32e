#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Removes Fairlead from a cluster in the order that leaves nothing behind, then checks.
#
#   deploy/uninstall.sh [--services delete|keep]
#
# --services says what becomes of the Services of type LoadBalancer that Fairlead
# serves (without a class, unless services.classless is false, and of its own class);
# without it the script stops if there are any.
#   delete  delete them, while the controller still runs to clean up after them
#   keep    leave them, without address, for the next load balancer to pick up
# Retained addresses are given up. Services with spec.externalIPs keep them: kube-proxy
# serves them, but no node answers for them any more.
#
# KUBECTL is the command to use, arguments included (default: kubectl). CLASSLESS=true or
# CLASSLESS=false says what services.classless was, if the configuration is gone already.
# Not touched: metallb.io objects and CRDs, and the provider ID of nodes, which
# Kubernetes does not let anybody change.
set -euo pipefail

read -r -a kubectl <<<"${KUBECTL:-kubectl}"
namespace=fairlead-system
# The stock service controller's, on Services without a class, and ours on those with one.
stock_finalizer=service.kubernetes.io/load-balancer-cleanup
own_finalizer=fairlead.dev/load-balancer
services=ask

while [ $# -gt 0 ]; do
  case $1 in
  --services)
    services=${2:-}
    shift 2 || { echo "uninstall: --services needs a value: delete or keep" >&2; exit 2; }
    ;;
  -h | --help)
    sed -n '3,19s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  *)
    echo "uninstall: unknown argument $1 (see --help)" >&2
    exit 2
    ;;
  esac
done
case $services in
ask | delete | keep) ;;
*) echo "uninstall: --services is delete or keep, not $services" >&2; exit 2 ;;
esac

k() { "${kubectl[@]}" "$@"; }
say() { echo "uninstall: $*"; }

k version -o json >/dev/null || { say "cannot reach the cluster" >&2; exit 1; }

# What services.class and services.classless of the controller's configuration say.
config=$(k -n $namespace get configmap fairlead-cloud-config -o go-template='{{index .data "cloud-config.yaml"}}' 2>/dev/null || true)
setting() {
  sed -nE "/^[[:space:]]*#/d; s/^(.*[{,[:space:]])?$1:[[:space:]]*[\"']?([^\"'#,}[:space:]]+).*/\2/p" <<<"$config" | head -n 1
}
class=$(setting class)
class=${class:-fairlead.dev/lb}
classless=$(setting classless)
[ -n "$config" ] || classless=${CLASSLESS:-unknown}
classless=${classless:-true}
case ${classless,,} in
true | yes | on | y) classless=true ;;
false | no | off | n) classless=false ;;
unknown) ;;
*) say "services.classless is true or false, not $classless" >&2; exit 2 ;;
esac

# Services that Fairlead answers for, those that still carry a finalizer after a change of
# type or class included. One "namespace name" a line.
served() {
  k get services --all-namespaces -o go-template='{{range .items}}{{$ours := false}}{{$class := or .spec.loadBalancerClass ""}}{{if and (eq .spec.type "LoadBalancer") (eq $class "'"$class"'")}}{{$ours = true}}{{end}}{{if and (eq .spec.type "LoadBalancer") (eq $class "") (eq "'"$classless"'" "true")}}{{$ours = true}}{{end}}{{range .metadata.finalizers}}{{if eq . "'$own_finalizer'"}}{{$ours = true}}{{end}}{{if and (eq . "'$stock_finalizer'") (eq $class "") (eq "'"$classless"'" "true")}}{{$ours = true}}{{end}}{{end}}{{if $ours}}{{.metadata.namespace}} {{.metadata.name}}{{"\n"}}{{end}}{{end}}'
}

# Claims in a phase, one a line; "" is every phase. Not those of external IPs: they end
# with Services that stay.
claims() {
  k get ipclaims.fairlead.dev -o go-template='{{range .items}}{{if and (ne (or .spec.sharingKey "") "spec.externalIPs") (or (eq "'"$1"'" "") (eq .spec.phase "'"$1"'"))}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}'
}

has_kind() { k get customresourcedefinition "$1.fairlead.dev" -o name >/dev/null 2>&1; }

delete_services() {
  local ns name
  if ! k -n $namespace wait --for=condition=Available --timeout=60s deployment/fairlead-controller >/dev/null; then
    say "the controller does not run, so nobody would clean up after the Services; start it, or use --services keep" >&2
    exit 1
  fi
  while read -r ns name; do
    say "deleting Service $ns/$name"
    k -n "$ns" delete service "$name" --wait=true --timeout=120s
  done <<<"$1"
  # Addresses go back only when no node answers for them any more, and retained ones only
  # when they are given up.
  local left="" retained
  for _ in $(seq 240); do
    retained=$(claims Retained)
    for name in $retained; do
      say "giving up the retained address $name"
      k delete ipclaims.fairlead.dev "$name" --ignore-not-found --wait=false
    done
    left=$(claims "")
    [ -n "$left" ] || return 0
    sleep 0.5
  done
  say "these addresses were not released within 120 s:" >&2
  echo "$left" >&2
  exit 1
}

# kube-proxy takes over before the node agents take their IPVS away: it knows addresses
# only while the status says ipMode VIP.
back_to_kube_proxy() {
  local ns name ingress found=""
  while read -r ns name; do
    ingress=$(k -n "$ns" get service "$name" -o go-template='{{range $i, $e := .status.loadBalancer.ingress}}{{if eq (or $e.ipMode "") "Proxy"}}{{$e.ip}} {{end}}{{end}}')
    [ -n "$ingress" ] || continue
    say "kube-proxy takes over Service $ns/$name"
    ingress=$(k -n "$ns" get service "$name" -o go-template='{{range $i, $e := .status.loadBalancer.ingress}}{{if $i}},{{end}}{"ip":"{{$e.ip}}","ipMode":"VIP"}{{end}}')
    k -n "$ns" patch service "$name" --subresource=status --type=merge -p '{"status":{"loadBalancer":{"ingress":['"$ingress"']}}}' >/dev/null
    found=yes
  done <<<"$1"
  [ -z "$found" ] || sleep 3 # its sync period is a second
}

# Nodes whose agents did not say that they left. Their kernels may keep what an agent put
# there. One name a line.
not_left() {
  has_kind nodeagents || return 0
  k get nodeagents.fairlead.dev -o go-template='{{range .items}}{{$left := false}}{{$had := eq (or .status.dataPlane.forwarding "") "ipvs"}}{{range .status.conditions}}{{if and (eq .type "Ready") (eq .reason "Leaving")}}{{$left = true}}{{end}}{{end}}{{if and $had (not $left)}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}'
}

# Without its controller a Service's finalizer would block its deletion for ever.
release_services() {
  local ns name
  while read -r ns name; do
    say "taking the address off Service $ns/$name"
    k -n "$ns" patch service "$name" --subresource=status --type=merge -p '{"status":{"loadBalancer":{"ingress":null}}}'
    k -n "$ns" patch service "$name" --type=strategic -p '{"metadata":{"$deleteFromPrimitiveList/finalizers":["'$stock_finalizer'","'$own_finalizer'"]}}'
  done <<<"$1"
}

remove() { k delete --ignore-not-found --wait=true --timeout=120s "$@"; }

if [ "$classless" = unknown ]; then
  # A guess could take addresses and finalizers off another load balancer's Services.
  if [ "$(classless=true served)" != "$(classless=false served)" ]; then
    say "the controller's configuration is gone: set CLASSLESS=true if Fairlead served Services without a class (the default), CLASSLESS=false if it did not" >&2
    exit 2
  fi
  classless=true
fi
list=$(served)
if [ -n "$list" ] && [ "$services" = ask ]; then
  say "these Services get their addresses from Fairlead; say --services delete or --services keep:" >&2
  echo "$list" >&2
  exit 2
fi

part_of=(-l app.kubernetes.io/part-of=fairlead)
# First what could refuse a write of a Service, should its CRD be broken or gone.
say "removing the policies on Services"
remove validatingadmissionpolicybindings/fairlead-external-ips \
  validatingadmissionpolicybindings/fairlead-service-annotations \
  validatingadmissionpolicybindings/fairlead-service-annotation-hints
if [ -n "$list" ] && [ "$services" = delete ]; then
  delete_services "$list"
fi
say "stopping the controller"
remove -n $namespace deployment/fairlead-controller --cascade=foreground
if [ -n "$list" ] && [ "$services" = keep ]; then
  back_to_kube_proxy "$list"
fi
say "stopping the node agents: they withdraw what they announce, and take IPVS, table and link away"
remove -n $namespace daemonset/fairlead-node-agent --cascade=foreground
if [ -n "$list" ] && [ "$services" = keep ]; then
  release_services "$list"
fi
unclean=$(not_left)
say "removing admission policies, permissions, CRDs with their objects, and the namespace"
remove validatingadmissionpolicybindings "${part_of[@]}"
remove validatingadmissionpolicies "${part_of[@]}"
for kind in loadbalancers ipclaims l2advertisements ipaddresspools bgpadvertisements bgppeers bfdprofiles communities \
  externalippolicies nodeagents; do
  if has_kind $kind; then remove customresourcedefinition/$kind.fairlead.dev; fi
done
remove clusterrolebindings "${part_of[@]}"
remove clusterroles "${part_of[@]}"
remove namespace/$namespace

left=$(
  served | while read -r ns name; do
    k -n "$ns" get service "$name" -o go-template='{{range .metadata.finalizers}}{{if or (eq . "'$stock_finalizer'") (eq . "'$own_finalizer'")}}finalizer on service/{{$.metadata.namespace}}/{{$.metadata.name}}{{"\n"}}{{end}}{{end}}{{range .status.loadBalancer.ingress}}address {{.ip}} on service/{{$.metadata.namespace}}/{{$.metadata.name}}{{"\n"}}{{end}}'
  done
  # Not api-resources: the API server's discovery lags behind the CRDs.
  k get customresourcedefinitions -o name | grep '\.fairlead\.dev$' || true
  k get namespace $namespace -o name --ignore-not-found
  k get clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings "${part_of[@]}" -o name --ignore-not-found
)
if [ -n "$left" ]; then
  say "still there:" >&2
  echo "$left" >&2
  exit 1
fi
if [ -n "$unclean" ]; then
  say "the agents of these nodes did not say that they left. Should such a node be up, run there:"
  say "nft delete table inet fairlead; ip link delete dummy-fairlead; ipvsadm --clear (if nobody else uses IPVS)"
  echo "$unclean"
fi
if [ "$classless" != true ]; then
  # Fairlead's service controller and the other cloud controller manager's use one name.
  shared=$(k get services --all-namespaces -o go-template='{{range .items}}{{if not .spec.loadBalancerClass}}{{$s := .}}{{range .metadata.finalizers}}{{if eq . "'$stock_finalizer'"}}{{$s.metadata.namespace}} {{$s.metadata.name}}{{"\n"}}{{end}}{{end}}{{end}}{{end}}')
  if [ -n "$shared" ]; then
    say "these Services carry the finalizer $stock_finalizer; it is the other cloud controller manager's to take off, and yours if there is none:"
    echo "$shared"
  fi
fi
say "done: no finalizer, object or permission of Fairlead is left"
