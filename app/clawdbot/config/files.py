"""Reading the configuration files: YAML, and JavaScript through Node."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from clawdbot.errors import ConfigError

NODE_TIMEOUT_SECONDS = 20
# Node without just-in-time compilation, so that it also runs under systemd's MemoryDenyWriteExecute.
NODE_READ = ("node", "--jitless", "-e", "process.stdout.write(JSON.stringify(require(process.argv[1])))")


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a YAML file.

    Raises:
        ConfigError: it cannot be used; the text says what to do, and holds nothing of the file.
    """
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); create it, or give its owner read access") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        # The parser's own message quotes the line, and the line may hold a secret.
        raise ConfigError("is not valid YAML; check quotes and indentation") from None
    if not isinstance(data, dict):
        raise ConfigError('must consist of `key: "value"` lines')
    return {str(key): value for key, value in data.items()}


def read_js(path: Path) -> Mapping[str, Any]:
    """Read what a Node.js module exports.

    Raises:
        ConfigError: as for `read_yaml`.
    """
    try:
        path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}); create it, or give its owner read access") from None
    environment = {"PATH": os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")}
    try:
        done = subprocess.run(  # noqa: S603  # a fixed program; the path is an argument, not code
            [*NODE_READ, str(path.resolve())],
            capture_output=True,
            timeout=NODE_TIMEOUT_SECONDS,
            stdin=subprocess.DEVNULL,
            env=environment,
            check=True,
        )
        data = json.loads(done.stdout)
    except FileNotFoundError:
        raise ConfigError("needs Node.js to be read; install the package nodejs") from None
    except subprocess.TimeoutExpired:
        raise ConfigError("does not end when Node.js loads it; leave only module.exports = {...}") from None
    except (subprocess.CalledProcessError, ValueError):
        raise ConfigError(f"is not a valid Node.js module; try: node -e 'require(\"{path}\")'") from None
    if not isinstance(data, dict):
        raise ConfigError("must export an object: module.exports = { key: 'value' }")
    return data
