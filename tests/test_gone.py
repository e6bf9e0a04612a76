"""What a role has made is removed as a whole, and nothing else; the next run finishes what a killed one began."""

import io
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from programs import load

HOST = Path(__file__).resolve().parents[1] / "plugins/host/gone.py"
Remove = Callable[..., list[str]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, on a host whose systemd runs the units that are named in a file, and notes what it is told."""
    module = load(HOST)
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records")
    monkeypatch.setattr(module, "UNIT_FOLDER", f"{tmp_path}/etc/")
    for name, script in {
        "systemctl": 'case $1 in is-*) grep -qx "$3" units ;; *) echo "$*" >>said ;; esac',
        "userdel": 'echo "userdel $*" >>said',
    }.items():
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    (tmp_path / "units").write_text("thing.timer\n")
    return module


@pytest.fixture
def remove(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Remove:
    """One call for a thing; returns what was there."""
    thing: dict[str, Any] = {
        "mark": f"{tmp_path}/mark",
        "units": ["thing.timer", "thing.service"],
        "files": [f"{tmp_path}/etc/thing.*", f"{tmp_path}/folder", f"{tmp_path}/link", f"{tmp_path}/missing"],
        "users": ["root", "nobody-of-this-name"],
        "before": "",
        "after": "",
    }

    def call(check: bool = False, **options: Any) -> list[str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(thing | options | {"check": check})))
        program.main()
        gone: list[str] = json.loads(capsys.readouterr().out)["gone"]
        return [each.removeprefix(f"{tmp_path}/") for each in gone]

    return call


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Files of the role, and some of the user's."""
    for name in ("mark", "etc/thing.service", "etc/thing.timer", "etc/other.service", "folder/a/b", "kept/data"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "records").mkdir()
    (tmp_path / "records/thing.timer").write_text("{}")
    return tmp_path


def said(host: Path) -> list[str]:
    return (host / "said").read_text().splitlines() if (host / "said").exists() else []


EVERYTHING = ["thing.timer", "etc/thing.service", "etc/thing.timer", "folder", "link", "root", "mark"]


def test_all_that_is_named_goes_and_nothing_else(remove: Remove, host: Path) -> None:
    assert remove() == EVERYTHING
    left = sorted(str(path.relative_to(host)) for path in host.rglob("*") if path.is_file())
    assert left == ["bin/systemctl", "bin/userdel", "etc/other.service", "kept/data", "said", "units"]
    assert said(host) == [
        *("disable --quiet thing.timer", "stop thing.timer", "reset-failed thing.timer"),
        *("userdel root", "daemon-reload"),
    ]


def test_where_the_mark_is_not_there_nothing_is_touched(remove: Remove, host: Path) -> None:
    """A unit of that name is somebody else's."""
    (host / "mark").unlink()
    assert remove(before="exit 1") == []
    assert (host / "folder/a/b").exists()
    assert said(host) == []


def test_a_preview_says_it_and_does_nothing(remove: Remove, host: Path) -> None:
    assert remove(check=True, before="exit 1") == EVERYTHING
    assert (host / "mark").exists()
    assert (host / "etc/thing.timer").exists()
    assert said(host) == []


def test_a_script_that_refuses_stops_it_before_anything_goes(remove: Remove, host: Path) -> None:
    with pytest.raises(SystemExit, match="it holds data"):
        remove(before="echo it holds data; exit 1")
    assert (host / "etc/thing.timer").exists()
    assert said(host) == []


def test_what_failed_on_the_way_is_finished_by_the_next_run(remove: Remove, host: Path) -> None:
    with pytest.raises(SystemExit):
        remove(after="false")
    assert (host / "mark").exists()
    (host / "units").write_text("")
    assert remove(after=f"echo told >>{host}/said") == ["root", "mark"]
    assert said(host)[-1] == "told"
    assert remove() == []
