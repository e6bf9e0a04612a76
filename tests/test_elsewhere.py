"""The playbooks run from any folder and any checkout, without the ansible.cfg that lies in this one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PLAYBOOKS = ("site.yml", *(f"playbooks/{path.name}" for path in Path(__file__).parents[1].glob("playbooks/*.yml")))


@pytest.fixture(scope="module")
def checkout(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has, in a folder with spaces that everybody may write (Ansible ignores an ansible.cfg there)."""
    folder = tmp_path_factory.mktemp("somebody's projects") / "clawdbot ops"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        if (root / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name, follow_symlinks=False)
    folder.chmod(0o777)
    return folder


def play(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs ansible-playbook in a folder, as somebody who has no configuration at all."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    command = ["ansible-playbook", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment | {"HOME": str(folder)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_is_whole_from_another_folder(playbook: str, checkout: Path, tmp_path: Path) -> None:
    inventory = checkout / "inventories/cluster"
    done = play("-i", inventory, checkout / playbook, "--syntax-check", "-e", "node=app3", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = play("-i", inventory, checkout / playbook, "--list-tasks", "-e", "node=app3", folder=tmp_path)
    assert listed.returncode == 0, listed.stdout + listed.stderr


@pytest.mark.parametrize("where", ["elsewhere", "here"])
def test_the_preflight_speaks_from_anywhere(where: str, checkout: Path, tmp_path: Path) -> None:
    folder = checkout if where == "here" else tmp_path
    done = play("-i", checkout / "inventories/cluster", checkout / "site.yml", "--check", folder=folder)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "secrets.yml: site_redis_password: is missing" in done.stdout
    assert "unreachable=1" not in done.stdout


def test_somebody_elses_configuration_does_not_hide_ours(checkout: Path, tmp_path: Path) -> None:
    """Roles of the same names, and other places for plugins."""
    (tmp_path / "ansible.cfg").write_text("[defaults]\nroles_path = roles\naction_plugins = plugins\n", "utf-8")
    for role in ("site", "nginx"):
        (tmp_path / f"roles/{role}/tasks").mkdir(parents=True)
        (tmp_path / f"roles/{role}/tasks/main.yml").write_text("- ansible.builtin.meta: noop\n", "utf-8")
    listed = play("-i", checkout / "inventories/cluster", checkout / "site.yml", "--list-tasks", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "nginx : Install" in listed.stdout
    assert "site : " not in listed.stdout
