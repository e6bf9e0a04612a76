#!/usr/bin/env bash
# How hard a host is: a stock Debian of the same release beside a bot host of the sandbox, measured with the same tools at the same time.
# Needs the sandbox (`make demo`). Argument: the host, app1 by default. Exit status 1 if a promise is broken: Lynis 80 or better,
# nothing for ssh-audit to warn of, our own units 2.0 or better in `systemd-analyze security`.
set -euo pipefail

host=${1:-app1}
ours=clawdbot-$host
stock=clawdbot-bench-stock
tools=clawdbot-bench-tools
folder=$(mktemp -d)
trap 'docker rm --force "$stock" "$tools" >/dev/null 2>&1; rm -rf "$folder"' EXIT

if [ "$(docker inspect -f '{{.State.Running}}' "$ours" 2>/dev/null)" != true ]; then
    echo "ERROR: the sandbox host $host does not run; start the sandbox with 'make demo'" >&2
    exit 1
fi
image=$(docker inspect -f '{{.Config.Image}}' "$ours")

# A host as sandbox/tasks/hosts.yml makes it.
start() {
    docker rm --force "$1" >/dev/null 2>&1 || true # left over from a bench that was killed
    docker run --detach --name "$1" --cap-add ALL --cap-drop SYS_RESOURCE --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
        --cgroupns host --volume /sys/fs/cgroup:/sys/fs/cgroup:rw --tmpfs /run --tmpfs /run/lock --tmpfs /tmp:exec,mode=1777 "$2" >/dev/null
}

echo "Preparing a stock host and the tools (Lynis and ssh-audit of Debian 13, unpacked, not installed) ..."
start "$stock" "$image"
start "$tools" clawdbot-sandbox:debian13
docker exec "$stock" sh -euc 'ssh-keygen -A >/dev/null; until systemctl is-system-running 2>/dev/null | grep -qE "running|degraded"; do sleep 0.2; done
    systemctl reset-failed; systemctl restart ssh; apt-get update -qq'
docker exec "$tools" sh -euc 'mkdir -p /var/tmp/bench/plugins; cd /var/tmp/bench
    until apt-get update -qq 2>/dev/null; do sleep 1; done; apt-get download -qq lynis ssh-audit 2>/dev/null
    for package in *.deb; do dpkg -x "$package" deb; done
    cp -r deb/usr/share/lynis/* deb/etc/lynis/* deb/usr/sbin/lynis deb/usr/lib/python3/dist-packages/ssh_audit .; rm -rf deb ./*.deb'
docker exec "$tools" tar -C /var/tmp -c bench >"$folder/bench.tar"

# Prints "index warnings fails warns" of the container $1, whose sshd listens on port $2.
measure() {
    docker exec -i "$1" tar -C /var/tmp -x <"$folder/bench.tar"
    docker exec -w /var/tmp/bench "$1" ./lynis audit system --quick --no-colors --cronjob --logfile /var/tmp/bench/log --report-file /var/tmp/bench/report >/dev/null 2>&1
    docker exec "$1" cat /var/tmp/bench/report >"$folder/$1.lynis"
    # The exit status says whether there is something to complain about.
    docker exec -w /var/tmp/bench "$1" python3 -m ssh_audit.ssh_audit --no-colors --skip-rate-test --port "$2" 127.0.0.1 >"$folder/$1.ssh" || true
    docker exec "$1" rm -rf /var/tmp/bench
    printf '%s %s %s %s\n' \
        "$(sed -n 's/^hardening_index=//p' "$folder/$1.lynis")" "$(grep -c '^warning' "$folder/$1.lynis" || true)" \
        "$(grep -c '\[fail\]' "$folder/$1.ssh" || true)" "$(grep -c '\[warn\]' "$folder/$1.ssh" || true)"
}

echo "Measuring (two minutes each) ..."
read -r stock_index stock_warnings stock_fails stock_warns < <(measure "$stock" 22)
port=$(docker exec "$ours" sshd -T | sed -n 's/^port //p')
read -r our_index our_warnings our_fails our_warns < <(measure "$ours" "$port")

line() { printf '%-44s %10s %10s\n' "$@"; }
echo
line "$image" stock "$host"
line 'Lynis hardening index (higher is better)' "$stock_index" "$our_index"
line 'Lynis warnings' "$stock_warnings" "$our_warnings"
line 'ssh-audit: failures' "$stock_fails" "$our_fails"
line 'ssh-audit: warnings' "$stock_warns" "$our_warns"
exposed() { docker exec "$1" sh -c 'nft list chain inet clawdbot input 2>/dev/null | grep -q "policy drop" && echo drop || echo accept'; }
line 'inbound packets by default' "$(exposed "$stock")" "$(exposed "$ours")"
worst=0.0
while read -r unit; do
    score=$(docker exec "$ours" systemd-analyze security --no-pager "$unit" | sed -n 's/.*Overall exposure level for .*: \([0-9.]*\) .*/\1/p')
    line "systemd-analyze security $unit" - "$score"
    worst=$(printf '%s\n' "$worst" "$score" | sort -n | tail -n 1)
done < <(docker exec "$ours" systemctl list-units --all --plain --no-legend --type=service 'clawdbot*' | awk '$2 == "loaded" && !/-rollback/ {print $1}')

if [ "$our_index" -lt 80 ] || [ "$our_fails" -gt 0 ] || [ "$our_warns" -gt 0 ] || awk "BEGIN {exit !($worst > 2.0)}"; then
    echo "A promise is broken." >&2
    cat "$folder/$ours.lynis" >&2
    exit 1
fi
