#!/bin/sh
# Runs on the host, as root. Arguments: the name whose lineage is kept, or nothing, and "acme" if certificates are renewed here. Lineages of
# others stay, and are renewed as before. Says "changed" if there was something to do.
keep=$1 kind=$2
command -v certbot >/dev/null || exit 0
foreign=
for settings in /etc/letsencrypt/renewal/*.conf; do
    [ -e "$settings" ] || continue
    lineage=$(basename "$settings" .conf)
    if ! grep -qx '[a-z]*_hook = /usr/local/sbin/clawdbot-certificate' "$settings"; then
        foreign=yes
    elif [ "$lineage" != "$keep" ]; then
        certbot delete --non-interactive --cert-name "$lineage" >/dev/null
        echo changed
    fi
done
[ "$kind" != acme ] || exit 0
if [ -z "$foreign" ] && systemctl is-enabled --quiet certbot.timer; then
    systemctl disable --quiet --now certbot.timer
    echo changed
fi
if [ -e /etc/systemd/system/certbot.service.d/clawdbot.conf ]; then
    rm -rf /etc/nginx/tls/certbot.env /var/www/acme
    rm /etc/systemd/system/certbot.service.d/clawdbot.conf
    rmdir --ignore-fail-on-non-empty /etc/systemd/system/certbot.service.d
    systemctl daemon-reload
    [ ! -e /usr/local/sbin/clawdbot-nginx ] || /usr/local/sbin/clawdbot-nginx apply # knows each file of its folder
    echo changed
fi
