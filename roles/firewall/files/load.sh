#!/bin/sh
# Runs on the host, as root: loads the ruleset given on standard input. Unless it is confirmed within the given number of
# seconds, the host goes back to /etc/nftables.conf, which holds the ruleset that was confirmed last.
state=/var/lib/clawdbot/firewall
install -d -m 0700 "$state"
systemctl stop clawdbot-firewall-rollback.timer 2>/dev/null || true # usually there is none
while systemctl is-active --quiet clawdbot-firewall-rollback.service; do sleep 0.2; done

cat >"$state/candidate.nft"
nft --check --file "$state/candidate.nft"
# The file of the distribution would flush the rules of everyone; before ours there was no table at all.
cat >"$state/rollback" <<'END'
set -eu
if grep -q '^table inet clawdbot' /etc/nftables.conf; then
    nft --file /etc/nftables.conf
else
    printf 'table inet clawdbot\ndelete table inet clawdbot\n' | nft --file -
fi
rm -f /var/lib/clawdbot/firewall/candidate.nft
END
systemd-run --quiet --unit=clawdbot-firewall-rollback --collect --on-active="$1s" --timer-property=AccuracySec=500ms \
    /bin/sh "$state/rollback"
nft --file "$state/candidate.nft"
