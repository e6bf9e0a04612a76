#!/bin/sh
# Runs on the host and changes nothing: waits for cloud-init, and for an upgrade of Debian that has lost its controller, then says the release's
# code name; "no security updates" where the sources the host came with have none; "ours: FILE" for what the role has written; "interrupted"
# where an installation was cut off; and what went wrong with cloud-init after "cloud-init: ".
if command -v cloud-init >/dev/null; then
    timeout 600 cloud-init status --wait >/dev/null || outcome=$?
    case ${outcome-0} in
        0 | 2) ;; # done; done with complaints
        124) failure='still at work after ten minutes' ;;
        *) failure=$(cloud-init status --long | tr '\n' ' ') ;; # one of its modules; the host may be as it should for all that
    esac
fi
[ ! -e /run/clawdbot-upgrade.lock ] || flock /run/clawdbot-upgrade.lock true
# shellcheck source=/dev/null
. /etc/os-release
echo "$VERSION_CODENAME"
[ -z "${failure-}" ] || echo "cloud-init: $failure"
own=/etc/apt/sources.list.d/clawdbot
set -- /etc/apt/sources.list* /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources /etc/apt/sources.list.d/*.disabled
for list; do
    case $list in "$own"*) ;; *) [ ! -f "$list" ] || cat "$list" ;; esac
done | grep -qE '^[^#]*-security' || echo 'no security updates'
for list in "$own".sources "$own"-security.list; do
    [ ! -e "$list" ] || echo "ours: $list"
done
for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    [ -s "$list" ] || [ ! -e "$list.disabled" ] || echo "ours: $list.disabled"
done
for file in /etc/apt/auth.conf.d/clawdbot.conf /etc/apt/apt.conf.d/51clawdbot-proxy /usr/local/libexec/clawdbot-apt-proxy /etc/pip.conf /etc/npmrc; do
    ! grep -qsF 'Ansible managed: role base' "$file" || echo "ours: $file"
done
# Where dpkg keeps what it has not finished writing down, and packages that are half there.
[ -z "$(ls /var/lib/dpkg/updates)$(dpkg --audit)" ] || echo interrupted
