#!/usr/bin/python
"""Ansible module that packs the application into one reproducible archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from fnmatch import fnmatch
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: clawdbot_archive
short_description: Packs the application into one reproducible archive
description:
  - Runs on the controller. The same files give the same bytes, so the release name is made of the
    application's version and the archive's SHA-256.
  - All members are below a folder named after the release. The file C(.complete) is the last one; a release
    without it was not unpacked to the end.
options:
  source: {description: Folder of the application., type: path, required: true}
  dest: {description: Folder for the archives., type: path, required: true}
  exclude: {description: Patterns of paths below O(source) to leave out., type: list, elements: str, default: []}
  files:
    description: More files for the archive, by name; they win over those of O(source).
    type: dict
    default: {}
  release:
    description: Name of an earlier release to use as it lies in O(dest), instead of packing O(source). Empty packs.
    type: str
    default: ""
author: [clawdbot-ops]
"""

RETURN = r"""
version: {description: Name of the release such as C(1.0.0-3f9d0c2a81b4)., type: str, returned: always}
path: {description: Path of the archive; empty if that of O(release) is not there., type: str, returned: always}
"""


def members(source: Path, exclude: list[str]) -> list[Path]:
    """Files of the application, sorted; a pattern that matches a folder leaves out all that is in it."""
    found = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source)
        lineage = [name, *name.parents][:-1]
        if path.is_file() and not any(fnmatch(str(part), pattern) for part in lineage for pattern in exclude):
            found.append(path)
    return found


def pack(source: Path, files: list[Path], more: dict[str, str], folder: str) -> bytes:
    """The archive: sorted members below ``folder``, then ``more``, owned by root, without times."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            member = tarfile.TarInfo(f"{folder}/{path.relative_to(source)}")
            member.size = path.stat().st_size
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)
        for name, text in sorted(more.items()):
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        archive.addfile(tarfile.TarInfo(f"{folder}/.complete"))
    return gzip.compress(tar.getvalue(), mtime=0)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "dest": {"type": "path", "required": True},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "dict", "default": {}},
            "release": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    release = module.params["release"]
    if release:
        archive = Path(module.params["dest"]) / f"clawdbot-{release}.tar.gz"
        module.exit_json(changed=False, version=release, path=str(archive) if archive.exists() else "")
    source = Path(module.params["source"])
    more = module.params["files"]
    files = [path for path in members(source, module.params["exclude"]) if str(path.relative_to(source)) not in more]
    if source / "app.py" not in files:
        module.fail_json(msg=f"{source} holds no app.py: clawdbot_source must name the folder of the application")
    digest = hashlib.sha256(pack(source, files, more, "")).hexdigest()[:12]
    found = re.search(r'__version__ = "([^"]+)"', (source / "clawdbot" / "__init__.py").read_text("utf-8"))
    version = f"{found[1] if found else '0'}-{digest}"
    archive = Path(module.params["dest"]) / f"clawdbot-{version}.tar.gz"
    changed = not archive.exists()
    if changed:
        # In check mode too: nothing but a cache on the controller is written, and the nodes' preview needs the name.
        archive.parent.mkdir(parents=True, exist_ok=True)
        partial = archive.with_suffix(".partial")
        partial.write_bytes(pack(source, files, more, version))
        partial.replace(archive)
    module.exit_json(changed=changed, version=version, path=str(archive))


if __name__ == "__main__":
    main()
