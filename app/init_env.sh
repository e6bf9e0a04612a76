#!/usr/bin/env bash
# Sets the bot up on this machine and starts it, without Ansible. May be run again; --help says more.
set -euo pipefail
umask 077

usage() {
    cat <<'TEXT'
Usage: ./init_env.sh [--model-type TYPE] [--port PORT] [--no-start]

Creates the virtual environment and the missing files in config/ (with fresh secrets where they are ours to
choose), checks what is there, starts web and worker and waits for /health. What exists is kept. Nobody starts them
again after a crash or a reboot: to rely on the bot set the server up with Ansible.

  --model-type TYPE  preset of the model service (default: what config/clawdbot.env says, at first echo)
  --port PORT        port of the bot (default: what config/clawdbot.env says, at first 18789)
  --no-start         set up and check only
  --help             this text

The key and all other settings of the model are taken from the variables MODEL_... where they are exported, and kept
in config/clawdbot.env. On a server that Ansible set up nothing but what is named above is taken, for the inventory has
the settings, and the services of systemd are restarted instead.
TEXT
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

model_type='' port='' start=yes
while [ $# -gt 0 ]; do
    case $1 in
    --model-type | --port)
        [ $# -ge 2 ] || fail "$1 needs a value; see ./init_env.sh --help"
        if [ "$1" = --port ]; then port=$2; else model_type=$2; fi
        shift
        ;;
    --no-start) start=no ;;
    --help | -h)
        usage
        exit 0
        ;;
    *) fail "unknown option $1; see ./init_env.sh --help" ;;
    esac
    shift
done
case $port in *[!0-9]*) fail "--port $port is no number; the usual one is 18789" ;; esac
if [ -n "$port" ] && { [ "$port" -lt 1 ] || [ "$port" -gt 65535 ]; }; then
    fail "--port $port is out of range; give one from 1 to 65535, the usual one is 18789"
fi

app=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
# Where this script is called from its link (/opt/clawdbot) configuration and logs live beside the link.
home=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
config=$home/config logs=$home/logs run=$home/run
managed=no
if [ -f "$config/service.env" ]; then
    managed=yes
    # The shell of an operator has those of its login.
    unset "${!MODEL_@}"
fi
container=no
[ "$managed" = no ] || ! grep -qx 'CLAWDBOT_RUNTIME=docker' "$config/service.env" || container=yes

command -v python3 >/dev/null || fail "python3 is missing; run: apt install python3 python3-venv"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$(python3 --version) is too old; the bot needs Python 3.11 or newer, as Debian 12 has it"
[ "$container" = yes ] || command -v node >/dev/null || fail "Node.js is missing, it reads config/feishu.js; run: apt install nodejs"

# The virtual environment, made anew only when the lock has changed.
python=$app/venv/bin/python
if [ "$managed" = no ]; then
    lock=$(sha256sum <"$app/requirements.txt")
    if [ ! -x "$python" ] || [ "$(cat "$app/venv/.lock" 2>/dev/null)" != "$lock" ]; then
        say "creating the virtual environment in $app/venv"
        python3 -m venv --clear "$app/venv" || fail "python3 cannot make virtual environments; run: apt install python3-venv"
        "$python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$app/requirements.txt" ||
            fail "the packages of requirements.txt cannot be installed; is the package index reachable from here?"
        printf '%s\n' "$lock" >"$app/venv/.lock"
    fi
fi
bot() { "$python" -m clawdbot "$@"; }
if [ "$container" = yes ]; then
    image=clawdbot:${app##*/}
    docker image inspect "$image" >/dev/null || fail "the image $image is missing; run the Ansible playbook again"
    mapfile -t names < <(sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/--env=\1/p' "$config/service.env" "$config/clawdbot.env")
    bot() { docker run --rm --pull never --network host --user 0 "${names[@]}" --volume "$config:$config" "$image" python -m clawdbot "$@"; }
else
    [ -x "$python" ] || fail "$python is missing; run the Ansible playbook again"
fi
cd "$app"

load() {
    # As systemd does: what a file says replaces what the environment says.
    set -a
    for file in service.env clawdbot.env; do
        # shellcheck disable=SC1090  # written by `python -m clawdbot init` or by Ansible
        [ ! -f "$config/$file" ] || . "$config/$file"
    done
    set +a
}

if [ "$managed" = yes ] && [ -n "$port" ]; then
    known=$(load && printf '%s' "$CLAWDBOT_PORT")
    [ "$port" = "$known" ] || fail "Ansible set port $known up; change clawdbot_port in the inventory and run site.yml"
    port=''
fi
bot init --config-dir "$config" --model-type "$model_type" --port "$port"
load
mkdir -p "$logs"
bot check --start || fail "mend what is named above and run this again"
if [ "$start" = no ]; then
    exit 0
fi

if [ "$managed" = yes ]; then
    say "restarting clawdbot.service and clawdbot-worker.service"
    /usr/local/sbin/clawdbot-restart || fail "see: journalctl -u clawdbot -u clawdbot-worker"
else
    bot queue >/dev/null ||
        fail "the bot keeps its queue in Redis; run: apt install redis-server, or correct $config/cache.yaml"
    mkdir -p "$run/metrics"
    export PROMETHEUS_MULTIPROC_DIR=$run/metrics RUNTIME_DIRECTORY=$run
    begin() { # name, command...
        local name=$1 pid
        shift
        if pid=$(cat "$run/$name.pid" 2>/dev/null) && kill -0 "$pid" 2>/dev/null &&
            tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q "$app"; then
            say "stopping the running $name"
            kill "$pid"
            for _ in $(seq 300); do
                kill -0 "$pid" 2>/dev/null || break
                sleep 0.3
            done
        fi
        nohup setsid "$@" >>"$logs/$name.out" 2>&1 </dev/null &
        printf '%s\n' $! >"$run/$name.pid"
    }
    begin web "$python" "$app/venv/bin/gunicorn" -c gunicorn.conf.py app:app
    begin worker "$python" -m clawdbot worker
fi

url=http://127.0.0.1:$CLAWDBOT_PORT/health
answer() { # not through the proxy that the bot may be told to use
    no_proxy='*' python3 -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=2).read().decode().strip())' "$url" 2>/dev/null
}
for _ in $(seq 60); do
    if [ "$(answer)" = '{"status":"healthy"}' ]; then
        say "the bot answers: curl http://localhost:$CLAWDBOT_PORT/health"
        exit 0
    fi
    sleep 0.5
done
if [ "$managed" = yes ]; then
    fail "nothing answers at $url; see: journalctl -u clawdbot"
fi
fail "nothing answers at $url; see $logs/web.out and $logs/error.log"
