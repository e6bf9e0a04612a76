"""Three logs, one JSON object a line: ``access``, ``error`` and ``model_api``.

With a log socket each line is a datagram for rsyslog, tagged ``clawdbot-<log>``; without one it is appended to
``<log>.log`` in the log folder. No line holds a secret, a signature or a message's text: exceptions are reported
by type and place, not by their text, unless they are our own.
"""

from __future__ import annotations

import datetime
import json
import logging
import logging.config
import os
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from clawdbot.config import Settings
from clawdbot.errors import ClawdbotError

LOGS = ("access", "error", "model_api")
# rsyslog cuts a message at 8 KiB by default.
MAX_LINE = 7000
MAX_FRAMES = 12
SEND_SECONDS = 0.5
# local0, and one of the severities that syslog and logging share.
FACILITY = 16
SEVERITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}

log = logging.getLogger(__name__)
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
access_log = logging.getLogger("clawdbot.access")
model_log = logging.getLogger("clawdbot.model_api")


class JsonFormatter(logging.Formatter):
    """Turns a record into one line of JSON; ``extra={"fields": {...}}`` adds fields."""

    def __init__(self, secrets: frozenset[str] = frozenset()) -> None:
        """Replace every one of ``secrets`` by ``***``, as a second line of defence."""
        super().__init__()
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {"time": moment.isoformat(timespec="milliseconds")}
        if record.name != access_log.name:
            line |= {"level": record.levelname.lower(), "logger": record.name, "pid": record.process}
        message = record.getMessage()
        if message:
            line["message"] = message
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line |= describe(record.exc_info[1])
        text = _encode(line)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        if len(text.encode("utf-8", "replace")) > MAX_LINE:
            cut = {"time": line["time"], "message": message[:500], "cut": True}
            text = _encode(cut)
        return text


def describe(error: BaseException) -> dict[str, Any]:
    """Return the type and the innermost places of ``error``; its text only if it is one of ours."""
    frames = traceback.extract_tb(error.__traceback__)[-MAX_FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno}:{frame.name}" for frame in frames]
    found: dict[str, Any] = {"error": type(error).__name__, "at": places}
    if isinstance(error, ClawdbotError):
        found["reason"] = str(error)
    return found


class LineHandler(logging.Handler):
    """Writes whole lines; what cannot be written goes to standard error rather than nowhere."""

    def write(self, record: logging.LogRecord, line: str) -> None:
        """Write one line."""
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        """Format and write."""
        line = self.format(record)
        try:
            self.write(record, line)
        except OSError:
            sys.stderr.write(line + "\n")


class FileLineHandler(LineHandler):
    """Appends each line with one write, so that processes may share the file, and notices a rotation."""

    def __init__(self, path: str) -> None:
        """Open the file at the first line."""
        super().__init__()
        self.path = path
        self._fd: int | None = None
        self._file = (-1, -1)

    def write(self, record: logging.LogRecord, line: str) -> None:  # noqa: ARG002  # the base class has it
        """Append one line, after reopening the file if its name belongs to another one by now."""
        try:
            now = os.stat(self.path)  # noqa: PTH116  # a hot path; Path.stat does the same, slower
            current = (now.st_dev, now.st_ino)
        except FileNotFoundError:
            current = (-1, -1)
        if self._fd is None or current != self._file or current == (-1, -1):
            self.close_file()
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
            opened = os.fstat(self._fd)
            self._file = (opened.st_dev, opened.st_ino)
        os.write(self._fd, (line + "\n").encode("utf-8", "replace"))

    def close_file(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Close the handler."""
        with self.lock or threading.RLock():
            self.close_file()
        super().close()


class SocketLineHandler(LineHandler):
    """Sends each line as a datagram to rsyslog's socket, connecting again after rsyslog restarted."""

    def __init__(self, path: str, tag: str) -> None:
        """Connect at the first line."""
        super().__init__()
        self.path = path
        self.tag = tag
        self._socket: socket.socket | None = None

    def write(self, record: logging.LogRecord, line: str) -> None:
        """Send one line; one new connection is tried before giving up."""
        priority = FACILITY * 8 + SEVERITY.get(record.levelno, 6)
        data = f"<{priority}>{self.tag}: {line}".encode("utf-8", "replace")
        try:
            self._connected().send(data)
        except OSError:
            self._disconnect()
            self._connected().send(data)

    def _connected(self) -> socket.socket:
        if self._socket is None:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            client.settimeout(SEND_SECONDS)
            try:
                client.connect(self.path)
            except OSError:
                client.close()
                raise
            self._socket = client
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """Close the handler."""
        self._disconnect()
        super().close()


def _handler(settings: Settings, log: str) -> dict[str, Any]:
    if settings.log_socket:
        kind = {"()": SocketLineHandler, "path": settings.log_socket, "tag": f"clawdbot-{log}"}
    else:
        kind = {"()": FileLineHandler, "path": str(settings.log_dir / f"{log}.log")}
    return {**kind, "formatter": "json"}


def dict_config(settings: Settings) -> dict[str, Any]:
    """Return the configuration for `logging.config.dictConfig`; gunicorn takes it as ``logconfig_dict``.

    Everything that is not an access or a model line goes to ``error``; warnings and worse are also shown on
    standard error, where systemd and Docker look.
    """
    quiet = {"handlers": [], "propagate": True, "level": "INFO"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": JsonFormatter, "secrets": settings.secrets()}},
        "handlers": {
            **{log: _handler(settings, log) for log in LOGS},
            "stderr": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stderr",
                "formatter": "json",
                "level": "WARNING",
            },
        },
        "root": {"handlers": ["error", "stderr"], "level": "INFO"},
        "loggers": {
            access_log.name: {"handlers": ["access"], "propagate": False, "level": "INFO"},
            model_log.name: {"handlers": ["model_api"], "propagate": False, "level": "INFO"},
            "gunicorn.error": quiet,
            "urllib3": {**quiet, "level": "ERROR"},
            "websockets": {**quiet, "level": "ERROR"},
        },
    }


def setup(settings: Settings) -> None:
    """Configure logging of this process."""
    logging.config.dictConfig(dict_config(settings))


def report(settings: Settings) -> None:
    """Log every problem of the configuration."""
    for problem in settings.problems:
        log.log(logging.ERROR if problem.fatal else logging.WARNING, "configuration: %s", problem)
