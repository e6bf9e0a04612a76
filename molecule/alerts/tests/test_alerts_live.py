"""Real trouble becomes a message in DingTalk and Feishu, and so does its end."""

import json
from typing import Any

import pytest
from testinfra.host import Host


@pytest.fixture(scope="module")
def measured(host: Host) -> list[dict[str, Any]]:
    """Every kind of trouble with its times; the table is for those who read the log."""
    with host.sudo():
        output = host.check_output("cd /opt/simulator && python3 trouble.py")
    rows = [json.loads(line) for line in output.splitlines()]
    print(f"\n{'indicator':<24}{'alert':<20}{'to alert':>10}{'to resolve':>12}")
    for row in rows:
        print(f"{row['indicator']:<24}{row['alert']:<20}{row['fires']!s:>8} s{row['over']!s:>10} s")
    return rows


def test_each_trouble_is_told_and_so_is_its_end(measured: list[dict[str, Any]]) -> None:
    assert [row for row in measured if row["fires"] is None or row["over"] is None] == []
    assert len(measured) == 6


def test_a_wrong_token_makes_no_message(host: Host) -> None:
    """Nor does none; the receiver says 401 to both."""
    for header in ("Authorization: Bearer wrong", "X-Nothing: here"):
        command = f"curl -s -o /dev/null -w '%{{http_code}}' -X POST -H '{header}' -d '{{}}' http://127.0.0.1:18789/api/alerts"
        assert host.check_output(command) == "401"
