"""Keeps what Python has compiled out of archives, on a sandbox host only.

Ansible sends each module as an archive of sources, which Python compiles anew for each task: half of its processor
time, where one machine carries the hosts of all tests. Loaded by `zip_cache.pth`; virtual environments, like the
bot's, do not see it.
"""

import marshal
import os
import sys
import zipimport
from types import CodeType

FOLDER = "/var/cache/python-archives"
inside = vars(zipimport)
compile_source = inside[
    "_compile_source"
]  # Not public; a Python without it says so at each start, and nothing else changes.


def kept_or_compiled(path: str, source: bytes) -> CodeType:
    """The code of an archive's module: as root wrote it down for these bytes and this Python, or compiled now."""
    from hashlib import sha256  # Here, since every Python of the host loads this file and few read archives.

    file = f"{FOLDER}/{sys.implementation.cache_tag}-{sha256(source).hexdigest()}"
    try:
        with open(file, "rb") as kept:
            code: CodeType = marshal.load(kept)
    except OSError:
        code = compile_source(path, source)
        if os.geteuid() == 0:
            try:
                with open(f"{file}.{os.getpid()}", "wb") as new:
                    marshal.dump(code, new)
                os.replace(new.name, file)
            except OSError:  # A full or a read-only disk is what some tests are about.
                pass
    return code


inside["_compile_source"] = kept_or_compiled
