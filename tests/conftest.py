"""Shared by the unit tests of the package."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture
def inventory(root: Path, tmp_path: Path) -> Path:
    """A copy of the inventory of one server."""
    copy = tmp_path / "my servers"
    shutil.copytree(root / "inventories/single", copy, ignore=shutil.ignore_patterns("secrets.yml"))
    return copy


@pytest.fixture
def secrets(inventory: Path) -> Path:
    """Its file of secrets, which is not there yet."""
    return inventory / "group_vars/all/secrets.yml"


@pytest.fixture
def vault(tmp_path: Path) -> dict[str, str]:
    """An environment with a vault password."""
    password = tmp_path / "password"
    password.write_text("correct horse\n", "utf-8")
    return {"ANSIBLE_VAULT_PASSWORD_FILE": str(password)}
