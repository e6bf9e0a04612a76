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


def test_one_that_a_program_refuses_does_not_take_its_place(write: Write, tmp_path: Path) -> None:
    file = {"path": str(tmp_path / "script"), "content": "true\n", "mode": "0600", "validate": "sh -n %s"}
    assert write(file)["changed"]
    refused = write(file | {"content": "if\n"})
    assert refused["failed"]
    assert f"{file['path']} stays as it was, sh refuses the new one: {file['path']}: " in refused["msg"]
    assert (tmp_path / "script").read_text() == "true\n"
    assert not list(tmp_path.glob(".script*"))


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"path": "/nowhere"}, "give one of template, file, content"),
        ({"path": "/nowhere", "content": "", "file": "plain"}, "give one of template, file, content"),
        ({"path": "/nowhere", "template": "missing.j2"}, "missing.j2"),
        ({"path": "/nowhere", "content": "", "owner": "nobody-of-that-name"}, "create it first"),
    ],
)
def test_mistakes_are_named(write: Write, file: dict[str, str], said: str) -> None:
    result = write(file)
    assert result["failed"]
    assert said in result["msg"]
