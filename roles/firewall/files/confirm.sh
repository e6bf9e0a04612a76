#!/bin/sh
# Runs on the host, as root: keeps the ruleset that is loaded, also over a reboot.
state=/var/lib/clawdbot/firewall
systemctl stop clawdbot-firewall-rollback.timer 2>/dev/null || true # it may just have fired
while systemctl is-active --quiet clawdbot-firewall-rollback.service; do sleep 0.2; done
if [ ! -e "$state/candidate.nft" ]; then
    echo 'the confirmation came too late' >&2
    exit 1
fi
install -m 0600 "$state/candidate.nft" /etc/nftables.conf.new
mv /etc/nftables.conf.new /etc/nftables.conf
# Numbers, because names depend on /etc/protocols, which comes with another package.
nft --numeric --stateless --terse list table inet clawdbot | sha256sum >"$state/rules.sha256"
# The unit of the distribution flushes the rules of everyone when it stops.
install -d -m 0755 /etc/systemd/system/nftables.service.d
cat >/etc/systemd/system/nftables.service.d/clawdbot.conf <<END
[Service]
ExecStop=
ExecStop=-/usr/sbin/nft delete table inet clawdbot
END
systemctl daemon-reload
systemctl enable --quiet --now nftables.service
