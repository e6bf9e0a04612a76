#!/bin/sh
# Runs on the host, as root: starts chrony with the sources the host came with and those of the role. The clock is left alone without
# CAP_SYS_TIME: it is that of the machine this host runs on.
configuration=/etc/chrony/chrony.conf kept=/etc/chrony/sources.d/clawdbot-kept.sources

# Earlier versions of the role replaced this file.
! head -n 1 "$configuration" | grep -qF 'Ansible managed: role base' || cp /usr/share/chrony/chrony.conf "$configuration"
# What chrony has taken the place of may know the servers of the provider, and a private network has no others.
{
    cat /etc/ntp.conf /etc/ntpsec/ntp.conf 2>/dev/null |
        sed -nE 's/^[[:space:]]*(server|pool)[[:space:]]+([^[:space:]]+).*/\1 \2 iburst/p'
    sed -nE 's/^[[:space:]]*(servers?)[[:space:]]+([^[:space:]]+).*/server \2 iburst/p' /etc/openntpd/ntpd.conf 2>/dev/null
    cat /etc/systemd/timesyncd.conf /etc/systemd/timesyncd.conf.d/*.conf 2>/dev/null |
        sed -n 's/^NTP=//p' | tr ' ' '\n' | sed -n 's/..*/server & iburst/p'
} | grep -vE '[.]debian[.]pool[.]ntp[.]org|server 127[.]127[.]' | sort -u >"$kept.new" || true # none, most of the time
if [ -s "$kept.new" ]; then mv "$kept.new" "$kept"; else rm -f "$kept" "$kept.new"; fi
# A file of the provider's own may not read the folder of the sources.
grep -qE '^[[:space:]]*sourcedir[[:space:]]+/etc/chrony/sources[.]d' "$configuration" ||
    echo 'sourcedir /etc/chrony/sources.d' >>"$configuration"

has_capability() { [ "$((0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> $1 & 1))" -eq 1 ]; }
cap_sys_time=25
systemctl is-enabled --quiet chrony.service || systemctl enable --quiet chrony.service
has_capability "$cap_sys_time" || exit 0
systemctl restart chrony.service
tries=50
until chronyc -n sources >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { journalctl --unit=chrony --lines=20 --output=cat >&2; exit 1; }
    sleep 0.2
done
