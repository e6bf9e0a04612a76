#!/bin/sh
# Runs on the host, as root: puts the drop-in given on standard input in force, so that sshd listens on the given ports.
# The host goes back to its present state by itself unless clawdbot-ssh-rollback.timer is stopped in time.
# Arguments: seconds until then; the group of those who may log in, or nothing; the user of this run; the types of host keys, as one
# word; the ports.
patience=$1 group=$2 own_user=$3 key_types=$4
shift 4
saved=/var/lib/clawdbot/ssh
drop_in=/etc/ssh/sshd_config.d/00-clawdbot.conf

systemctl stop clawdbot-ssh-rollback.timer 2>/dev/null || true # usually there is none
while systemctl is-active --quiet clawdbot-ssh-rollback.service; do sleep 0.2; done
rm -rf "$saved"
install -d -m 0700 "$saved"
install -d -m 0755 /etc/ssh/sshd_config.d
cp -a /etc/ssh "$saved/etc"
if systemctl is-active --quiet ssh.socket; then
    start='systemctl stop ssh.service; systemctl disable ssh.service; systemctl enable --now ssh.socket'
else
    start='systemctl reload-or-restart ssh.service'
fi
cat >"$saved/rollback" <<END
set -eu
rm -rf /etc/ssh/sshd_config.d
cp -a $saved/etc/. /etc/ssh
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
# "Port" adds up over all files, and of "MaxStartups" the last one counts, so only our file may say them. An address to listen on stays,
# but with our port.
find /etc/ssh/sshd_config /etc/ssh/sshd_config.d -name '*config' -o -name '*.conf' ! -path "$drop_in" | while read -r file; do
    if grep -qiE '^[[:space:]]*(port|maxstartups|listenaddress)[[:space:]=]' "$file"; then
        sed -i -E -e 's/^([[:space:]]*(port|maxstartups)[[:space:]=])/#\1/I' \
            -e 's/^([[:space:]]*listenaddress[[:space:]=]+)(\[[^]]*\]|[^:[:space:]]+):[0-9]+([[:space:]]|$)/\1\2\3/I' "$file"
    fi
done
# The first value of an option wins, so our file has to be read before all else. A file that came from an older release may not read the
# folder at all; then nothing but our file is added.
first=$(sed -nE '/^[[:space:]]*(#|$)/d; p; q' /etc/ssh/sshd_config)
include='^[[:space:]]*[Ii]nclude[[:space:]].*/etc/ssh/sshd_config[.]d/'
if ! echo "$first" | grep -qE "$include"; then
    line=$(grep -E "$include" /etc/ssh/sshd_config | head -n 1 || true)
    [ -z "$line" ] || sed -i -E "\@$include@d" /etc/ssh/sshd_config
    sed -i "1i ${line:-Include $drop_in}" /etc/ssh/sshd_config
fi
# No known key is thrown away: what is not offered any more is still there. An RSA key that is too short makes way for a longer one.
rsa=/etc/ssh/ssh_host_rsa_key
if [ -e "$rsa" ] && [ "$(ssh-keygen -lf "$rsa" | cut -d' ' -f1)" -lt 3072 ]; then
    mv "$rsa" "$rsa.short"
    mv "$rsa.pub" "$rsa.pub.short"
fi
for type in $key_types; do
    key=/etc/ssh/ssh_host_${type}_key
    case $type in rsa) bits=4096 ;; *) bits=256 ;; esac
    [ -e "$key" ] || ssh-keygen -q -t "$type" -b "$bits" -N '' -f "$key"
done
# Whoever can log in when the group is made belongs to it, wherever the keys are; and this run's user in any case.
has_key() { # user, home
    settings=$(sshd -T -C "user=$1,host=localhost,addr=127.0.0.1" 2>/dev/null) || return 1
    fill() { printf %s "$3" | sed "s|%h|$2|g; s|%u|$1|g; s|%U|$(id -u "$1")|g; s|%%|%|g"; }
    for pattern in $(echo "$settings" | sed -n 's/^authorizedkeysfile //p'); do
        file=$(fill "$1" "$2" "$pattern")
        case $file in /*) ;; *) file=$2/$file ;; esac
        [ ! -s "$file" ] || return 0
    done
    command=$(echo "$settings" | sed -n 's/^authorizedkeyscommand //p')
    asker=$(echo "$settings" | sed -n 's/^authorizedkeyscommanduser //p')
    case $command in '' | none) return 1 ;; *%*) ;; *) command="$command %u" ;; esac
    [ -n "$(runuser -u "$asker" -- sh -c "$(fill "$1" "$2" "$command")" </dev/null 2>/dev/null)" ]
}
install -d -m 0755 /run/sshd # absent while sshd waits for its socket, and then it tells nothing
if [ -n "$group" ]; then
    if ! getent group "$group" >/dev/null; then
        groupadd --system "$group"
        # Accounts of a directory are not listed, but those that came by are known.
        { getent passwd | cut -d: -f1; last -w 2>/dev/null | cut -d' ' -f1; } | sort -u | while read -r user; do
            home=$(getent passwd "$user" | cut -d: -f6)
            [ -z "$home" ] || ! has_key "$user" "$home" || gpasswd --add "$user" "$group" >/dev/null
        done
    fi
    id -nG "$own_user" | tr ' ' '\n' | grep -qxF "$group" || gpasswd --add "$own_user" "$group" >/dev/null
fi
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
