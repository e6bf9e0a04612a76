#!/usr/bin/env bash
# Runs every Molecule scenario but `lifecycle`, which takes half an hour and belongs to `make soak`; two at a time: a scenario
# mostly waits for its hosts, and each has hosts of its own.
# Output goes to .cache/molecule/SCENARIO.log; that of a scenario that failed is shown. One that failed is run once more on
# new hosts, because these tests kill, ban and time real daemons on a machine that may be busy; the second try is announced,
# and its log stands beside the first. Exit status 1 if one failed twice.
set -euo pipefail
cd "$(dirname "$0")/.."
logs=.cache/molecule
mkdir -p "$logs"

run() {
    local scenario=$1 try log begin
    for try in 1 2; do
        log=$2/$scenario.$try.log begin=$SECONDS
        if molecule test -s "$scenario" >"$log" 2>&1 </dev/null; then
            echo "ok     $scenario ($((SECONDS - begin)) s, try $try)"
            return
        fi
        echo "FAILED $scenario ($((SECONDS - begin)) s, try $try); the end of $log:"
        sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -vE '^ *│? *$' | tail -n 150
    done
    echo "$scenario" >>"$2/failed"
}
export -f run

# The long ones first, so that none of them runs alone at the end.
mapfile -t scenarios < <(
    printf '%s\n' ssh site single backup alerts monitoring clawdbot-docker harden loadbalancer loadbalancer-tls
    find molecule -mindepth 2 -maxdepth 2 -name molecule.yml -printf '%h\n' | sed 's,molecule/,,' | sort
)
mapfile -t scenarios < <(printf '%s\n' "${scenarios[@]}" | awk '$0 != "lifecycle" && !seen[$0]++')

rm -f "$logs/failed"
# Key and network are shared by all; made once, before anybody competes for them.
molecule create -s python >"$logs/create.log" 2>&1 </dev/null || { cat "$logs/create.log"; exit 1; }
printf '%s\n' "${scenarios[@]}" | xargs -P 2 -I{} bash -c "run {} $logs"

failed=0
[ ! -e "$logs/failed" ] || failed=$(wc -l <"$logs/failed")
echo "$((${#scenarios[@]} - failed)) passed, $failed failed"
[ "$failed" -eq 0 ]
