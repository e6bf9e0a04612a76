"""The command line: ``python -m clawdbot {worker,check,init,queue,dead,push}``."""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from clawdbot import config, logs, metrics_folder
from clawdbot.config import Problem, Settings
from clawdbot.errors import ClawdbotError, ConfigError

if TYPE_CHECKING:
    from clawdbot.engine.queue import Queue

# sysexits.h; a service manager may be told not to restart on it.
EX_CONFIG = 78
EX_UNAVAILABLE = 69
REDIS_SECONDS = 5.0
SWITCH_SECONDS = 0.0005


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    parsed = _parser().parse_args(arguments)
    settings = config.load(os.environ)
    command: Callable[[Settings, argparse.Namespace], int] = parsed.command
    try:
        return command(settings, parsed)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return EX_CONFIG
    except ClawdbotError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except redis.RedisError as error:
        place = f"{settings.redis.host}:{settings.redis.port}"
        print(
            f"error: Redis at {place} does not answer ({type(error).__name__}); is it running, and are host and port"
            " in cache.yaml and CLAWDBOT_REDIS_PASSWORD right?",
            file=sys.stderr,
        )
        return EX_UNAVAILABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clawdbot", description="Looks after the bot.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Settings, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("worker", _worker, "Answer messages until SIGTERM, then finish what is in work.")
    check = add("check", _check, "Validate the configuration and name every problem; exit 1 if there is one.")
    check.add_argument("--start", action="store_true", help="exit 1 only for what keeps the bot from starting")
    init = add("init", _init, "Create the missing configuration files, with fresh secrets.")
    init.add_argument("--config-dir", type=Path, required=True)
    init.add_argument("--model-type", default="", help="preset to set")
    init.add_argument("--port", default="", help="port to set")
    add("queue", _queue, "Show how much waits.")
    push = add("push", _push, "Write to the DingTalk group of webhook_url.")
    push.add_argument("text")
    dead = commands.add_parser("dead", help="Look after the messages that were given up.")
    verbs = dead.add_subparsers(required=True, metavar="VERB")
    for name, command, text in (
        ("list", _dead_list, "List them, oldest first."),
        ("retry", _dead_retry, "Queue them again at the end of their conversations."),
        ("drop", _dead_drop, "Forget them."),
    ):
        verb = verbs.add_parser(name, help=text, description=text)
        verb.set_defaults(command=command)
        if name != "list":
            verb.add_argument("message", nargs="*", help="key as `list` shows it")
            verb.add_argument("--all", action="store_true", help="all of them")
    return parser


def _worker(settings: Settings, _: argparse.Namespace) -> int:
    metrics_folder.use("worker", os.environ)
    # Imported late here and below: prometheus_client decides at its import where metrics live.
    from clawdbot import factory

    logs.setup(settings)
    logs.report(settings)
    # A thread that has just written to a socket shall not wait long for its next turn; see clawdbot.sent.
    sys.setswitchinterval(SWITCH_SECONDS)
    worker = factory.worker(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    logging.getLogger(__name__).info("worker started")
    worker.run()
    logging.getLogger(__name__).info("worker ended")
    return 0


def _check(settings: Settings, parsed: argparse.Namespace) -> int:
    def fatal(problem: Problem) -> bool:
        platform = Path(problem.place).name in config.PLATFORM_FILES
        return problem.fatal and not (parsed.start and platform)

    for problem in settings.problems:
        print(f"{'error' if fatal(problem) else 'to do' if problem.fatal else 'warning'}: {problem}")
    if any(map(fatal, settings.problems)):
        return 1
    if not settings.problems:
        print("configuration: good")
    return 0


def _init(_: Settings, parsed: argparse.Namespace) -> int:
    from clawdbot import setup
    from clawdbot.config import rules

    values = {name: os.environ.get(name, "") for name in rules.model_variables()}
    values |= {"MODEL_TYPE": parsed.model_type or values["MODEL_TYPE"], "CLAWDBOT_PORT": parsed.port}
    for line in setup.create(parsed.config_dir, values):
        print(line)
    return 0


def _queue_of(settings: Settings) -> Queue:
    from clawdbot.engine.queue import Queue
    from clawdbot.store import connect

    return Queue(connect(settings.redis, timeout=REDIS_SECONDS))


def _queue(settings: Settings, _: argparse.Namespace) -> int:
    depth = _queue_of(settings).depth()
    print(f"messages waiting:      {depth.messages}")
    print(f"oldest, seconds:       {depth.oldest_seconds:.0f}")
    print(f"conversations delayed: {depth.delayed}")
    print(f"dead letters:          {depth.dead}")
    return 0


def _dead_list(settings: Settings, _: argparse.Namespace) -> int:
    for letter in _queue_of(settings).dead():
        died = datetime.datetime.fromtimestamp(letter.died_ms / 1000, datetime.UTC)
        print(f"{died:%Y-%m-%d %H:%M:%S}Z  {letter.message.key}  attempts={letter.attempts}  {letter.reason}")
    return 0


def _each_dead(settings: Settings, parsed: argparse.Namespace, verb: str) -> int:
    queue = _queue_of(settings)
    letters = queue.dead()
    if not parsed.all:
        known = {letter.message.key for letter in letters}
        for unknown in set(parsed.message) - known:
            print(f"error: {unknown}: no such dead letter; see: python -m clawdbot dead list", file=sys.stderr)
        if not parsed.message or not set(parsed.message) <= known:
            if not parsed.message:
                print("error: name messages, or say --all", file=sys.stderr)
            return 1
        letters = [letter for letter in letters if letter.message.key in parsed.message]
    act = queue.revive if verb == "retry" else queue.drop
    print(f"{verb}: {sum(act(letter) for letter in letters)}")
    return 0


def _dead_retry(settings: Settings, parsed: argparse.Namespace) -> int:
    return _each_dead(settings, parsed, "retry")


def _dead_drop(settings: Settings, parsed: argparse.Namespace) -> int:
    return _each_dead(settings, parsed, "drop")


def _push(settings: Settings, parsed: argparse.Namespace) -> int:
    from clawdbot import factory
    from clawdbot.http import Http
    from clawdbot.limits import Limiter
    from clawdbot.platforms.base import Services
    from clawdbot.platforms.dingtalk.client import DingTalkSender
    from clawdbot.store import connect

    if settings.dingtalk is None:
        raise ConfigError("dingtalk.yaml is not usable; run: python -m clawdbot check")
    client = connect(settings.redis, timeout=REDIS_SECONDS)
    services = Services(client, Http(), Limiter(client), factory.cache(settings, client))
    DingTalkSender(settings.dingtalk, services).push(parsed.text)
    print("sent")
    return 0
