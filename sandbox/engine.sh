#!/usr/bin/env bash
# Installs the Docker engine where it is missing, starts it where it is not running (systemd or not),
# and lets the calling user talk to it. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")"
# shellcheck source=sandbox/lib.sh
. ./lib.sh

# Program and pid file of each daemon.
declare -A pid_files=([dockerd]=/var/run/docker.pid [containerd]=/var/run/docker/containerd/containerd.pid)
log_file=/var/log/dockerd.log

engine_answers() { as_root docker info >/dev/null 2>&1; }

start_engine() {
    if [ -d /run/systemd/system ]; then
        as_root systemctl enable --now docker.service
        return
    fi
    # A daemon that was killed leaves its pid file behind; a new one takes whoever has that pid by now for its own.
    local program file
    for program in "${!pid_files[@]}"; do
        file=${pid_files[$program]}
        if as_root test -e "$file" && [ "$(cat "/proc/$(as_root cat "$file")/comm" 2>/dev/null)" != "$program" ]; then
            as_root rm -f "$file"
        fi
    done
    as_root sh -c "nohup setsid dockerd >>$log_file 2>&1 </dev/null &"
}

# What a daemon leaves in the kernel when it and its data are removed by force: bridges that no network knows, and rules that
# masquerade their subnet. A new network with such a subnet would lose its packets, or the addresses of their senders.
clear_leftovers() {
    local networks bridge rule
    networks=$(as_root docker network ls --quiet --no-trunc | cut -c 1-12)
    for bridge in /sys/class/net/br-*; do
        bridge=${bridge##*/}
        [[ $bridge =~ ^br-([0-9a-f]{12})$ ]] || continue
        if ! grep -qx "${BASH_REMATCH[1]}" <<<"$networks"; then
            as_root ip link delete "$bridge"
        fi
    done
    { as_root iptables -t nat -S POSTROUTING 2>/dev/null || true; } | while read -r _ rule; do
        if [[ $rule =~ \ br-([0-9a-f]{12})\  ]] && ! grep -qx "${BASH_REMATCH[1]}" <<<"$networks"; then
            # shellcheck disable=SC2086 # the rule is a list of words
            as_root iptables -t nat -D $rule
        fi
    done
}

if ! command -v dockerd >/dev/null && ! engine_answers; then
    apt_install docker.io iptables iproute2
fi
if ! engine_answers; then
    say 'Starting the Docker engine'
    start_engine
    for _ in $(seq 60); do
        engine_answers && break
        sleep 1
    done
    engine_answers || die "the Docker engine did not start within 60 s; look into $log_file or 'journalctl -u docker'"
    clear_leftovers
fi
if ! docker info >/dev/null 2>&1; then
    apt_install acl
    as_root setfacl -m "u:$(id -un):rw" /var/run/docker.sock
fi

# Every host runs a systemd, and each of those takes a handful of inotify instances of the one kernel; the default of 128
# is used up by some twenty hosts, and the next one dies without a word. Lasts until the next boot.
instances=/proc/sys/fs/inotify/max_user_instances
if [ "$(cat "$instances")" -lt 1024 ]; then
    as_root sh -c "echo 1024 >$instances"
fi
