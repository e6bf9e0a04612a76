"""Records what a release leaves in Redis, for the releases after it: see `test_releases`.

    git archive v2.0.0:app clawdbot app.py gunicorn.conf.py | xz -9 > tests/vectors/release_2.tar.xz
    mkdir /tmp/2 && tar -xJf tests/vectors/release_2.tar.xz -C /tmp/2
    PYTHONPATH=../simulator .venv/bin/python -m tests.record_release /tmp/2 > tests/vectors/release_2.json

The release really runs, with web, workers, Redis and the simulator, until its workers are killed in the middle of it.
What is printed is Redis' append-only file, as JSON; times at which keys end are a day from when it is read.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from pathlib import Path

from clawdbot_simulator.users import DingTalk, Feishu, Question

from .conftest import eventually
from .site import Site, site

DAY_MS = 86_400_000
PICTURE = "img_v3_0001"


def commands(folder: Path) -> list[list[str]]:
    """Read the append-only file below ``folder`` (https://redis.io/docs/latest/develop/reference/protocol-spec/)."""
    found = []
    for path in sorted(folder.glob("appendonlydir/*.incr.aof")):
        data = path.read_bytes()
        while data.startswith(b"*"):
            head, _, data = data.partition(b"\r\n")
            command = []
            for _ in range(int(head[1:])):
                size, _, data = data.partition(b"\r\n")
                command.append(data[: int(size[1:])].decode("utf-8", "surrogateescape"))
                data = data[int(size[1:]) + 2 :]
            found.append(_relative(command))
    # Access tokens and what limits them mean nothing to another site.
    left_out = re.compile(r"(MULTI|EXEC|SELECT) |\w+ clawdbot:token", re.IGNORECASE)
    return [command for command in found if not left_out.match(" ".join([*command, ""]))]


def _relative(command: list[str]) -> list[str]:
    """Return the command with times to live instead of ends."""
    upper = [part.upper() for part in command]
    if upper[0] == "SET" and "PXAT" in upper:
        at = upper.index("PXAT")
        return [*command[:at], "PX", str(DAY_MS), *command[at + 2 :]]
    if upper[0] == "PEXPIREAT":
        return ["PEXPIRE", command[1], str(DAY_MS)]
    return command


def ask(bot: Site, question: Question) -> None:
    """Send it; the release must take it."""
    assert question.callback().post(bot.url).status_code == 200


def play(bot: Site) -> None:
    """Lead the release into every state that a message may be in."""
    ding, fei = DingTalk(bot.config), Feishu(bot.config)
    for user in (ding, fei):
        ask(bot, user.text("Answered", "你好，answered"))
    eventually(lambda: len(bot.control.messages()) == 2)
    # A platform that refuses for good: dead letters.
    for endpoint in ("dingtalk.*", "feishu.*"):
        bot.control.add_fault(endpoint, "error", status=400, body={"code": 230001, "errcode": 310000})
    for user in (ding, fei):
        ask(bot, user.text("Dead", "dead \U0001f600"))
    eventually(lambda: bot.queue().client.hlen("clawdbot:dead") == 2, 30)
    # A model that is away: a conversation that waits for its next attempt.
    bot.control.clear_faults()
    bot.control.add_fault("model.*", "server_error")
    ask(bot, ding.text("Waiting", "waiting 1"))
    eventually(lambda: bot.queue().client.zcard("clawdbot:delayed") == 1, 30)
    # Killed while the platform works on the first part of an answer: written, marked, not settled.
    bot.control.clear_faults()
    bot.control.add_fault("dingtalk.*", "slow", seconds=20)
    ask(bot, ding.text("Begun", "begun 1"))
    eventually(lambda: len(bot.queue().client.keys("clawdbot:sent:dingtalk:*:0")) == 2, 30)
    for name in ("worker-a", "worker-b"):
        bot.kill(name)
    # Nobody has begun these.
    ask(bot, ding.text("Begun", "begun 2"))
    ask(bot, ding.text("Waiting", "waiting 2"))
    ask(bot, fei.text("New", "new 1", group="team"))
    ask(bot, fei.image("New", PICTURE))
    ask(bot, ding.rich_text("New", "look", ["code1"], group="team"))


def main(app: Path) -> None:
    """Print what the release in ``app`` leaves."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with site(folder / "site", app) as bot:
            play(bot)
            time.sleep(1)
        found = commands(folder / "site/redis")
    print("[", ",\n".join(map(json.dumps, found)), "]", sep="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
