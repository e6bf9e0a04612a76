"""Command line: serve, converse, load, new-config."""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

from clawdbot_simulator.client import Control, ControlError
from clawdbot_simulator.config import Config, ConfigError, load_config
from clawdbot_simulator.converse import (
    PLATFORM_NAMES,
    ask,
    default_questions,
    own_questions,
    transcript,
)
from clawdbot_simulator.load import Load, Plan
from clawdbot_simulator.server import BACKLOG, build_server


def platforms(text: str) -> list[str]:
    """Comma-separated platform names; argparse shows what is wrong with them."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PLATFORM_NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PLATFORM_NAMES)}")
    return names


def positive(text: str) -> float:
    """A number above zero."""
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return number


def count(text: str) -> int:
    """A whole number above zero."""
    return int(positive(str(int(text))))


def share(text: str) -> float:
    """A number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return number


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    main = argparse.ArgumentParser(prog="clawdbot_simulator", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)

    new = commands.add_parser("new-config", help="print a configuration with fresh secrets")
    new.add_argument("--public-url", default="http://127.0.0.1:9000")

    serve = commands.add_parser("serve", help="play the platforms' servers and the model")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=9000)

    converse = commands.add_parser("converse", help="write to the bot and show its answers")
    converse.add_argument("--message", action="append", help="what to write, instead of the usual; may be repeated")
    converse.add_argument("--timeout", type=float, default=30, help="seconds to wait for an answer")

    load = commands.add_parser("load", help="write at a constant rate and account for every message")
    load.add_argument("--rate", type=positive, default=50, help="messages a second")
    load.add_argument("--duration", type=positive, default=60, help="seconds")
    load.add_argument("--conversations", type=count, default=40)
    load.add_argument("--duplicates", type=share, default=0.0, help="share of messages delivered twice, 0 to 1")
    load.add_argument(
        "--retry-after",
        type=float,
        action="append",
        default=[],
        help="seconds until a failed callback is sent again; may be repeated (Feishu: 15, 300, ...)",
    )
    load.add_argument("--settle", type=float, default=60, help="seconds to wait for the last answers")

    for command in (serve, converse, load):
        command.add_argument("--config", type=Path, required=True)
    for command in (converse, load):
        command.add_argument(
            "--callback-base",
            default="",
            help="the bot, such as http://lb1; without it over the connections that it has opened",
        )
        command.add_argument("--simulator", help="where `serve` answers; default: its public_url")
        command.add_argument("--ca-file", help="certificates to trust for an https bot")
        command.add_argument("--platforms", type=platforms, default=list(PLATFORM_NAMES))
    return main


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status: 0 fine, 1 the bot failed, 2 the command cannot run."""
    options = parser().parse_args(arguments)
    if options.command == "new-config":
        print(Config.random(options.public_url.rstrip("/")).to_json())
        return 0
    try:
        config = load_config(options.config)
        if options.command == "serve":
            return run_server(config, options.host, options.port)
        control = Control(config, options.simulator)
        if options.command == "converse":
            return run_conversation(config, control, options)
        return run_load(control, options)
    except (ConfigError, ControlError) as problem:
        print(problem, file=sys.stderr)
        return 2


def run_server(config: Config, host: str, port: int) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    try:
        listener = socket.create_server((host, port), backlog=BACKLOG)
    except OSError as problem:
        reason = os.strerror(problem.errno) if problem.errno else problem
        print(f"cannot listen on {host}:{port}: {reason}", file=sys.stderr)
        return 2
    with listener:
        server = build_server(config, listener)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"simulator on {host}:{port}, for the bot at {config.public_url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


def run_conversation(config: Config, control: Control, options: argparse.Namespace) -> int:
    """Print the transcript; 0 when every message was answered."""
    if options.message:
        questions = own_questions(config, options.platforms, options.message)
    else:
        questions = default_questions(config, options.platforms)
    verify = options.ca_file or True
    exchanges = [ask(q, options.callback_base, control, options.timeout, verify) for q in questions]
    print(transcript(exchanges))
    answered = sum(exchange.answer is not None for exchange in exchanges)
    print(f"\n{answered} of {len(exchanges)} messages were answered.")
    return 0 if answered == len(exchanges) else 1


def run_load(control: Control, options: argparse.Namespace) -> int:
    """Print the report as one line of JSON and, on stderr, one for people; 0 when all is well. SIGTERM ends it."""
    plan = Plan(
        rate=options.rate,
        duration=options.duration,
        platforms=options.platforms,
        conversations=options.conversations,
        duplicates=options.duplicates,
        retries=options.retry_after,
        settle=options.settle,
    )
    load = Load(plan, control, options.callback_base, options.ca_file or True)
    signal.signal(signal.SIGTERM, lambda *_: load.stop())
    report = load.run()
    print(report.summary(), file=sys.stderr)
    print(json.dumps(report.to_dict()))
    return 0 if report.ok else 1
