#!/bin/sh
# Runs on the host, as root: says "as confirmed" when the rules in the kernel are those that were confirmed last. Changes none; but the
# address given as argument, that of the controller, is not counted for a day.
controller=${1-}
[ "$(systemctl is-active clawdbot-firewall-rollback.timer)" != active ] || { echo 'not confirmed yet'; exit; }
nft list table inet clawdbot >/dev/null 2>&1 || { echo 'not loaded'; exit; }
[ "$(systemctl is-enabled nftables.service)" = enabled ] || { echo 'not loaded at boot'; exit; }
! systemctl is-active --quiet firewalld.service || { echo 'beside those of firewalld'; exit; }
! grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf || { echo 'beside those of ufw'; exit; }
nft --numeric --stateless --terse list table inet clawdbot | sha256sum --check --status /var/lib/clawdbot/firewall/rules.sha256 2>/dev/null ||
    { echo 'changed by hand'; exit; }
case $controller in
    '') ;;
    *:*) nft add element inet clawdbot controller_6 "{ $controller }" ;;
    *) nft add element inet clawdbot controller_4 "{ $controller }" ;;
esac
echo 'as confirmed'
