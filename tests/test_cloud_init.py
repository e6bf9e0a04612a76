"""A cloud-init that fails, or never ends, is named and stops nobody."""

import os
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[1] / "roles/base/files/sources.sh"


@pytest.mark.parametrize(
    ("cloud_init", "said"),
    [
        ("exit 0", ""),
        ("exit 2", ""),
        ('[ "$2" = --wait ] && exit 1; echo "status: error"', "cloud-init: status: error"),
        ("sleep 90", "cloud-init: still at work after ten minutes"),
    ],
)
def test_what_became_of_cloud_init(tmp_path: Path, cloud_init: str, said: str) -> None:
    limit = 1 if "sleep" in cloud_init else 60
    programs = {
        "cloud-init": f"#!/bin/sh\n{cloud_init}\n",
        # Ten minutes are over soon for what never ends; the others have time on a busy machine.
        "timeout": f'#!/bin/sh\n[ "$1" = 600 ] && shift && exec /usr/bin/timeout {limit} "$@"\n',
        "dpkg": "#!/bin/sh\n",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text, "utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", str(SOURCES)], capture_output=True, text=True, env=environment, check=True)
    assert "".join(line.strip() for line in done.stdout.splitlines() if line.startswith("cloud-init")) == said
