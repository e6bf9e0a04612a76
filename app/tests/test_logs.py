"""Logs: one JSON object a line, nothing secret, nothing lost at a rotation."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clawdbot import config, logs
from clawdbot.errors import Retry

from .conftest import eventually

pytestmark = pytest.mark.usefixtures("clean_logging")

WRITER = """
import logging, sys, time
from clawdbot import logs
handler = logs.FileLineHandler(sys.argv[1])
handler.setFormatter(logging.Formatter("%(message)s"))
log = logging.getLogger("writer"); log.addHandler(handler); log.setLevel("INFO")
begin = time.monotonic()
for number in range(int(sys.argv[3])):
    time.sleep(max(0.0, begin + number / 250 - time.monotonic()))
    log.info("%s %d", sys.argv[2], number)
"""


def lines(environ: dict[str, str], log: str) -> list[dict[str, object]]:
    path = Path(environ["CLAWDBOT_LOG_DIR"]) / f"{log}.log"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_each_log_has_its_file(environ: dict[str, str]) -> None:
    logs.setup(config.load(environ))
    logs.access_log.info("", extra={"fields": {"status": 200, "path": "/答"}})
    logs.model_log.info("", extra={"fields": {"outcome": "success"}})
    logging.getLogger("clawdbot.x").warning("took %d s", 3)
    [access], [model], [error] = (lines(environ, log) for log in ("access", "model_api", "error"))
    assert set(access) == {"time", "status", "path"}
    assert (access["path"], model["outcome"]) == ("/答", "success")
    assert (error["message"], error["level"], error["logger"]) == ("took 3 s", "warning", "clawdbot.x")
    assert oct((Path(environ["CLAWDBOT_LOG_DIR"]) / "error.log").stat().st_mode)[-3:] in {"640", "600"}


def test_secrets_and_foreign_texts_stay_out(environ: dict[str, str]) -> None:
    environ["CLAWDBOT_REDIS_PASSWORD"] = "hunter2-redis"
    settings = config.load(environ)
    logs.setup(settings)
    assert settings.dingtalk
    log = logging.getLogger("clawdbot.x")
    log.error("secret %s and %s", settings.dingtalk.app_secret, "hunter2-redis")
    try:
        raise KeyError("what the user wrote")
    except KeyError:
        log.exception("failed")
    try:
        raise Retry("model: status 500")
    except Retry:
        log.exception("failed")
    text = json.dumps(lines(environ, "error"))
    assert "secret *** and ***" in text
    assert "what the user wrote" not in text
    assert "KeyError" in text
    assert "model: status 500" in text
    assert "test_logs.py" in text


def test_long_lines_are_cut(environ: dict[str, str]) -> None:
    logs.setup(config.load(environ))
    logging.getLogger("clawdbot.x").info("x" * 100_000)
    [line] = lines(environ, "error")
    assert line["cut"] is True
    assert len(json.dumps(line)) < logs.MAX_LINE


def test_full_disk_or_missing_folder_does_not_stop_the_bot(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(environ["CLAWDBOT_LOG_DIR"])
    logs.setup(config.load(environ))
    logs.access_log.info("", extra={"fields": {"status": 200}})
    assert '"status": 200' in capsys.readouterr().err


def test_rsyslog_socket(environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "log.sock")

    def listen() -> socket.socket:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.bind(path)
        server.settimeout(2)
        return server

    logs.setup(config.load(environ | {"CLAWDBOT_LOG_SOCKET": path}))
    with listen() as server:
        logs.access_log.info("", extra={"fields": {"n": 1}})
        logs.model_log.warning("", extra={"fields": {"n": 2}})
        first, second = server.recv(9000).decode(), server.recv(9000).decode()
    assert first.startswith("<134>clawdbot-access: {")
    assert second.startswith("<132>clawdbot-model_api: {")
    assert json.loads(first.partition(": ")[2])["n"] == 1
    logs.access_log.info("", extra={"fields": {"n": "while it is away"}})
    assert "while it is away" in capsys.readouterr().err
    Path(path).unlink()
    with listen() as server:
        logs.access_log.info("", extra={"fields": {"n": 3}})
        assert '"n": 3' in server.recv(9000).decode()
    assert not list(Path(environ["CLAWDBOT_LOG_DIR"]).iterdir())


def rotate(log: Path) -> None:
    """What logrotate does for `rotate 7, compress, delaycompress, create 640`, in its order."""
    for number in range(6, 1, -1):
        older = log.with_name(f"{log.name}.{number}.gz")
        if older.exists():
            older.rename(log.with_name(f"{log.name}.{number + 1}.gz"))
    first = log.with_name(f"{log.name}.1")
    if first.exists():
        log.with_name(f"{log.name}.2.gz").write_bytes(gzip.compress(first.read_bytes()))
        first.unlink()
    log.rename(first)
    time.sleep(0.01)
    os.close(os.open(log, os.O_WRONLY | os.O_CREAT, 0o640))
    log.chmod(0o640)


def test_rotation_under_writes_loses_nothing(tmp_path: Path) -> None:
    """Two processes, 500 lines a second together, seven rotations: every line in exactly one file."""
    log = tmp_path / "access.log"
    count = 1250
    command = [sys.executable, "-c", WRITER, str(log)]
    writers = [subprocess.Popen([*command, name, str(count)], cwd=Path(__file__).parents[1]) for name in ("a", "b")]
    eventually(lambda: log.exists() and log.stat().st_size)
    for _ in range(7):
        time.sleep(0.5)
        rotate(log)
    for writer in writers:
        assert writer.wait(120) == 0
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    found: list[str] = []
    for file in files:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        found += content.decode().splitlines()
    assert sorted(found) == sorted(f"{name} {number}" for name in ("a", "b") for number in range(count))


def test_configuration_problems_are_reported(environ: dict[str, str]) -> None:
    settings = config.load(environ | {"CLAWDBOT_PORT": "x"})
    logs.setup(settings)
    logs.report(settings)
    assert "CLAWDBOT_PORT" in str(lines(environ, "error")[0]["message"])
