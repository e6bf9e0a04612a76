"""Programs that plugins and roles run on the hosts, as modules of a test."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load(file: Path) -> ModuleType:
    """A program under a name that no module of the package has."""
    spec = importlib.util.spec_from_file_location(f"{file.stem}_host", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their own module
    spec.loader.exec_module(module)
    return module
