"""The driver of ``make mutate`` tells what tests notice from what they miss."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mutate
import pytest
import yaml

TEMPLATE = "user {{ a_user }}\nport 22\nquiet true\n"
TEST = """
from pathlib import Path
def test_port():
    assert "port 22" in Path("roles/a/templates/a.conf.j2").read_text()
def test_quiet():
    assert "quiet true" in Path("roles/a/templates/a.conf.j2").read_text()
def test_of_something_else():
    pass
"""


@pytest.fixture
def small(root: Path, tmp_path: Path) -> Path:
    """A repository with one template and tests that know two of its three lines."""
    for name, text in {
        "roles/a/templates/a.conf.j2": TEMPLATE,
        "tests/test_a.py": TEST,
        ".gitignore": ".venv\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    (tmp_path / ".venv").symlink_to(root / ".venv")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def test_what_is_noticed_and_what_is_missed(small: Path) -> None:
    file = "roles/a/templates/a.conf.j2"
    with mutate.Court(small) as court:
        noticed = {mutant.name: court.notices(mutant) for mutant in mutate.mutants(small, 9)}
        judges = court.judges()[file]
        assert (court.copy / file).read_text("utf-8") == TEMPLATE
    assert noticed == {
        f"{file}: drop: user {{{{ a_user }}}}": False,
        f"{file}: drop: port 22": True,
        f"{file}: drop: quiet true": True,
        f"{file}: number: port 22": True,
        f"{file}: flip: quiet true": True,
    }
    assert sorted(judges) == ["tests/test_a.py::test_port", "tests/test_a.py::test_quiet"]


def test_tests_that_fail_as_it_is_judge_nothing(small: Path) -> None:
    (small / "roles/a/templates/a.conf.j2").write_text("port 23\n", "utf-8")
    with mutate.Court(small) as court, pytest.raises(SystemExit, match="fails as it is"):
        court.judges()


@pytest.mark.parametrize(
    ("way", "line", "expected"),
    [
        ("drop", "Port 22\n", ""),
        ("drop", "# Port\n", None),
        ("drop", "{% endif %}\n", None),
        ("flip", "PasswordAuthentication no  # yes?\n", "PasswordAuthentication yes  # yes?\n"),
        ("flip", "no-one\n", None),
        ("boolean", "      become: true\n", "      become: false\n"),
        ("boolean", "- name: Say true\n", None),
        ("number", "port 22 # 23\n", "port 23 # 23\n"),
        ("number", "echo $1 v1\n", None),
        ("mode", '  mode: "0640"\n', '  mode: "0646"\n'),
        ("mode", '  - {path: x, mode: "0755", file: y}\n', '  - {path: x, mode: "0757", file: y}\n'),
        ("compare", "if a <= b then\n", "if a > b then\n"),
        ("compare", "if a == b then\n", "if a ~= b then\n"),
    ],
)
def test_ways_to_break_a_line(way: str, line: str, expected: str | None) -> None:
    assert mutate.broken(way, line) == expected


def test_there_are_enough_of_every_kind(root: Path) -> None:
    chosen = mutate.mutants(root, 1)
    assert len(chosen) >= 150
    assert len({mutant.name for mutant in chosen}) == len(chosen)
    assert {mutant.way for mutant in chosen} == {way for ways in mutate.FILES.values() for way in ways}
    assert mutate.mutants(root, 1) == chosen
    reasons = yaml.safe_load((root / "tests/mutants.yml").read_text("utf-8"))
    entries = [name for names in reasons["hosts"].values() for name in names] + list(reasons["nobody"])
    assert len(entries) == len(set(entries))
    assert set(entries) <= {mutant.name for mutant in chosen}, "an entry for a mutant that there is no more"
    assert all((root / "molecule" / scenario / "molecule.yml").exists() for scenario in reasons["hosts"])


def test_a_sample_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    """Some changes in the order of stages, judged by the test of that order."""
    assert mutate.main(["--only", ": order: ", "--sample", "5", "--tests", "tests/test_stage_order.py"]) == 0
    assert "noticed without hosts" in capsys.readouterr().out


def test_a_copy_is_gone_afterwards(small: Path) -> None:
    with mutate.Court(small) as court:
        folder = court.copy
        assert (folder / "tests/test_a.py").exists()
    assert not folder.exists()
