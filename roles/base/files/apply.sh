#!/bin/sh
# Runs on the host, as root: brings the files of role base into force. What a host may not do is left to the machine it runs on:
# the kernel's settings where /proc/sys is read-only, the clock without CAP_SYS_TIME.
if [ -w /proc/sys/net/core/somaxconn ]; then
    sysctl --quiet --load /etc/sysctl.d/60-clawdbot.conf
fi
# Debian hashes passwords with yescrypt; where something asks for SHA-512 it shall be slow as well.
for setting in 'SHA_CRYPT_MIN_ROUNDS 100000' 'SHA_CRYPT_MAX_ROUNDS 500000' 'PASS_MIN_DAYS 1'; do
    sed -i -E "/^#?[[:space:]]*${setting% *}\b/d" /etc/login.defs
    echo "$setting" >>/etc/login.defs
done
systemctl restart systemd-journald.service
# systemd starts services with the new locale.
systemctl set-environment "$(grep '^LANG=' /etc/default/locale)"

# Its helper that delays a shutdown asks logind once a second, for ever where there is none.
if [ "$(systemctl is-enabled systemd-logind.service 2>/dev/null)" = masked ]; then
    systemctl disable --quiet --now unattended-upgrades.service
fi

has_capability() { [ "$((0x$(sed -n 's/^CapEff:[[:space:]]*//p' /proc/self/status) >> $1 & 1))" -eq 1 ]; }
cap_sys_time=25
systemctl enable --quiet chrony.service
if has_capability "$cap_sys_time"; then
    systemctl restart chrony.service
    tries=50
    until chronyc -n sources >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { journalctl --unit=chrony --lines=20 --output=cat >&2; exit 1; }
        sleep 0.2
    done
fi
