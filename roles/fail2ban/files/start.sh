#!/bin/sh
# Runs on the host, as root; arguments are the logs of the jails. A missing log file stops all jails, so they are there first, as Nginx
# itself would make them. Fail2ban reports readiness before it has read its jails, and systemd calls a dead one a success: the answer to
# "ping" is the proof.
for log in "$@"; do
    [ -e "$log" ] || { install -d -m 0755 "$(dirname "$log")"; install -m 0640 -o root -g adm /dev/null "$log"; }
done
fail2ban-client --test
systemctl is-enabled --quiet fail2ban.service || systemctl enable --quiet fail2ban.service # slow: it asks for init scripts
fail2ban-client reload || systemctl restart fail2ban.service # no answer: it is not running
tries=50
until fail2ban-client ping >/dev/null 2>&1 && nft list tables >/dev/null; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { journalctl --unit=fail2ban --lines=20 --output=cat >&2; exit 1; }
    sleep 0.2
done
