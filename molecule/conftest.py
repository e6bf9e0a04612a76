"""Shared by the Testinfra suites of all scenarios: which host a test runs on, and what that says when it fails."""

import os
from collections import defaultdict
from collections.abc import Generator, Iterator
from functools import partialmethod
from typing import Any

import pytest
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

HEADER = ("what happens", "no callback for", "no answer for", "failed", "lost", "twice", "out of order", "messages")
ROW = "{:<58} {:>15} {:>13} {:>6} {:>4} {:>5} {:>12} {:>8}"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "every_host: runs on each host of the scenario, even where ONE_HOST is set")
    # One login a host instead of one for every command: without a path OpenSSH has no connection that can be shared.
    SshBackend.__init__ = partialmethod(SshBackend.__init__, controlpath="~/.ansible/cp/%%C")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Function]) -> None:
    """With ONE_HOST in the environment each test runs on one of the hosts that it is for, in turn.

    Every host is converged, run again, and tested; what is spared is the same proof on the other release of Debian.
    """
    if not os.environ.get("ONE_HOST"):
        return
    runs: dict[tuple[str, ...], list[pytest.Function]] = defaultdict(list)
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if "_testinfra_host" in parameters and not item.get_closest_marker("every_host"):
            others = (repr(value) for name, value in sorted(parameters.items()) if name != "_testinfra_host")
            runs[str(item.path), item.originalname, *others].append(item)
    spared = [
        item for turn, hosts in enumerate(runs.values()) for item in hosts if item is not hosts[turn % len(hosts)]
    ]
    items[:] = [item for item in items if item not in spared]
    config.hook.pytest_deselected(items=spared)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, None, None]:
    """Appends failed units and the end of the journal of the tested host to a failing test's report."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's wrapper protocol is untyped
    host = item.funcargs.get("host")
    if report.when == "call" and report.failed and isinstance(host, Host):
        said = host.run("systemctl --failed --no-legend; sudo journalctl --no-pager --lines=40 --priority=notice")
        report.sections.append((f"journal of {host.backend.get_pytest_id()}", said.stdout))


@pytest.fixture(scope="session")
def table(request: pytest.FixtureRequest) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """What happened, and what the load said of it; printed at the end."""
    rows: list[tuple[str, dict[str, Any]]] = []
    yield rows
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + ROW.format(*HEADER))
        for what, said in rows:
            gaps = (f"{said[gap] / 1000:.1f} s" for gap in ("ack_gap_ms", "answer_gap_ms"))
            counts = (said[name] for name in ("failed_requests", "lost", "answered_twice", "out_of_order", "messages"))
            print(ROW.format(what, *gaps, *counts))
