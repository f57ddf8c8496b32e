#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs what the lab and the tests need from the distribution, and only what is
# missing. On a system without apt it lists what to install and fails.
set -euo pipefail

# package:command that proves it (empty command: ask dpkg only)
needs=(
  iproute2:ip nftables:nft iptables:iptables iputils-arping:arping iputils-ping:ping ndisc6:ndisc6
  ipvsadm:ipvsadm ipset:ipset curl:curl jq:jq zsh:zsh tcpdump:tcpdump conntrack:conntrack
  pkg-config:pkg-config gcc:gcc ethtool:ethtool procps:ps git:git ca-certificates:
  libc6-dev: libseccomp-dev: bird2:bird frr:vtysh
)

# Where the kernel has no ip_vs, the tests that need it run in a small virtual machine.
if ! [ -e /proc/net/ip_vs ] && ! modprobe -q ip_vs 2>/dev/null; then
  needs+=(qemu-system-x86:qemu-system-x86_64 kmod:depmod)
fi

if ! command -v go >/dev/null; then
  echo "deps: Go is missing; install Go 1.26 or later and put it on PATH" >&2
  exit 1
fi

have_apt=0
command -v apt-get >/dev/null && command -v dpkg-query >/dev/null && have_apt=1

missing=()
for entry in "${needs[@]}"; do
  package=${entry%%:*}
  command=${entry#*:}
  if [ "$have_apt" = 1 ]; then
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
  elif [ -n "$command" ]; then
    command -v "$command" >/dev/null || missing+=("$package (command $command)")
  fi
done

if [ ${#missing[@]} = 0 ]; then
  echo "deps: everything needed is installed"
  exit 0
fi
if [ "$have_apt" = 0 ]; then
  echo "deps: this is not a Debian system; install what gives these, by Debian's names:" >&2
  printf '  %s\n' "${missing[@]}" >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  echo "deps: missing: ${missing[*]}" >&2
  echo "deps: run as root, or: apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
echo "deps: installing ${missing[*]}"
apt-get update -qq

# The tests start routers of their own, each in a network namespace. Debian would start one on
# this machine, now and at each boot.
routers=()
for package in "${missing[@]}"; do
  case $package in
    bird2) routers+=(bird) ;;
    frr) routers+=(frr) ;;
  esac
done
if [ ${#routers[@]} != 0 ] && ! [ -e /usr/sbin/policy-rc.d ]; then
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d # "forbidden by policy"
  chmod 755 /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
fi
apt-get install -y -qq --no-install-recommends "${missing[@]}"
if [ ${#routers[@]} != 0 ] && [ -d /run/systemd/system ]; then
  systemctl disable --quiet "${routers[@]}"
  echo "deps: the services ${routers[*]} are not enabled; systemctl enable --now starts them"
fi
