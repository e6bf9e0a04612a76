"""Real trouble becomes a message in DingTalk and Feishu, and so does its end."""

import json

import pytest
from testinfra.host import Host

KINDS = 7


def test_each_trouble_is_told_and_so_is_its_end(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints a table of the times, for those who read the log."""
    with host.sudo():
        output = host.check_output("cd /opt/simulator && python3 trouble.py")
    rows = [json.loads(line) for line in output.splitlines()]
    with capsys.disabled():
        print(f"\n{'indicator':<24}{'alert':<20}{'to alert':>10}{'to resolve':>12}")
        for row in rows:
            print(f"{row['indicator']:<24}{row['alert']:<20}{row['fires']!s:>8} s{row['over']!s:>10} s")
    assert [row["alert"] for row in rows if row["fires"] is None or row["over"] is None] == []
    assert len(rows) == KINDS


def test_a_wrong_token_makes_no_message(host: Host) -> None:
    """Nor does none; the receiver says 401 to both."""
    for header in ("Authorization: Bearer wrong", "X-Nothing: here"):
        command = f"curl -s -o /dev/null -w '%{{http_code}}' -X POST -H '{header}' -d '{{}}' http://127.0.0.1:18789/api/alerts"
        assert host.check_output(command) == "401"
