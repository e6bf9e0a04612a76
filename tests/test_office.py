"""A site whose platforms are all connected to: nobody outside has to reach it, and nobody can."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

CREDENTIALS = {"clawdbot_dingtalk_app_key": "d", "clawdbot_feishu_app_id": "f"}


def derived(inventory: Path, root: Path, folder: Path, **variables: object) -> dict[str, object]:
    """What the site's defaults make of an inventory, on its first host."""
    names = ("site_intakes", "site_public", "site_firewall_services")
    shown = "{{ {" + ", ".join(f"'{name}': {name}" for name in names) + "} | to_json }}"
    copy = {"content": shown, "dest": str(folder / "shown.json"), "mode": "0600"}
    play = {
        "hosts": "bot1",
        "connection": "local",
        "gather_facts": False,
        "roles": ["site"],
        "tasks": [{"name": "Show", "ansible.builtin.copy": copy, "delegate_to": "localhost"}],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]), "utf-8")
    command = ["ansible-playbook", "-i", str(inventory), str(folder / "play.yml"), "-e", json.dumps(variables)]
    subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    made: dict[str, object] = json.loads((folder / "shown.json").read_text("utf-8"))
    return made


@pytest.fixture
def office(root: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "office"
    shutil.copytree(root / "inventories/office", folder, ignore=shutil.ignore_patterns("secrets.yml"))
    return folder


def test_nobody_else_is_let_in(office: Path, root: Path, tmp_path: Path) -> None:
    made = derived(office, root, tmp_path, **CREDENTIALS)
    assert made["site_intakes"] == {"dingtalk": "stream", "feishu": "connection"}
    assert made["site_public"] is False
    assert {source for rule in rules(made).values() for source in rule} == {"192.168.1.20"}


def test_a_platform_that_calls_back_is_let_in(office: Path, root: Path, tmp_path: Path) -> None:
    made = derived(office, root, tmp_path, **CREDENTIALS, clawdbot_feishu_intake="http")
    assert made["site_public"] is True
    assert rules(made)["bot"] == ["any"]


def rules(made: dict[str, object]) -> dict[str, list[str]]:
    """Who may reach what."""
    services = made["site_firewall_services"]
    assert isinstance(services, list)
    return {service["name"]: service["sources"] for service in services}
