#!/usr/bin/env bash
# What monitoring costs on a host of the sandbox at rest: share of all processors and memory of Prometheus, Alertmanager and the exporters.
# Needs the sandbox (`make demo`). Arguments: the host, monitor1 by default; seconds to measure, 60 by default.
# Exit status 1 if a promise is broken: 10 % of the processors and 400 MB at most.
set -euo pipefail

host=${1:-monitor1}
seconds=${2:-60}

docker exec -i "clawdbot-$host" python3 - "$seconds" <<'PROGRAM' || { echo "clawdbot-$host: a promise is broken, or there is no monitoring; 'make demo' makes it" >&2; exit 1; }
import os, pathlib, sys, time

def look():
    """Of each process of the monitoring its name, processor seconds and memory in bytes, shared pages divided among those that share them."""
    found = {}
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_bytes().split(b"\0")[0].decode().rsplit("/", 1)[-1]
            if not name.startswith("prometheus"):
                continue
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:15]
            rollup = (folder / "smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        memory = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        found[folder.name] = (name, sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), memory / 1024)
    return found

seconds, before = float(sys.argv[1]), look()
if not before:
    sys.exit("no process of the monitoring runs")
time.sleep(seconds)
cpu = memory = 0.0
for number, (name, ended, mebibytes) in sorted(look().items(), key=lambda item: item[1]):
    share = 100 * (ended - before.get(number, (name, 0.0, 0))[1]) / seconds / os.cpu_count()
    print(f"{name:<32} {share:6.2f} % {mebibytes:7.1f} MB")
    cpu, memory = cpu + share, memory + mebibytes
print(f"{'together, of ' + str(os.cpu_count()) + ' processors':<32} {cpu:6.2f} % {memory:7.1f} MB")
sys.exit(cpu > 10 or memory > 400)
PROGRAM
