"""The command line, ``python -m clawdbot COMMAND``: the services, and what looks after the bot."""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import redis

from clawdbot import config, logs, metrics_folder
from clawdbot.config import DingTalkConfig, FeishuConfig, Problem, Settings, voices
from clawdbot.errors import ClawdbotError, ConfigError, SpoolError

if TYPE_CHECKING:
    from clawdbot.engine.queue import Queue

# sysexits.h; a service manager may be told not to restart on it.
EX_CONFIG = 78
EX_UNAVAILABLE = 69
REDIS_SECONDS = 5.0
CHECK_SECONDS = 2.0
SWITCH_SECONDS = 0.0005
DRAIN_PAUSE = 0.2
# So much of what cannot be read is shown.
SHOWN_BYTES = 2000


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
        print(f"error: {_redis_trouble(settings, error)}", file=sys.stderr)
        return EX_UNAVAILABLE


def _redis_trouble(settings: Settings, error: redis.RedisError) -> str:
    from clawdbot.engine.failures import judge

    place = settings.redis.place
    cure = "is it running, and are host and port in cache.yaml and CLAWDBOT_REDIS_PASSWORD right?"
    return f"{judge(error).reason} ({place}, {type(error).__name__}); {cure}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clawdbot", description="Looks after the bot.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Settings, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    add("worker", _worker, "Answer messages until SIGTERM, then finish what is in work.")
    text = "Stay connected to the platforms whose intake is stream or connection until SIGTERM, then finish what came."
    add("receiver", _receiver, text)
    check = add("check", _check, "Validate the configuration and name every problem; exit 1 if there is one.")
    check.add_argument("--start", action="store_true", help="exit 1 only for what keeps the bot from starting")
    init = add("init", _init, "Create the missing configuration files, with fresh secrets.")
    init.add_argument("--config-dir", type=Path, required=True)
    init.add_argument("--model-type", default="", help="preset to set")
    init.add_argument("--port", default="", help="port to set")
    add("queue", _queue, "Show how much waits.")
    text = "Hand over what this node's disk kept while Redis was away, and wait until nothing is left."
    drain = add("drain", _drain, text)
    drain.add_argument("--seconds", type=float, default=60, help="give up after so long (%(default)s)")
    text = "Where another site answers: give it what was left in this one's queue, whatever it does not know yet."
    add("hand-over", _hand_over, text)
    push = add("push", _push, "Write to the DingTalk group of webhook_url.")
    push.add_argument("text")
    rules = add("rules", _rules, "Check a bot.yaml before it counts; exit 1 if it is not sound.")
    rules.add_argument("file", type=Path)
    explain = add("explain", _explain, "Say which rules of bot.yaml hold for somebody, and where they stand.")
    explain.add_argument("user", help="id of the person, as /status and `usage` show it")
    explain.add_argument("group", nargs="?", default="", help="id of the chat")
    explain.add_argument("--platform", choices=voices.PLATFORMS, default="", help="where the ids do not tell")
    used = add("usage", _usage, "Show what was used, by day, person, group and model.")
    used.add_argument("--month", default="", help="such as 2027-01; by default the present one")
    used.add_argument("--csv", action="store_true", help="for a spreadsheet")
    dead = commands.add_parser("dead", help="Look after the messages that were given up.")
    verbs = dead.add_subparsers(required=True, metavar="VERB")
    for name, command, text in (
        ("list", _dead_list, "List them, oldest first."),
        ("retry", _dead_retry, "Queue them again, in the order in which their users wrote."),
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
    return _run("worker", factory.worker(settings))


def _receiver(settings: Settings, _: argparse.Namespace) -> int:
    metrics_folder.use("receiver", os.environ)
    from clawdbot import factory

    logs.setup(settings)
    logs.report(settings)
    return _run("receiver", factory.receiver(settings))


class _Service(Protocol):
    def run(self) -> None: ...

    def stop(self) -> None: ...


def _run(name: str, service: _Service) -> int:
    """Run a service until it is told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: service.stop())
    log = logging.getLogger(__name__)
    log.info("%s started", name)
    service.run()
    log.info("%s ended", name)
    return 0


def _check(settings: Settings, parsed: argparse.Namespace) -> int:
    def fatal(problem: Problem) -> bool:
        platform = Path(problem.place).name in config.PLATFORM_FILES
        return problem.fatal and not (parsed.start and platform)

    # The bot starts without Redis, and goes on when it is there.
    problems = [*settings.problems]
    role, answers = ("", "") if parsed.start else _role_of(settings)
    if not parsed.start:
        problems += [*_redis_problems(settings, role), *_spool_problems(settings), *_permission_problems(settings)]
        problems += _connection_problems(settings, role)
    for problem in problems:
        print(f"{'error' if fatal(problem) else 'to do' if problem.fatal else 'warning'}: {problem}")
    if not parsed.start:
        for line in _former_secrets(settings):
            print(f"note: {line}")
        if settings.site:
            print(f"note: site {settings.site.name}: {role}; {answers or 'none is known to'} answers")
    if any(map(fatal, problems)):
        return 1
    if not problems:
        print("configuration: good")
    return 0


def _former_secrets(settings: Settings) -> Iterator[str]:
    """What is still accepted although it was replaced, and whether it can be closed: who has used it last."""
    from clawdbot import former, store
    from clawdbot.notes import SharedNotes

    def date(seconds: float) -> str:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%d %H:%M}Z"

    with store.connect(settings.redis, timeout=CHECK_SECONDS) as client:
        for part, replaced in settings.former().items():
            end = f"accepted until {date(replaced.until)}" if time.time() < replaced.until else "refused"
            for name in replaced.values:
                try:
                    last = former.last_used(SharedNotes(client), part, name, replaced.until)
                    used = f"last used {date(last)}" if last else "not used so far"
                except redis.RedisError:
                    used = "last use unknown, since Redis does not answer"
                yield f"{part}: the former {name} is {end}; {used}"


def _role_of(settings: Settings) -> tuple[str, str]:
    """What this site does, and which one answers; both empty where there is only one."""
    from clawdbot.sites import sites_of

    sites = sites_of(settings)
    if sites is None:
        return "", ""
    sites.look()
    return sites.role.value, sites.answers


# What to do where a platform takes no cards, and where it takes no signs.
CARD_CURES = {
    "dingtalk": ("dingtalk.yaml", "card_calls", "Card.Instance.Write and Card.Streaming.Write", "card_calls: 0"),
    "feishu": ("feishu.js", "cards", "cardkit:card:write", "cards: false"),
}
SIGN_CURES = {
    "dingtalk": ("dingtalk.yaml", "app_key", "that it names"),
    "feishu": ("feishu.js", "app_id", "im:message.reactions:write_only"),
}


def _permission_problems(settings: Settings) -> list[Problem]:
    """What users do not see before the answer although they should, as the worker has found out."""
    from clawdbot import cards, signs, store
    from clawdbot.calls import SHARE, Calls
    from clawdbot.notes import SharedNotes

    found = []
    with store.connect(settings.redis, timeout=CHECK_SECONDS) as client, contextlib.suppress(redis.RedisError):
        notes = SharedNotes(client)
        for platform, part in (("dingtalk", settings.dingtalk), ("feishu", settings.feishu)):
            most, made = part.monthly_calls if part else 0, Calls(client).made(platform)
            if most and made >= most * SHARE:
                cure = f"{made} of {most} calls of this month are made, so answers do not grow until the next one"
                found.append(Problem(CARD_CURES[platform][0], "monthly_calls", cure, fatal=False))
        for platform, (place, key, permission, off) in CARD_CURES.items():
            if reason := notes.get(cards.off_key(platform)):
                cure = f"give the app the permission {permission} and publish it, or write {off}"
                found.append(Problem(place, key, f"answers do not grow: {reason}; {cure}", fatal=False))
        for platform, (place, key, permission) in SIGN_CURES.items():
            if reason := notes.get(signs.off_key(platform)):
                cure = f"give the app the permission {permission} and publish it"
                message = f"a question gets no sign that the bot is at it: {reason}; {cure}"
                found.append(Problem(place, key, message, fatal=False))
    return found


def _connection_problems(settings: Settings, role: str) -> list[Problem]:
    """Platforms whose events come over connections, and there is none."""
    from clawdbot import store
    from clawdbot.connected import Connected

    if role == "standby":
        return []
    found = []
    files = dict(zip(voices.PLATFORMS, config.PLATFORM_FILES, strict=True))
    with store.connect(settings.redis, timeout=CHECK_SECONDS) as client, contextlib.suppress(redis.RedisError):
        for platform in settings.connected():
            if not Connected(client).count(platform):
                cure = "no receiver is connected, so nobody is answered; see docs/runbooks/NobodyConnected.md"
                found.append(Problem(files[platform], "intake", cure, fatal=False))
    return found


def _redis_problems(settings: Settings, role: str) -> list[Problem]:
    from clawdbot import store

    try:
        with store.connect(settings.redis, timeout=CHECK_SECONDS) as client:
            known = client.info()
            # Where somebody else runs Redis, its settings may be nobody's business.
            with contextlib.suppress(redis.ResponseError):
                known |= client.config_get("appendfsync")
    except redis.RedisError as error:
        return [Problem("cache.yaml", "host", _redis_trouble(settings, error), fatal=False)]
    version = int(str(known["redis_version"]).split(".")[0])
    if version < store.OLDEST_REDIS:
        cure = f"Redis {version} is too old; install version {store.OLDEST_REDIS}.0 or later"
        return [Problem("cache.yaml", "host", cure)]
    found = []
    replicas, wanted = int(known.get("connected_slaves", 0)), len(settings.redis.servers) - 1
    if replicas < wanted:
        found.append(f"Redis has {replicas} of {wanted} replicas; when one more server dies, nobody is answered")
    # One that replaced the bot's own may be set up for something else.
    if known.get("role") != "master" and role != "standby":
        found.append("Redis is a replica; name its primary")
    if not known.get("aof_enabled") or known.get("appendfsync", "always") != "always":
        found.append("Redis may forget at a restart what was accepted; set appendonly yes and appendfsync always")
    if str(known.get("maxmemory_policy", "")).startswith("allkeys"):
        found.append("Redis drops accepted messages when its memory is full; set maxmemory-policy volatile-ttl")
    if 0 < int(known.get("maxmemory", 0)) <= int(known.get("used_memory", 0)):
        found.append(
            "the memory of Redis is full, so that new messages wait on the nodes' disks; see docs/runbooks/RedisFull.md"
        )
    return [Problem("cache.yaml", "host", each, fatal=False) for each in found]


def _spool_problems(settings: Settings) -> Iterator[Problem]:
    from clawdbot.engine.spool import spool_of

    if spool := spool_of(settings):
        try:
            spool.held()
        except SpoolError as error:
            yield Problem(
                "environment",
                "CLAWDBOT_SPOOL_DIR",
                f"callbacks that Redis cannot take are refused: {error}",
                fatal=False,
            )


def _init(_: Settings, parsed: argparse.Namespace) -> int:
    from clawdbot import setup
    from clawdbot.config import rules

    values = {name: os.environ.get(name, "") for name in rules.model_variables()}
    values |= {"MODEL_TYPE": parsed.model_type or values["MODEL_TYPE"], "CLAWDBOT_PORT": parsed.port}
    for line in setup.create(parsed.config_dir, values):
        print(line)
    return 0


def _rules(_: Settings, parsed: argparse.Namespace) -> int:
    _found, problems = config.bot_file(parsed.file)
    for problem in problems:
        print(f"{'error' if problem.fatal else 'warning'}: {problem}")
    if any(problem.fatal for problem in problems):
        return 1
    print(f"{parsed.file}: {'good' if parsed.file.exists() else 'is not there, so the defaults hold'}")
    return 0


def _explain(settings: Settings, parsed: argparse.Namespace) -> int:
    # Feishu's ids say what they are.
    feishu = parsed.user.startswith("ou_") or parsed.group.startswith("oc_")
    platform = parsed.platform or ("feishu" if feishu else "dingtalk")
    print(f"platform: {platform}")
    found: DingTalkConfig | FeishuConfig | None = settings.feishu if platform == "feishu" else settings.dingtalk
    access = found.access if found else config.Access()
    for ids, name, wanted in (
        (access.users, "allow_users", parsed.user),
        (access.conversations, "allow_conversations", parsed.group),
    ):
        if ids and wanted:
            print(f"{name}: {'names it' if wanted in ids else 'does not name it, so the bot does not answer'}")
    for ruled in settings.bot.explain(platform, parsed.group, parsed.user):
        value = ", ".join(ruled.value) if isinstance(ruled.value, tuple) else ruled.value
        print(f"{ruled.name}: {_plain(str(value)) or '-'}  ({ruled.where or 'default'})")
    return 0


USAGE_COLUMNS = ("day", "platform", "person", "group", "model", "answers", "prompt", "completion", "cost", "currency")


def _usage(settings: Settings, parsed: argparse.Namespace) -> int:
    from clawdbot import usage
    from clawdbot.store import connect

    month = parsed.month or f"{datetime.datetime.now(datetime.UTC).astimezone():%Y-%m}"
    if not re.fullmatch(r"\d{4}-\d{2}", month):
        raise ConfigError(f"--month {month}: write year and month, such as 2027-01")
    rows: list[tuple[object, ...]] = [USAGE_COLUMNS]
    for line in usage.Usage(connect(settings.redis, timeout=REDIS_SECONDS)).lines(month):
        cost = f"{line.micros / usage.MILLION:.6f}"
        counts = (line.answers, line.prompt, line.completion, cost, settings.bot.currency)
        rows.append((line.day, line.platform, line.person, line.group, line.model, *counts))
    if parsed.csv:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return 0
    shown = [[_plain(str(cell)) or "-" for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in shown) for column in range(len(USAGE_COLUMNS))]
    for row in shown:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _queue_of(settings: Settings) -> Queue:
    from clawdbot.engine.queue import Queue
    from clawdbot.store import connect

    return Queue(connect(settings.redis, timeout=REDIS_SECONDS))


def _queue(settings: Settings, _: argparse.Namespace) -> int:
    from clawdbot.engine.spool import spool_of

    if spool := spool_of(settings):
        try:
            held = spool.held()
            print(f"on this node's disk:   {held.messages}")
            print(f"oldest of it, seconds: {held.oldest_seconds:.0f}")
        except SpoolError as error:
            print(f"on this node's disk:   unknown: {error}")
    depth = _queue_of(settings).depth()
    print(f"messages waiting:      {depth.messages}")
    print(f"oldest, seconds:       {depth.oldest_seconds:.0f}")
    print(f"conversations delayed: {depth.delayed}")
    print(f"dead letters:          {depth.dead}")
    return 0


def _drain(settings: Settings, parsed: argparse.Namespace) -> int:
    # Nobody adds up what this process counts.
    os.environ.pop(metrics_folder.VARIABLE, None)
    from clawdbot.engine.failures import judge
    from clawdbot.engine.spool import spool_of
    from clawdbot.ingress import receiving
    from clawdbot.sites import sites_of

    spool = spool_of(settings)
    sites = sites_of(settings)
    choose = receiving(settings.redis, sites)
    end = time.monotonic() + parsed.seconds
    reason = ""
    while spool and (left := spool.held().messages):
        if time.monotonic() > end:
            text = f"{left} messages still wait on this node's disk{reason}; mend that and run it again"
            print(f"error: {text}", file=sys.stderr)
            return EX_UNAVAILABLE
        if sites:
            sites.look()
        queue = choose()
        try:
            if queue:
                spool.hand_over(queue)
        except redis.RedisError as error:
            reason = f": {judge(error).reason}"
        time.sleep(DRAIN_PAUSE)
    print("nothing waits on this node's disk")
    return 0


def _hand_over(settings: Settings, _: argparse.Namespace) -> int:
    from clawdbot.engine.leftover import hand_over
    from clawdbot.engine.queue import Queue
    from clawdbot.sites import Role, sites_of
    from clawdbot.store import connect

    sites = sites_of(settings)
    if sites is None or settings.site is None:
        raise ConfigError("cache.yaml names no other site, so there is nobody to hand over to")
    sites.look()
    if sites.role is not Role.STANDBY:
        print(f"error: {settings.site.other} does not answer for this site: {sites.role.value}", file=sys.stderr)
        return EX_UNAVAILABLE
    told = hand_over(_queue_of(settings), Queue(connect(settings.site.redis, timeout=REDIS_SECONDS)))
    print(f"handed over to {settings.site.other}: {told.messages}")
    print(f"known there already:   {told.known}")
    print(f"dead letters:          {told.dead}")
    return 0


def _dead_list(settings: Settings, _: argparse.Namespace) -> int:
    from clawdbot.store import raw_bytes

    for letter in _queue_of(settings).dead():
        died = datetime.datetime.fromtimestamp(letter.died_ms / 1000, datetime.UTC)
        name, reason = _plain(letter.key), _plain(letter.reason)
        print(f"{died:%Y-%m-%d %H:%M:%S}Z  {name}  attempts={letter.attempts}  {reason}")
        raw = letter.answer or ("" if letter.message else letter.dumped)
        if raw:
            print(f"  {raw_bytes(raw)[:SHOWN_BYTES]!r}")
    return 0


def _plain(text: str) -> str:
    """Show ``text`` on one line, whatever a terminal would make of it."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _each_dead(settings: Settings, parsed: argparse.Namespace, verb: str) -> int:
    queue = _queue_of(settings)
    if not parsed.message and not parsed.all:
        print("error: name messages, or say --all", file=sys.stderr)
        return 1
    if parsed.all:
        letters = list(queue.dead())
    else:
        found = {name: queue.find_dead(name) for name in parsed.message}
        letters = [letter for letter in found.values() if letter]
        for unknown in [name for name, letter in found.items() if not letter]:
            print(f"error: {unknown}: no such dead letter; see: clawdbot dead list", file=sys.stderr)
        if len(letters) < len(found):
            return 1
    act = queue.revive if verb == "retry" else queue.drop
    print(f"{verb}: {act(letters)}")
    return 0


def _dead_retry(settings: Settings, parsed: argparse.Namespace) -> int:
    return _each_dead(settings, parsed, "retry")


def _dead_drop(settings: Settings, parsed: argparse.Namespace) -> int:
    return _each_dead(settings, parsed, "drop")


def _push(settings: Settings, parsed: argparse.Namespace) -> int:
    from clawdbot import factory
    from clawdbot.http import Http
    from clawdbot.limits import Limiter
    from clawdbot.notes import SharedNotes
    from clawdbot.platforms.base import Services
    from clawdbot.platforms.dingtalk.client import DingTalkSender
    from clawdbot.store import connect

    if settings.dingtalk is None:
        raise ConfigError("dingtalk.yaml is not usable; run: python -m clawdbot check")
    client = connect(settings.redis, timeout=REDIS_SECONDS)
    services = Services(SharedNotes(client), Http(), Limiter(client), factory.cache(settings, client))
    DingTalkSender(settings.dingtalk, services).push(parsed.text)
    print("sent")
    return 0
