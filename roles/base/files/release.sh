#!/bin/sh
# Runs on the host and changes nothing: "release: CODENAME"; "from: CODENAME" where an upgrade from there has begun and was not proven; and
# "obstacle: TEXT" for what would stop one.
# shellcheck source=/dev/null
. /etc/os-release
echo "release: $VERSION_CODENAME"
! [ -e /var/lib/clawdbot/upgrading ] || echo "from: $(cat /var/lib/clawdbot/upgrading)"
held=$(apt-mark showhold | tr '\n' ' ')
[ -z "$held" ] || echo "obstacle: apt holds packages back: $held(apt-mark unhold NAME)"
for folder in /usr /var; do
    free=$(df --output=avail --block-size=1M "$folder" | tail -n 1)
    [ "$free" -ge 2000 ] || echo "obstacle: $folder has $free MB free, and the packages need up to 2000"
done
