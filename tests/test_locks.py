"""Every lock file installs on any day, with the pip of each Debian and the newest of when it was written.

In hash-checking mode a pip before 23.3 takes ``name[extra]``, asked for by a package, for something else than the
``name`` that is locked, and refuses as soon as the index has a newer version of it. So that no day's index decides, the
index is made here: of each locked package a wheel that holds only what the real one says about itself, and a newer one.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# The lock, and the environment it is installed in.
LOCKS = {
    "requirements.txt": ".venv",
    "app/requirements.txt": "app/.venv",
    "app/requirements-dev.txt": "app/.venv",
}
# Debian 12's, Debian 13's, and the newest of when this was written; a scheduled job looks at newer ones.
PIPS = {
    "23.0.1": "236bcb61156d76c4b8a05821b988c7b8c35bf0da28a4b614e8d6ab5212c25c6f",
    "25.1.1": "2913a38a2abf4ea6b64ab507bd9e967f3b53dc1ede74b01b0931e1ce548751af",
    "26.3": "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13",
}
PINNED = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?P<extras>\[[^]]+\])?==(?P<version>[^ ;\\]+)(?P<marker> ;[^\\]*)?", re.M
)


def canonical(name: str) -> str:
    """A package's name as indexes spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def stub(folder: Path, package: Distribution, version: str) -> str:
    """Writes a wheel that says of itself what ``package`` does, but is ``version``; returns its hash."""
    stem = f"{canonical(package.metadata['Name']).replace('-', '_')}-{version}"
    kept = ("Requires-Dist", "Provides-Extra", "Requires-Python")
    said = [("Metadata-Version", "2.1"), ("Name", package.metadata["Name"]), ("Version", version)]
    said += [(key, value) for key in kept for value in package.metadata.get_all(key, [])]
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        about = f"{stem}.dist-info"
        wheel.writestr(f"{about}/METADATA", "".join(f"{key}: {value}\n" for key, value in said))
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: stub\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def index(folder: Path, lock: str, environment: str) -> str:
    """Makes the index of a lock in ``folder``; returns the lock with the hashes of that index."""
    places = [str(path) for path in (ROOT / environment).glob("lib/python3*/site-packages")]
    installed = {canonical(package.metadata["Name"]): package for package in distributions(path=places)}
    lines = []
    for pin in PINNED.finditer(lock):
        # What is not installed is for another system or another Python.
        if package := installed.get(canonical(pin["name"])):
            digest = stub(folder, package, pin["version"])
            stub(folder, package, "9999")
            marker = (pin["marker"] or "").rstrip()
            lines.append(f"{pin['name']}{pin['extras'] or ''}=={pin['version']}{marker} --hash=sha256:{digest}")
    assert len(lines) > 10
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session", params=PIPS)
def pip(request: pytest.FixtureRequest) -> Path:
    """A certain pip, as a wheel that can be run."""
    version, folder = request.param, ROOT / ".cache/pips"
    if version.startswith("23.") and sys.version_info >= (3, 12):
        pytest.skip("pip 23.0 does not run on Python 3.12 and later, so nobody has the two together")
    wheel = folder / f"pip-{version}-py3-none-any.whl"
    if not wheel.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / f"{version}.txt"
        wanted.write_text(f"pip=={version} --hash=sha256:{PIPS[version]}\n")
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", str(wanted)]
        subprocess.run([*fetch, "-d", str(folder)], check=True)
    return wheel


def dry_run(pip: Path, folder: Path, lock: str) -> subprocess.CompletedProcess[str]:
    """What a pip says of a lock, with ``folder`` as the only index."""
    (folder / "lock.txt").write_text(lock)
    command = [sys.executable, f"{pip}/pip", "install", "--dry-run", "--ignore-installed", "--require-hashes"]
    options = ["--no-index", "--isolated", "--no-cache-dir", "--disable-pip-version-check"]
    places = ["--find-links", str(folder), "-r", str(folder / "lock.txt")]
    return subprocess.run([*command, *options, *places], capture_output=True, text=True, check=False)


def test_every_lock_of_the_repository_is_tried() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "*requirements*.txt"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(tracked.stdout.split()) == set(LOCKS)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_installs_whatever_is_newest_that_day(pip: Path, lock: str, tmp_path: Path) -> None:
    done = dry_run(pip, tmp_path, index(tmp_path, (ROOT / lock).read_text("utf-8"), LOCKS[lock]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "-9999" not in done.stdout


def test_a_lock_without_extras_would_be_refused(pip: Path, tmp_path: Path) -> None:
    lock = (ROOT / "app/requirements-dev.txt").read_text("utf-8")
    done = dry_run(pip, tmp_path, index(tmp_path, lock.replace("coverage[toml]==", "coverage=="), "app/.venv"))
    assert (done.returncode != 0) == pip.name.startswith("pip-23.0"), done.stdout + done.stderr
