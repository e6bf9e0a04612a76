#!/bin/sh
# Runs on the host, as root: keeps the ruleset that is loaded, also over a reboot. Argument: the address of the controller, or nothing.
controller=$1
state=/var/lib/clawdbot/firewall
systemctl stop clawdbot-firewall-rollback.timer 2>/dev/null || true # it may just have fired
while systemctl is-active --quiet clawdbot-firewall-rollback.service; do sleep 0.2; done
if [ ! -e "$state/candidate.nft" ]; then
    echo 'the confirmation came too late' >&2
    exit 1
fi
[ ! -e "$state/before/nftables.conf" ] || cp -a /etc/nftables.conf /etc/nftables.conf.before-clawdbot
install -d -m 0700 /etc/nftables.kept
for table in "$state/kept"/*.nft; do
    [ ! -e "$table" ] || cp "$table" /etc/nftables.kept/
done
install -m 0600 "$state/candidate.nft" /etc/nftables.conf.new
mv /etc/nftables.conf.new /etc/nftables.conf
rm -rf "$state/before" "$state/kept"
# Numbers, because names depend on /etc/protocols, which comes with another package.
nft --numeric --stateless --terse list table inet clawdbot | sha256sum >"$state/rules.sha256"
# The unit of the distribution flushes the rules of everyone when it stops.
install -d -m 0755 /etc/systemd/system/nftables.service.d
cat >/etc/systemd/system/nftables.service.d/clawdbot.conf <<'END'
[Service]
ExecStartPost=-/bin/sh -c 'for table in /etc/nftables.kept/*.nft; do [ ! -e "$$table" ] || /usr/sbin/nft --file "$$table"; done'
ExecStop=
ExecStop=-/usr/sbin/nft delete table inet clawdbot
END
systemctl daemon-reload
systemctl enable --quiet --now nftables.service
# If this has just started the unit, the rules were loaded once more, without it.
case $controller in
    '') ;;
    *:*) nft add element inet clawdbot controller_6 "{ $controller }" ;;
    *) nft add element inet clawdbot controller_4 "{ $controller }" ;;
esac
