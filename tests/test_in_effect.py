"""Programs take what is written, also when the run that wrote it died before it could say so."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from programs import load

HOST = Path(__file__).resolve().parents[1] / "plugins/host/in_effect.py"
Apply = Callable[..., list[str]]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load(HOST)
    monkeypatch.setattr(module, "RECORDS", tmp_path / "records")
    return module


@pytest.fixture
def apply(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Apply:
    """One call for a thing that counts how often it is restarted and reloaded; returns who was not up to date."""
    (tmp_path / "arguments.d").mkdir()
    thing: dict[str, Any] = {
        "name": "thing",
        "check": f"[ ! -e {tmp_path}/dead ]",
        "files": [f"{tmp_path}/arguments.d/**/*"],
        "reload_files": [f"{tmp_path}/rules"],
        "run": f"rm -f {tmp_path}/dead; echo restart >>{tmp_path}/log",
        "reload": f"echo reload >>{tmp_path}/log",
    }

    def call(check: bool = False, **options: Any) -> list[str]:
        said = json.dumps({"things": [thing | options], "check": check})
        monkeypatch.setattr(sys, "stdin", io.StringIO(said))
        program.main()
        applied: list[str] = json.loads(capsys.readouterr().out)["applied"]
        return applied

    return call


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().split() if (tmp_path / "log").exists() else []


def test_only_what_differs_is_applied(apply: Apply, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("1")
    assert apply() == ["thing"]
    assert apply() == []
    (tmp_path / "rules").write_text("2")
    assert apply(check=True) == ["thing"]
    assert apply() == ["thing"]
    (tmp_path / "arguments.d/new").write_text("--verbose")
    assert apply() == ["thing"]
    (tmp_path / "arguments.d/new").unlink()
    assert apply() == ["thing"]
    (tmp_path / "dead").touch()
    assert apply() == ["thing"]
    assert apply() == []
    assert log(tmp_path) == ["restart", "reload", "restart", "restart", "restart"]


def test_what_fails_is_tried_again(apply: Apply, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="thing: the disk is full"):
        apply(run="echo the disk is full >&2; false")
    assert apply() == ["thing"]
    assert apply() == []
    assert log(tmp_path) == ["restart"]


def test_record_that_a_crash_cut_off_counts_as_none(apply: Apply, program: ModuleType) -> None:
    assert apply() == ["thing"]
    (program.RECORDS / "thing").write_text('{"fil')
    assert apply() == ["thing"]


def test_what_reads_nothing_and_is_as_it_should_be_is_left_alone(apply: Apply, tmp_path: Path) -> None:
    """A unit that shall not run, for instance, which may not even be installed."""
    assert apply(files=[], reload_files=[]) == []
    (tmp_path / "dead").touch()
    assert apply(files=[], reload_files=[]) == ["thing"]
