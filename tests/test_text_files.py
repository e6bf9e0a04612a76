"""Many small files in one round trip: rendered on the controller, written as a whole, and only where they differ."""

import grp
import json
import os
import pwd
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
Write = Callable[..., dict[str, Any]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Runs the task on this machine; returns its result."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "greeting.j2").write_text("# {{ ansible_managed }}\nHello {{ name }}\n")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "plain").write_text("{{ no template }}\n")
    play = tmp_path / "play.yml"
    own = {"owner": pwd.getpwuid(os.getuid()).pw_name, "group": grp.getgrgid(os.getgid()).gr_name}

    def run(*files: dict[str, str], check: bool = False) -> dict[str, Any]:
        task = {
            "name": "Write",
            "text_files": {"files": [own | file for file in files]},
            "vars": {"name": "World"},
            "check_mode": check,
            "diff": True,
        }
        play.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": [task]}]))
        said = subprocess.run(
            ["ansible-playbook", "-i", "localhost,", "-c", "local", str(play)],
            env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
            cwd=ROOT,  # whose ansible.cfg names the plugins
            capture_output=True,
            text=True,
            check=False,
        )
        result: dict[str, Any] = json.loads(said.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
        return result

    return run


def test_files_are_rendered_and_written_once(write: Write, tmp_path: Path) -> None:
    files = [
        {"path": str(tmp_path / "new" / "secret"), "template": "greeting.j2", "mode": "0600"},
        {"path": str(tmp_path / "plain"), "file": "plain"},
        {"path": str(tmp_path / "given"), "content": "given\n"},
    ]
    assert write(*files, check=True)["paths"] == [file["path"] for file in files]
    assert not (tmp_path / "new").exists()
    assert write(*files)["changed"]
    assert (tmp_path / "new" / "secret").read_text() == "# Ansible managed\nHello World\n"
    assert (tmp_path / "new" / "secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "plain").read_text() == "{{ no template }}\n"
    assert (tmp_path / "given").stat().st_mode & 0o777 == 0o644
    assert not write(*files)["changed"]
    (tmp_path / "given").write_text("changed by hand\n")
    mended = write(*files)
    assert mended["paths"] == [files[2]["path"]]
    assert mended["diff"][0]["before"] == "changed by hand\n"


def test_one_that_is_to_be_absent_is_not_rendered(write: Write, tmp_path: Path) -> None:
    file = {"path": str(tmp_path / "given"), "template": "missing.j2", "state": "absent"}
    assert not write(file)["changed"]
    (tmp_path / "given").touch()
    assert write(file, check=True)["changed"]
    assert (tmp_path / "given").exists()
    assert write(file)["changed"]
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"path": "/nowhere"}, "give one of template, file, content"),
        ({"path": "/nowhere", "content": "", "file": "plain"}, "give one of template, file, content"),
        ({"path": "/nowhere", "template": "missing.j2"}, "missing.j2"),
        ({"path": "/nowhere", "content": "", "owner": "nobody-of-that-name"}, "create it first"),
        ({"path": "/nowhere", "content": "", "validate": "true"}, "validate has no %s for the path of the draft"),
        (
            {"path": "/nowhere", "content": "", "validate": "missing-program %s"},
            "cannot be validated, and stays as it was",
        ),
    ],
)
def test_mistakes_are_named(write: Write, file: dict[str, str], said: str) -> None:
    result = write(file)
    assert result["failed"]
    assert said in result["msg"]


def test_what_a_program_refuses_is_not_written(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("good\n")
    check = "grep -q '^good [0-9]' %s"
    before = sorted(tmp_path.iterdir())
    # In check mode nothing is written, so nothing is tried either.
    assert not write({"path": str(path), "content": "bad\n", "validate": check}, check=True).get("failed")
    refused = write({"path": str(path), "content": "bad\n", "validate": "sh -c 'echo line 1 is bad; exit 3' %s"})
    assert refused["failed"]
    assert refused["msg"] == f"{path} is refused, and stays as it was: line 1 is bad"
    assert path.read_text() == "good\n"
    assert write({"path": str(path), "content": "good 2\n", "validate": check})["changed"]
    assert path.read_text() == "good 2\n"
    assert not write({"path": str(path), "content": "good 2\n", "validate": "false %s"})["changed"]
    assert [each for each in sorted(tmp_path.iterdir()) if each not in before and each.name != "play.yml"] == []
