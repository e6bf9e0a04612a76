#!/bin/sh
# Runs on the host, as root: takes from people what they had as administrators, and ends their sessions. Names them.
# Arguments: the group of those who may log in, or nothing; the user of this run; the administrators there are, as one word; those whose
# accounts will be removed. Whoever the role once named and no longer does loses the right to log in and to become root; the account stays.
group=$1 own_user=$2 present=$3
shift 3
former=$(sed -n 's/^\([^#[:space:]]*\) ALL=.*/\1/p' /etc/sudoers.d/90-clawdbot-admins 2>/dev/null || true)
leaving=
for name in $former "$@"; do
    case " $present $leaving " in *" $name "*) continue ;; esac
    if [ "$name" = "$own_user" ]; then
        echo "ssh_admins no longer names $name, with which this run has logged in. Nothing was changed; log in with another account." >&2
        exit 1
    fi
    ! getent passwd "$name" >/dev/null || leaving="$leaving $name"
done
for name in $leaving; do
    ! id -nG "$name" | tr ' ' '\n' | grep -qxF "$group" || gpasswd --delete "$name" "$group" >/dev/null
    tries=50
    while pkill -KILL -u "$name"; do # userdel refuses an account that is in use
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || break
        sleep 0.1
    done
    echo "$name"
done
