"""The runner of all scenarios cannot lie: one failure is a failure, and the last line counts."""

import os
import shutil
import subprocess
from pathlib import Path

SCENARIOS = ("canary", "change", "cloud", "lifecycle", "nginx", "redis", "site")
# Stands in for Molecule: notes its calls; `redis` fails the first time it is tested and would pass the second time.
MOLECULE = """#!/bin/sh
echo "$*" >> calls
[ "$1" = test ] || exit 0
echo "  │ 12.50s call     molecule/$3/tests/test_it.py::test_slow[host]"
[ "$3" != redis ] || [ "$(grep -c 'test -s redis' calls)" -gt 1 ]
"""


def run(root: Path, folder: Path, failing: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    for scenario in SCENARIOS:
        (folder / "molecule" / scenario).mkdir(parents=True)
        (folder / "molecule" / scenario / "molecule.yml").touch()
    shutil.copy(root / "molecule/run.sh", folder / "molecule")
    molecule = folder / "bin/molecule"
    molecule.parent.mkdir()
    molecule.write_text(MOLECULE.replace("redis", failing), "utf-8")
    molecule.chmod(0o755)
    environment = {**os.environ, "PATH": f"{molecule.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["molecule/run.sh"], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done, (folder / "calls").read_text("utf-8").splitlines()


def test_a_scenario_that_failed_once_is_a_failure(root: Path, tmp_path: Path) -> None:
    done, calls = run(root, tmp_path, "redis")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].endswith(" passed, 1 failed")
    assert calls.count("test -s redis") == 1
    assert any(line.split()[0] == "redis" and line.split()[2] == "FAILED" for line in done.stdout.splitlines() if line)


def test_all_but_the_long_scenario_run_and_the_slowest_tests_are_named(root: Path, tmp_path: Path) -> None:
    done, calls = run(root, tmp_path, "none")
    assert done.returncode == 0, done.stdout + done.stderr
    tested = [call.split()[-1] for call in calls if call.startswith("test ")]
    assert sorted(tested) == ["nginx", "redis", "site"]
    assert "12.50s call     molecule/nginx/tests/test_it.py::test_slow[host]" in done.stdout
    assert done.stdout.splitlines()[-1] == "3 passed, 0 failed"
