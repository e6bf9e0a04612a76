#!/bin/sh
# Runs on the host, as root, and changes nothing: says "as confirmed" when the rules in the kernel are those that were confirmed last.
[ "$(systemctl is-active clawdbot-firewall-rollback.timer)" != active ] || { echo 'not confirmed yet'; exit; }
nft list table inet clawdbot >/dev/null 2>&1 || { echo 'not loaded'; exit; }
[ "$(systemctl is-enabled nftables.service)" = enabled ] || { echo 'not loaded at boot'; exit; }
nft --numeric --stateless --terse list table inet clawdbot | sha256sum --check --status /var/lib/clawdbot/firewall/rules.sha256 2>/dev/null ||
    { echo 'changed by hand'; exit; }
echo 'as confirmed'
