#!/bin/sh
# Runs on the host, as root, at every login that looks for the SSH port. Prints one line of JSON about that login.
# Arguments: the port sshd shall listen on; "yes" to take over from a run that died.
wanted=$1

# Everything but this script needs it.
command -v python3 >/dev/null || {
    echo "it has no Python; as root: apt install python3" >&2
    exit 1
}

# sudo hides SSH_CONNECTION from us, but one of our ancestors still has it.
connection=${SSH_CONNECTION-} pid=$PPID
while [ -z "$connection" ] && [ "$pid" -gt 1 ]; do
    connection=$(tr '\0' '\n' <"/proc/$pid/environ" | sed -n 's/^SSH_CONNECTION=//p')
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
done
# client's address, client's port, server's address, server's port
# shellcheck disable=SC2086  # four words
set -- "$2" $connection
port=$5

if [ "$1" = yes ]; then
    # From here on this run decides; a restore that has already begun is waited for.
    systemctl stop clawdbot-ssh-rollback.timer 2>/dev/null || true # no such timer: nobody died
    while systemctl is-active --quiet clawdbot-ssh-rollback.service; do sleep 0.2; done
fi
if [ -z "$(ss -Hltn "sport = :$port")" ]; then
    echo "nobody listens on port $port any more" >&2
    exit 1
fi
# A socket unit of systemd holds the port on behalf of sshd.
holder=$(ss -Hltnp "sport = :$wanted" | sed -n 's/.*users:(("\([^"]*\)".*/\1/p' | grep -vxE 'sshd|systemd' | head -n 1 || true)
user=${SUDO_USER:-$(id -un)}
# How this login was accepted, and with which key; the journal may have forgotten an old one.
accepted=$(journalctl --quiet --identifier=sshd --identifier=sshd-session --output=cat --lines=1000 |
    sed -n "s/^Accepted \(.*\) for $user from $2 port $3 /\1 /p" | tail -n 1)
key=$(echo "$accepted" | sed -n 's/^publickey .*\(SHA256:[^ ]*\)$/\1/p')
version=$(ssh -V 2>&1 | sed -n 's/^OpenSSH_\([0-9.]*\).*/\1/p')
addresses=$(ip -o address show scope global | awk '{ sub("/.*", "", $4); printf "%s\"%s\": \"%s\"", comma, $4, $2; comma = ", " }')
managed=$([ -e /etc/ssh/sshd_config.d/00-clawdbot.conf ] && echo true || echo false)
boot=$(cat /proc/sys/kernel/random/boot_id)
printf '{"client": "%s", "server": "%s", "user": "%s", "method": "%s", "key": "%s", "version": "%s", "taken": "%s", "listens": %s, "addresses": {%s}, "boot": "%s", "managed": %s}\n' \
    "$2" "$4" "$user" "${accepted%% *}" "$key" "$version" "$holder" "$port" "$addresses" "$boot" "$managed"
