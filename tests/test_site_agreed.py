"""What hosts have to agree on: former values stay accepted, until nobody uses them."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import site_inventory as site
import yaml
from programs import load

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {"loadbalancer": ["lb1"], "clawdbot": ["app1", "app2"], "redis": ["redis1"], "monitoring": []}
AGREEMENTS: dict[str, dict[str, Any]] = {
    "redis_password": {"value": "digest", "on": ["redis"], "users": ["clawdbot", "redis"]},
    "bot_port": {"value": 18789, "on": ["clawdbot", "loadbalancer"], "users": ["loadbalancer"]},
}
Note = Callable[..., dict[str, Any]]
# What is said at the first time, and where nothing differs.
NEW: dict[str, Any] = {"former": {}, "opened": [], "closed": [], "changed": True}
KNOWN = NEW | {"changed": False}


@pytest.fixture
def note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Note:
    """One call of the program on a host."""
    program = load(ROOT / "plugins/host/site_agreed.py")
    monkeypatch.setattr(program, "RECORD", tmp_path / "state" / "agreed.json")

    def call(close: Sequence[str] = (), may_open: bool = True, check: bool = False, **values: Any) -> dict[str, Any]:
        told = {"values": values, "close": list(close), "open": may_open, "check": check}
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(told)))
        program.main()
        said: dict[str, Any] = json.loads(capsys.readouterr().out)
        return said

    return call


def test_a_value_changes_in_three_steps(note: Note) -> None:
    assert note(port=1) == NEW
    assert note(port=1) == KNOWN
    assert note(port=2) == {"former": {"port": [1]}, "opened": ["port"], "closed": [], "changed": True}
    # A run that died is followed by another one, perhaps with yet another value.
    assert note(port=2) == KNOWN | {"former": {"port": [1]}}
    assert note(port=3)["former"] == {"port": [2, 1]}
    assert note(port=3, close=["port"]) == NEW | {"closed": ["port"]}
    assert note(port=3, close=["port"]) == KNOWN


def test_the_way_back_is_open_as_well(note: Note) -> None:
    note(port=1)
    note(port=2)
    assert note(port=1)["former"] == {"port": [2]}


def test_one_value_is_closed_while_another_one_stays_open(note: Note) -> None:
    note(port=1, password="a")
    note(port=2, password="b")
    assert note(port=2, password="b", close=["password"])["former"] == {"port": [1]}


def test_what_a_host_offers_no_more_is_forgotten(note: Note) -> None:
    note(port=1)
    assert note() == NEW
    assert note(port=2)["former"] == {}


def test_a_preview_notes_nothing(note: Note) -> None:
    note(port=1)
    assert note(port=2, check=True)["former"] == {"port": [1]}
    assert note(port=3)["former"] == {"port": [1]}


def test_who_may_not_bring_a_new_value_notes_what_is_known_only(note: Note) -> None:
    assert note(port=1, may_open=False) == NEW
    assert note(port=2, may_open=False) == KNOWN | {"opened": ["port"]}
    assert note(port=2)["former"] == {"port": [1]}
    # What another run has brought is gone on with.
    assert note(port=2, may_open=False) == KNOWN | {"former": {"port": [1]}}


def test_half_a_note_is_none(note: Note, tmp_path: Path) -> None:
    note(port=1)
    (tmp_path / "state/agreed.json").write_text('{"port"')
    assert note(port=2) == NEW


def test_the_note_is_roots(note: Note, tmp_path: Path) -> None:
    note(password="digest")
    assert (tmp_path / "state/agreed.json").stat().st_mode & 0o777 == 0o600


def test_each_host_notes_what_it_offers() -> None:
    assert site.site_agreed(AGREEMENTS, "app1", GROUPS) == {"bot_port": 18789}
    assert site.site_agreed(AGREEMENTS, "lb1", GROUPS) == {"bot_port": 18789}
    assert site.site_agreed(AGREEMENTS, "redis1", GROUPS) == {"redis_password": "digest"}


def test_nothing_is_closed_before_all_of_its_users_have_come() -> None:
    assert site.site_behind(AGREEMENTS, GROUPS, ["app1", "redis1"]) == {"redis_password": ["app2"], "bot_port": ["lb1"]}
    assert site.site_behind(AGREEMENTS, GROUPS, ["app1", "app2", "redis1"])["redis_password"] == []


def test_the_firewall_lets_in_at_former_ports() -> None:
    services = [{"name": "bot", "port": "18790", "on": "clawdbot", "to": ["loadbalancer"], "agreed": "bot_port"}]
    hostvars: dict[str, dict[str, Any]] = {"app1": {"site_former": {"bot_port": [18789]}}, "app2": {}, "lb1": {}}
    assert site.site_firewall(services, "app1", GROUPS, hostvars)[0]["ports"] == [18790, 18789]
    assert site.site_firewall(services, "app2", GROUPS, hostvars)[0]["ports"] == [18790]


def test_a_stage_can_be_narrowed_to_some_hosts() -> None:
    groups = {"all": ["lb1", "app1", "app2", "redis1"], **GROUPS}
    patterns = site.site_patterns(groups, {}, ["app2", "redis1"])
    assert (patterns["clawdbot"], patterns["site"], patterns["loadbalancer"]) == ("app2", "app2,redis1", "!all")
    assert site.site_patterns(groups, {}, [])["site"] == "!all"


INVENTORY = """
all:
  vars: {ansible_connection: local, site_redis_password: 0123456789abcdef0123}
  children:
    loadbalancer: {hosts: {lb1: {}}}
    clawdbot: {hosts: {app1: {}, app2: {}}}
    redis: {hosts: {redis1: {}}}
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], set()),
        (["--limit", "all:!app2"], {"app2 may still use it"}),
        (["--skip-tags", "backup"], {"this run was told to leave out parts"}),
    ],
)
def test_only_a_whole_run_closes(options: list[str], said: set[str], tmp_path: Path) -> None:
    """A preview, which notes nothing on this machine."""
    (tmp_path / "hosts.yml").write_text(INVENTORY, "utf-8")
    former = json.dumps({"site_former": {"bot_port": [18788]}})
    command = ["ansible-playbook", "-i", str(tmp_path), "playbooks/close.yml", "--check", "-e", former, *options]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(re.findall(r"as well, since (.*?)\. A run", " ".join(run.stdout.split()))) == said, run.stdout


def test_the_table_is_complete() -> None:
    """Its names are those of variables, and ports in it are those of services."""
    defaults = yaml.safe_load((ROOT / "roles/site/defaults/main.yml").read_text("utf-8"))
    table = defaults["site_agreements"]
    assert all(f"site_{name}" in table[name]["value"] for name in table)
    assert {each["agreed"] for each in defaults["site_services"] if "agreed" in each} == {
        name for name in table if name.endswith("_port")
    }
