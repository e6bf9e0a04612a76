"""The parts of the package agree with each other."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from site_inventory import FilterModule

ROOT = Path(__file__).resolve().parents[1]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())


def load_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


@pytest.mark.parametrize("role", ROLES)
def test_defaults_agree_with_the_argument_spec(role: str) -> None:
    defaults = load_yaml(ROOT / f"roles/{role}/defaults/main.yml") or {}
    entry_points = load_yaml(ROOT / f"roles/{role}/meta/argument_specs.yml")["argument_specs"]
    options = {name: option for entry in entry_points.values() for name, option in entry.get("options", {}).items()}
    assert set(defaults) <= set(options), "a default that the spec does not describe"
    for name, option in options.items():
        assert option.get("description"), f"{name} has no description"
        if "default" in option:
            assert name in defaults, f"{name} has a default in the spec only"
            assert option["default"] == defaults[name], f"{name}: spec and defaults differ"
        if option.get("required"):
            assert name not in defaults, f"{name} is required and has a default"


@pytest.mark.parametrize("role", ROLES)
def test_every_default_says_why(role: str) -> None:
    lines = (ROOT / f"roles/{role}/defaults/main.yml").read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(r"[a-z_]+:", line) and not lines[number - 1].startswith(("#", role + "_", "---")):
            before = lines[number - 1]
            assert before.startswith((" ", "#")) or re.match(r"[a-z_]+:", before), f"{line} has no comment above"


@pytest.mark.parametrize("role", [role for role in ROLES if role != "site"])
def test_every_role_has_a_scenario(role: str) -> None:
    assert (ROOT / f"molecule/{role}/molecule.yml").exists()
    assert list((ROOT / f"molecule/{role}/tests").glob("test_*.py")), "a scenario without a test proves nothing"


def test_the_role_readmes_are_those_of_their_specs() -> None:
    done = subprocess.run(["docs/role_readmes.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collections_are_those_of_the_ansible_package() -> None:
    """requirements.yml names every collection in use, in a version that the locked ansible package has."""
    wanted = {entry["name"]: entry["version"] for entry in load_yaml(ROOT / "requirements.yml")["collections"]}
    listed = subprocess.run(["ansible-galaxy", "collection", "list"], capture_output=True, text=True, check=True).stdout
    installed = dict(re.findall(r"^(\w+\.\w+) +([\d.]+)", listed, re.MULTILINE))
    sources = [*ROOT.glob("roles/**/*.yml"), *ROOT.glob("playbooks/**/*.yml")]
    sources += [*ROOT.glob("sandbox/**/*.yml"), *ROOT.glob("molecule/**/*.yml")]
    used = set()
    for path in sources:
        used |= set(re.findall(r"\b((?:ansible|community)\.(?!builtin|legacy)\w+)\.\w+", path.read_text("utf-8")))
    used = {name for name in used if name in installed}
    assert used == set(wanted), "requirements.yml names exactly the collections in use"
    for name, version in wanted.items():
        assert tuple(map(int, installed[name].split("."))) >= tuple(map(int, version.removeprefix(">=").split(".")))


def test_nothing_in_the_repository_looks_like_a_secret() -> None:
    files = subprocess.run(
        ["git", "ls-files", "inventories"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert not [name for name in files.splitlines() if name.endswith("secrets.yml")]


def test_every_product_wide_variable_in_the_plays_is_described() -> None:
    options = load_yaml(ROOT / "roles/site/meta/argument_specs.yml")["argument_specs"]["inventory"]["options"]
    plugins = set(FilterModule().filters())
    plugins |= {path.stem for path in (ROOT / "plugins/action").glob("site_*.py")}
    for path in [*ROOT.glob("playbooks/**/*.yml"), *ROOT.glob("playbooks/**/*.j2"), *ROOT.glob("plugins/filter/*.py")]:
        used = set(re.findall(r"\bsite_\w+", path.read_text("utf-8"))) - plugins - {"site_inventory", "site_services"}
        assert used <= set(options), f"{path.name}: {used - set(options)}"


def variables_of_tasks(tasks: Any) -> set[str]:
    """Names of the variables that tasks, and those in their blocks, set for themselves."""
    names: set[str] = set()
    for task in tasks or []:
        names |= set(task.get("vars", {}))
        for block in ("block", "rescue", "always"):
            names |= variables_of_tasks(task.get(block))
    return names


@pytest.mark.parametrize("role", ROLES)
def test_a_tasks_own_variables_hide_none_of_the_users(role: str) -> None:
    """What the inventory says is templated late: a task's variable would also be seen by the user's expressions."""
    for path in (ROOT / "roles" / role).glob("tasks/*.yml"):
        foreign = {
            name
            for name in variables_of_tasks(load_yaml(path))
            if not name.startswith((f"{role}_", f"__{role}_", "ansible_"))
        }
        assert not foreign, path


def test_no_restart_is_lost_with_the_run_that_found_it_due() -> None:
    """Services run what is written because that is compared (action ``in_effect``), not because a task was told."""
    assert not list(ROOT.glob("roles/*/handlers"))
    for file in [*ROOT.glob("roles/*/tasks/*.yml"), *ROOT.glob("playbooks/**/*.yml")]:
        told = re.search(r"^ *(notify:|state: .*(restarted|reloaded)).*", file.read_text("utf-8"), re.MULTILINE)
        assert not told, f"{file}: {told[0].strip()}"


def test_no_list_loses_its_order() -> None:
    """Ansible makes a set of lists that it subtracts: which host is the first differs from run to run."""
    files = [path for folder in ("roles", "playbooks") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in files:
        found = re.findall(
            r"\|\s*(?:difference|intersect|union|symmetric_difference)\(", path.read_text("utf-8", "ignore")
        )
        assert not found, f"{path.relative_to(ROOT)}: use select('in', ...) or reject('in', ...)"


def test_the_list_of_targets_fits_a_screen() -> None:
    done = subprocess.run(["make", "--silent", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = re.sub(r"\x1b\[\d*m", "", done.stdout).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 120
