#!/bin/sh
# Debian 13 behind a forwarded port; cloud-init is done, and somebody has set up ufw.
set -eu
printf '#!/bin/sh\nexit 0\n' >/usr/bin/cloud-init
chmod 755 /usr/bin/cloud-init
cp --archive /usr/local/share/package-lists/. /var/lib/apt/lists/
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends ufw >/dev/null
ufw allow 22/tcp >/dev/null
ufw --force enable >/dev/null
