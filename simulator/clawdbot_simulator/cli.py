"""Command line: serve, converse, load, new-config."""

import argparse
import contextlib
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
from clawdbot_simulator.server import BACKLOG, build_server


def platforms(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in PLATFORM_NAMES:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(PLATFORM_NAMES)}")
    return names


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="clawdbot_simulator", description=__doc__)
    commands = main.add_subparsers(dest="command", required=True)

    new = commands.add_parser("new-config", help="print a configuration with fresh secrets")
    new.add_argument("--public-url", default="http://127.0.0.1:9000")

    serve = commands.add_parser("serve", help="play the platforms' servers and the model")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=9000)

    converse = commands.add_parser("converse", help="write to the bot and show its answers")
    converse.add_argument(
        "--message", action="append", help="what to write, instead of the usual; may be repeated"
    )
    converse.add_argument("--timeout", type=float, default=30, help="seconds to wait for an answer")

    for command in (serve, converse):
        command.add_argument("--config", type=Path, required=True)
    for command in (converse,):
        command.add_argument("--callback-base", required=True, help="the bot, such as http://lb1")
        command.add_argument("--simulator", help="where `serve` answers; default: its public_url")
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
        return run_conversation(config, Control(config, options.simulator), options)
    except (ConfigError, ControlError) as problem:
        print(problem, file=sys.stderr)
        return 2


def run_server(config: Config, host: str, port: int) -> int:
    try:
        listener = socket.create_server((host, port), backlog=BACKLOG)
    except OSError as problem:
        print(f"cannot listen on {host}:{port}: {problem.strerror}", file=sys.stderr)
        return 2
    with listener:
        server = build_server(config, listener)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"simulator on {host}:{port}, for the bot at {config.public_url}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
    return 0


def run_conversation(config: Config, control: Control, options: argparse.Namespace) -> int:
    if options.message:
        questions = own_questions(config, options.platforms, options.message)
    else:
        questions = default_questions(config, options.platforms)
    exchanges = [
        ask(question, options.callback_base, control, options.timeout) for question in questions
    ]
    print(transcript(exchanges))
    answered = sum(exchange.answer is not None for exchange in exchanges)
    print(f"\n{answered} of {len(exchanges)} messages were answered.")
    return 0 if answered == len(exchanges) else 1
