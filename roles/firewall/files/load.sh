#!/bin/sh
# Runs on the host, as root: loads the ruleset given on standard input, and says what filtered here before. Unless it is confirmed within
# the given number of seconds, the host goes back to what it had: the ruleset confirmed last, or the firewall it came with.
# Arguments: those seconds; the address of the controller, whose SSH connections are not counted, or nothing.
patience=$1 controller=$2
state=/var/lib/clawdbot/firewall
install -d -m 0700 "$state"
systemctl stop clawdbot-firewall-rollback.timer 2>/dev/null || true # usually there is none
while systemctl is-active --quiet clawdbot-firewall-rollback.service; do sleep 0.2; done

cat >"$state/candidate.nft"
nft --check --file "$state/candidate.nft"

# What the host came with. Its tables stay, only who may come in is from here on said in one place: their input chains are empty.
rm -rf "$state/before" "$state/kept"
install -d -m 0700 "$state/before" "$state/kept"
packaged=$(dpkg-query --show --showformat '${Conffiles}\n' nftables | sed -n 's|^ /etc/nftables[.]conf \([0-9a-f]*\).*|\1|p')
texts() { # a file of nft and those it includes
    cat "$1"
    sed -nE 's/^[[:space:]]*include[[:space:]]+"([^"]+)".*/\1/p' "$1" | while read -r pattern; do
        for file in $pattern; do [ ! -f "$file" ] || texts "$file"; done
    done
}
cd /etc || exit 1
if [ -e nftables.conf ] && ! grep -q '^table inet clawdbot' nftables.conf &&
    [ "$(md5sum <nftables.conf | cut -d' ' -f1)" != "$packaged" ]; then
    texts nftables.conf >"$state/before/nftables.conf"
    echo 'kept aside: /etc/nftables.conf, as /etc/nftables.conf.before-clawdbot'
fi
case $(systemctl is-active firewalld.service) in active | activating | reloading) touch "$state/before/firewalld" ;; esac
! grep -qs '^ENABLED=yes' ufw/ufw.conf || touch "$state/before/ufw"
nft list tables | while read -r _ family name; do
    case "$family $name" in
        'inet clawdbot') continue ;;
        'inet firewalld') [ -e "$state/before/firewalld" ] || continue ;;
        *) grep -qsE "\btable[[:space:]]+(${family}[[:space:]]+)?$name\b" "$state/before/nftables.conf" || continue ;;
    esac
    {
        printf 'table %s %s\ndelete table %s %s\n' "$family" "$name" "$family" "$name"
        nft --stateless list table "$family" "$name" | sed '/^\tflags owner/d'
    } >"$state/before/$family-$name.nft"
    {
        cat "$state/before/$family-$name.nft"
        awk -v table="$family $name" '
            $1 == "chain" { chain = $2 }
            /type filter hook input / {
                sub(/^[ \t]*/, ""); sub(/;.*/, ";")
                print "flush chain " table " " chain "\nadd chain " table " " chain " { " $0 " policy accept; }"
            }' "$state/before/$family-$name.nft"
    } >"$state/kept/$family-$name.nft"
    # firewalld lets nobody else touch its table as long as it runs, and makes it anew when it starts.
    if [ "$name" = firewalld ]; then
        rm "$state/before/$family-$name.nft"
    else
        nft --check --file "$state/kept/$family-$name.nft"
    fi
    echo "kept: table $family $name, but for what it said about who may come in; its rules are in /etc/nftables.kept"
done
if [ -e "$state/before/firewalld" ]; then
    echo 'kept aside: firewalld is off, its configuration is in /etc/firewalld as it was'
fi
if [ -e "$state/before/ufw" ]; then
    echo 'kept aside: ufw is off, its rules are in /etc/ufw as they were'
    # "ufw disable" leaves what its files say about address translation, but only until the next boot.
    for rules in before before6; do
        case $rules in before) family=ip restore=iptables-restore-translate ;; *) family=ip6 restore=ip6tables-restore-translate ;; esac
        sed -n '/^\*nat/,/^COMMIT/p' "ufw/$rules.rules" >"$state/before/ufw-nat"
        [ -s "$state/before/ufw-nat" ] || continue
        {
            printf 'table %s ufw_nat\ndelete table %s ufw_nat\n' "$family" "$family"
            "$restore" -f "$state/before/ufw-nat" | sed -E "s/^(add [a-z]+ $family) nat\b/\1 ufw_nat/"
        } >"$state/kept/$family-ufw_nat.nft"
        nft --check --file "$state/kept/$family-ufw_nat.nft"
        echo "kept: the address translation of /etc/ufw/$rules.rules; its rules are in /etc/nftables.kept"
    done
fi

# The file of the distribution would flush the rules of everyone; before ours there was no table at all.
cat >"$state/rollback" <<'END'
set -eu
cd /var/lib/clawdbot/firewall
if grep -q '^table inet clawdbot' /etc/nftables.conf; then
    nft --file /etc/nftables.conf
else
    printf 'table inet clawdbot\ndelete table inet clawdbot\n' | nft --file -
fi
for table in before/*.nft; do
    [ ! -e "$table" ] || nft --file "$table"
done
if [ -e before/firewalld ]; then
    printf 'table inet firewalld\ndelete table inet firewalld\n' | nft --file -
    systemctl enable --quiet --now firewalld.service
fi
[ ! -e before/ufw ] || ufw --force enable
rm -f candidate.nft
END
systemd-run --quiet --unit=clawdbot-firewall-rollback --collect --on-active="${patience}s" --timer-property=AccuracySec=500ms \
    /bin/sh "$state/rollback"
{
    cat "$state/candidate.nft"
    case $controller in
        '') ;;
        *:*) echo "add element inet clawdbot controller_6 { $controller }" ;;
        *) echo "add element inet clawdbot controller_4 { $controller }" ;;
    esac
} | nft --file -
[ ! -e "$state/before/firewalld" ] || systemctl disable --quiet --now firewalld.service
for table in "$state/kept"/*.nft; do
    [ ! -e "$table" ] || nft --file "$table"
done
[ ! -e "$state/before/ufw" ] || ufw disable
