#!/bin/bash
# The data of this host's Redis goes to another one. How far that is, /etc/redis/clawdbot-moved says. Commands:
#   look                 say how far that is: moved, begun; how many keys a Redis that runs has; its version
#   pack FILE            stop Redis for good and pack what it holds, for who has logged in. Says how many keys there were.
#   unpack FILE KEYS     put it in the place of what this host's Redis holds: nothing, or what an earlier attempt has brought
#   lead ADDRESS PORT    have whoever still comes here get to the other Redis
#   back                 go on as before
#   forget FILE          hold nothing, as before
set -euo pipefail
umask 077
data=/var/lib/redis
mark=/etc/redis/clawdbot-moved
former=/etc/systemd/system/clawdbot-redis-former

runs() { systemctl is-active --quiet redis-server.service; }

ask() { /usr/local/sbin/clawdbot-redis "$@"; }

keys() {
    local said
    for _ in $(seq 120); do
        said=$(ask dbsize 2>/dev/null) && [[ $said =~ ^[0-9]+$ ]] && echo "$said" && return
        sleep 0.5
    done
    echo "Redis does not answer; look into 'journalctl -u redis-server'" >&2
    return 1
}

clear() {
    systemctl stop redis-server.service
    rm -rf "$data/appendonlydir"
}

case $1 in
    look)
        [ -e "$data/appendonlydir" ] || echo moved
        [ ! -e "$mark" ] || runs || echo begun
        ! said=$(ask dbsize 2>/dev/null) || echo "keys $said"
        redis-server --version | sed -n 's/.* v=\([0-9]*\).*/version \1/p'
        ;;
    pack)
        if runs; then
            ask dbsize >"$mark.new"
            mv "$mark.new" "$mark"
        fi
        # Whatever it has acknowledged is on disk, and nobody writes any more.
        systemctl disable --quiet --now redis-server.service
        tar --create --gzip --directory="$data" --file="$2.new" appendonlydir
        chown "${SUDO_USER:-root}" "$2.new"
        mv "$2.new" "$2"
        cat "$mark"
        ;;
    unpack)
        clear
        tar --extract --gunzip --directory="$data" --file="$2"
        chown -R redis:redis "$data/appendonlydir"
        rm -f "$2"
        systemctl start redis-server.service
        # Those whose time has come are gone.
        found=$(keys)
        if [ "$found" -eq 0 ] && [ "$3" -gt 0 ]; then echo "of $3 keys none has arrived" >&2 && exit 1; fi
        echo "$found of $3 keys have arrived"
        ;;
    lead)
        # First, so that nothing is packed again that is not true any more, and a Redis that comes back here does not begin with it.
        [ ! -e "$data/appendonlydir" ] || mv -T "$data/appendonlydir" "$data/moved-$(date +%s)"
        port=$(sed -n 's/^port //p' /etc/redis/clawdbot-port.conf)
        {
            printf '[Unit]\nDescription=Former place of Redis, which leads to its present one\n\n[Socket]\nFreeBind=yes\n'
            sed -n 's/^bind //p' /etc/redis/clawdbot.conf | tr ' ' '\n' | sed -E "s/.*:.*/[&]/; s/.*/ListenStream=&:$port/"
            printf '\n[Install]\nWantedBy=sockets.target\n'
        } >"$former.socket"
        printf '[Unit]\nDescription=Former place of Redis, which leads to its present one\nRequires=%s.socket\nAfter=%s.socket\n
[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd %s:%s\nDynamicUser=yes\n' \
            "${former##*/}" "${former##*/}" "$(sed -E 's/.*:.*/[&]/' <<<"$2")" "$3" >"$former.service"
        chmod 0644 "$former".*
        systemctl daemon-reload
        systemctl enable --quiet "${former##*/}.socket"
        systemctl restart "${former##*/}.socket"
        ;;
    back)
        systemctl enable --quiet --now redis-server.service
        rm -f "$mark"
        ;;
    forget)
        clear
        systemctl start redis-server.service
        rm -f "$2"
        ;;
esac
