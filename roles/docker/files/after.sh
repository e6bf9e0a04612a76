#!/bin/sh
# Runs on the host, as root, when Docker has stopped: what it leaves in the kernel goes, and containerd, unless somebody else uses that.
pgrep '^containerd-shim' >/dev/null || systemctl disable --quiet --now containerd.service
! ip link show docker0 >/dev/null 2>&1 || ip link delete docker0
for program in iptables ip6tables; do
    command -v "$program-save" >/dev/null || continue
    family=ip
    [ "$program" = iptables ] || family=ip6
    for table in filter nat raw mangle; do
        # Chains with an underscore are those of an engine of which this host is a container itself.
        nft list table "$family" "$table" 2>/dev/null | grep -qE 'docker0|DOCKER( |-|$)' || continue
        "$program-save" -t "$table" | grep -vE 'docker0|DOCKER( |-|$)' | "$program-restore" -T "$table"
        # A table in which only Docker's policy is left.
        "$program-save" -t "$table" | grep -q '^-A' || nft delete table "$family" "$table"
    done
done
