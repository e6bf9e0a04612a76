#!/bin/sh
# Runs on the host, as root: puts the drop-in given on standard input in force, so that sshd listens on the given ports.
# The host goes back to its present state by itself unless clawdbot-ssh-rollback.timer is stopped in time.
# Arguments: seconds until then; the group of those who may log in, or nothing; the ports.
patience=$1 group=$2
shift 2
saved=/var/lib/clawdbot/ssh
drop_in=/etc/ssh/sshd_config.d/00-clawdbot.conf

systemctl stop clawdbot-ssh-rollback.timer 2>/dev/null || true # usually there is none
while systemctl is-active --quiet clawdbot-ssh-rollback.service; do sleep 0.2; done
rm -rf "$saved"
install -d -m 0700 "$saved"
install -d -m 0755 /etc/ssh/sshd_config.d
cp -a /etc/ssh/sshd_config /etc/ssh/sshd_config.d "$saved/"
if systemctl is-active --quiet ssh.socket; then
    start='systemctl stop ssh.service; systemctl disable ssh.service; systemctl enable --now ssh.socket'
else
    start='systemctl reload-or-restart ssh.service'
fi
cat >"$saved/rollback" <<END
set -eu
cp -a $saved/sshd_config /etc/ssh/sshd_config
rm -rf /etc/ssh/sshd_config.d
cp -a $saved/sshd_config.d /etc/ssh/sshd_config.d
$start
rm -f $saved/rollback
END
systemd-run --quiet --unit=clawdbot-ssh-rollback --collect --on-active="${patience}s" --timer-property=AccuracySec=500ms \
    /bin/sh "$saved/rollback"
undo() {
    systemctl start clawdbot-ssh-rollback.service
    systemctl stop clawdbot-ssh-rollback.timer
}
trap undo EXIT

cat >"$drop_in.new"
chmod 0600 "$drop_in.new"
mv "$drop_in.new" "$drop_in"
# "Port" adds up over all files, so only our file may say it.
find /etc/ssh/sshd_config /etc/ssh/sshd_config.d -name '*config' -o -name '*.conf' ! -path "$drop_in" | while read -r file; do
    grep -qiE '^[[:space:]]*port[[:space:]=]' "$file" && sed -i -E 's/^([[:space:]]*port[[:space:]=])/#\1/I' "$file"
done || true # the last file has no such line
# Whoever can log in when the group is made belongs to it.
if [ -n "$group" ] && ! getent group "$group" >/dev/null; then
    groupadd --system "$group"
    getent passwd | while IFS=: read -r user _ _ _ _ home _; do
        [ ! -s "$home/.ssh/authorized_keys" ] || usermod --append --groups "$group" "$user"
    done
fi
# What is too weak to be offered is not kept either.
rm -f /etc/ssh/ssh_host_dsa_key* /etc/ssh/ssh_host_ecdsa_key*
if [ -e /etc/ssh/ssh_host_rsa_key ] && [ "$(ssh-keygen -lf /etc/ssh/ssh_host_rsa_key | cut -d' ' -f1)" -lt 3072 ]; then
    rm -f /etc/ssh/ssh_host_rsa_key*
fi
[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
[ -e /etc/ssh/ssh_host_rsa_key ] || ssh-keygen -q -t rsa -b 4096 -N '' -f /etc/ssh/ssh_host_rsa_key
install -d -m 0755 /run/sshd # absent while sshd waits for its socket, and then the next line fails
sshd -t

# ssh.socket knows nothing of "Port"; sessions outlive the change. systemd may lose track of an sshd that runs while the unit
# is enabled, for the reload gives it the state of the alias sshd.service that comes with it: so it is stopped first.
if systemctl is-active --quiet ssh.socket || ! systemctl is-enabled --quiet ssh.service; then
    systemctl disable --now --quiet ssh.socket
    systemctl stop ssh.service
    systemctl enable --now --quiet ssh.service
else
    systemctl reload-or-restart ssh.service
fi
for port in "$@"; do
    tries=50
    until ss -Hltnp "sport = :$port" | grep -q '"sshd"'; do
        tries=$((tries - 1))
        if [ "$tries" -eq 0 ]; then
            echo "sshd does not listen on port $port: $(journalctl -u ssh -n 3 -o cat | tr '\n' ' ')" >&2
            exit 1
        fi
        sleep 0.2
    done
done
trap - EXIT
