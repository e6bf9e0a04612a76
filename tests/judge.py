#!/usr/bin/env python3
"""Runs tests of one environment again and again, each time in a fork, so that its imports are paid for once.

Started in the folder of the tests with the environment's Python, it reads a request in each line and answers in one,
both JSON. ``{"tests": [...], "seconds": 60}`` runs those until one fails: ``{"failed": true}``. With ``"trace": true``
it runs all of them and says how many seconds of a processor each test took and which files it opened:
``{"failed": false, "seconds": {test: s}, "opened": {test: [path]}}``; the paths are below the folder, and what a module
opened while it was imported stands under the module's own path.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: Imported before the first fork, where there is such a module.
WARM = ("ansible.template", "ansible.plugins.loader", "cryptography.x509", "flask", "redis", "yaml")
#: Loaded by each Python that a traced test starts: appends the paths it opens to a file.
SPY = """import os, sys
note = os.environ.get("JUDGE_NOTE")
def hook(event, details, note=note):
    if event == "open" and isinstance(details[0], str) and details[0] != note:
        with open(note, "a") as file:
            file.write(os.path.abspath(details[0]) + "\\n")
if note:
    sys.addaudithook(hook)
"""


class Tracer:
    """A plugin of pytest that notes which files each test opens, itself or through a program it starts."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = f"{root}/"
        self.note = folder / "note"
        self.opened: defaultdict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self.now = ""
        (folder / "sitecustomize.py").write_text(SPY, "utf-8")
        os.environ |= {"PYTHONPATH": str(folder), "JUDGE_NOTE": str(self.note)}
        sys.addaudithook(self._hear)

    def _hear(self, event: str, details: tuple[Any, ...]) -> None:
        if event == "open":
            self._open(details[0])
        elif event == "subprocess.Popen":
            for argument in details[1]:
                self._open(argument)

    def _open(self, path: object) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            full = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  # opens nothing, unlike Path.resolve
            if full.startswith(self.root):
                self.opened[self.now].add(full.removeprefix(self.root))

    def pytest_collectstart(self, collector: pytest.Collector) -> None:
        """A module is about to be imported."""
        self.now = collector.nodeid

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """A test runs."""
        self.now = item.nodeid
        self.opened[self.now] = set()
        self.note.write_text("", "utf-8")
        before = sum(os.times()[:4])
        result = yield
        self.seconds[item.nodeid] = sum(os.times()[:4]) - before
        for line in self.note.read_text("utf-8").splitlines():
            self._open(line)
        return result


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of a request in this process."""
    arguments = ["-q", "-p", "no:cacheprovider", *request["tests"]]
    if not request.get("trace"):
        return {"failed": pytest.main(["-x", *arguments]) != 0}
    with tempfile.TemporaryDirectory() as folder:
        tracer = Tracer(Path.cwd(), Path(folder))
        code = pytest.main(arguments, plugins=[tracer])
        opened = {test: sorted(paths) for test, paths in tracer.opened.items()}
    return {"failed": code != 0, "seconds": tracer.seconds, "opened": opened}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run the tests of a request in a fork; one that takes longer than it may has failed."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(2, 1)
        said = json.dumps(run(request))
        with os.fdopen(writing, "w") as pipe:
            pipe.write(said)
        os._exit(0)
    os.close(writing)

    def give_up(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(request["seconds"])
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    signal.alarm(0)
    give_up()  # what the tests have left running
    os.waitpid(child, 0)
    result: dict[str, Any] = json.loads(said or '{"failed": true}')
    return result


def main() -> None:
    """Answer requests until there are no more."""
    sys.path.insert(0, str(Path.cwd()))
    for name in WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
