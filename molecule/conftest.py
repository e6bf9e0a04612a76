"""Shared by the Testinfra suites of all scenarios: a test that fails shows what the host has to say about it."""

from collections.abc import Generator

import pytest
from testinfra.host import Host


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Generator[None, None, None]:
    """Appends failed units and the end of the journal of the tested host to a failing test's report."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]  # pluggy's wrapper protocol is untyped
    host = item.funcargs.get("host")
    if report.when == "call" and report.failed and isinstance(host, Host):
        said = host.run("systemctl --failed --no-legend; sudo journalctl --no-pager --lines=40 --priority=notice")
        report.sections.append((f"journal of {host.backend.get_pytest_id()}", said.stdout))
