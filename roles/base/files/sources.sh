#!/bin/sh
# Runs on the host and changes nothing: waits for cloud-init, then says the release's code name; where apt knows no source of them, "no security
# updates"; where an installation was cut off, "interrupted".
if command -v cloud-init >/dev/null; then
    timeout 600 cloud-init status --wait
    case $? in
        0 | 2) ;; # done; done with complaints
        *)
            cloud-init status --long >&2
            exit 1
            ;;
    esac
fi
# shellcheck source=/dev/null
. /etc/os-release
echo "$VERSION_CODENAME"
cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null |
    grep -qE '^[^#]*-security' || echo 'no security updates'
# Where dpkg keeps what it has not finished writing down, and packages that are half there.
[ -z "$(ls /var/lib/dpkg/updates)$(dpkg --audit)" ] || echo interrupted
