#!/usr/bin/env bash
# Runs every Molecule scenario but the long ones (`lifecycle`, `change`, `cloud`, `ha`, `disaster`, `canary`), which belong to `make soak`, several at a
# time: a scenario mostly waits for its hosts, and each has hosts of its own. LANES says how many; default: three for two processors.
# Output goes to .cache/molecule/SCENARIO.log; that of a scenario that failed is shown. Each runs once: what fails now and then
# fails. A test that is for several hosts runs on one of them, in turn; with ONE_HOST= in the environment on each, as `molecule test` does.
# At the end stand the time each took and the slowest tests. Exit status 1 if one failed.
set -euo pipefail
cd "$(dirname "$0")/.."
export ONE_HOST=${ONE_HOST-1}
logs=.cache/molecule
mkdir -p "$logs"

run() {
    local log=$2/$1.log begin=$SECONDS result=ok
    molecule test -s "$1" >"$log" 2>&1 </dev/null || result=FAILED
    echo "$1 $((SECONDS - begin)) $result" >>"$2/results"
    echo "$result $1 ($((SECONDS - begin)) s)"
    [ "$result" = ok ] || { echo "The end of $log:"; sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -vE '^ *│? *$' | tail -n 150; }
}
export -f run

# The long ones first, so that none of them runs alone at the end.
mapfile -t scenarios < <(
    {
        for scenario in ssh site single backup alerts monitoring clawdbot-docker harden loadbalancer loadbalancer-tls; do
            [ ! -e "molecule/$scenario" ] || echo "$scenario"
        done
        find molecule -mindepth 2 -maxdepth 2 -name molecule.yml -printf '%h\n' | sed 's,molecule/,,' | sort
    } | awk '$0 != "lifecycle" && $0 != "change" && $0 != "cloud" && $0 != "ha" && $0 != "disaster" && $0 != "canary" && !seen[$0]++'
)

rm -f "$logs"/{results,*.log}
# Key and network are shared by all; made once, before anybody competes for them.
molecule create -s python >"$logs/create.log" 2>&1 </dev/null || { cat "$logs/create.log"; exit 1; }
printf '%s\n' "${scenarios[@]}" | xargs -P "${LANES:-$((($(nproc) * 3 + 1) / 2))}" -I{} bash -c "run {} $logs"

echo
printf '%-20s %8s  %s\n' scenario seconds result
sort -k2,2nr "$logs/results" | while read -r scenario seconds result; do printf '%-20s %8s  %s\n' "$scenario" "$seconds" "$result"; done
echo
echo 'The slowest tests:'
sed 's/\x1b\[[0-9;]*m//g' "$logs"/*.log | { grep -oE '[0-9]+\.[0-9]+s (call|setup) +.*::.*' || true; } | sort -rn | sed -n 1,15p

# The last lines are what is left of a long output: they name what failed.
mapfile -t failed < <(sed -n 's/ [0-9]* FAILED$//p' "$logs/results")
for scenario in "${failed[@]}"; do
    echo
    echo "$scenario failed; all of it is in $logs/$scenario.log:"
    sed 's/\x1b\[[0-9;]*m//g' "$logs/$scenario.log" | { grep -E '^.{0,4}(FAILED|ERROR|fatal:|CRITICAL|E  )' || true; } | cut -c1-300 | tail -n 12
done
echo
echo "$((${#scenarios[@]} - ${#failed[@]})) passed, ${#failed[@]} failed"
[ "${#failed[@]}" -eq 0 ]
