"""The dashboard in a real browser, Debian's Chromium: live values, a firing alert, a phone's width, no error.

With SCREENSHOTS=<folder> the pictures are kept there.
"""

import base64
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

testinfra_hosts = ["ansible://monitoring"]

METRICS = """
clawdbot_http_requests_total{endpoint="dingtalk_callback",status="200"} @4.7
clawdbot_http_requests_total{endpoint="dingtalk_callback",status="503"} @0.1
clawdbot_http_request_duration_seconds_bucket{endpoint="dingtalk_callback",le="0.1"} @4.5
clawdbot_http_request_duration_seconds_bucket{endpoint="dingtalk_callback",le="0.25"} @4.8
clawdbot_http_request_duration_seconds_bucket{endpoint="dingtalk_callback",le="+Inf"} @4.8
clawdbot_model_calls_total{provider="gpt",outcome="success"} @2
clawdbot_model_calls_total{provider="gpt",outcome="timeout"} @0.04
clawdbot_messages_total{platform="dingtalk",outcome="answered"} @2
clawdbot_queue_depth 7
clawdbot_queue_oldest_age_seconds 3.5
clawdbot_dead_letters 2
"""
TILES = [
    "CPU",
    "Memory",
    "Response time, P99",
    "Errors (5xx)",
    "Failed model calls",
    "Validity of the model key",
    "Messages waiting",
    "Oldest waiting message",
    "Messages answered",
    "Dead letters",
]
PHONE, DESKTOP = (390, 844), (1240, 1000)


@pytest.fixture(scope="module")
def browser() -> Host:
    """The host with Chromium; it sees the dashboard as an operator does."""
    return testinfra.get_host("ansible://monitoring-browser", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])


def visit(
    browser: Host, host: Host, screen: tuple[int, int] = DESKTOP, language: str = "en", password: bool = True
) -> dict[str, Any]:
    """What a person sees there; see files/browse.py."""
    secret = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "password").read_text().strip()
    token = base64.b64encode(f"operator:{secret}".encode()).decode()
    task = {
        "url": f"http://{host.check_output('hostname -I').split()[0]}:9095/",
        "authorization": f"Basic {token}" if password else "",
        "width": screen[0],
        "height": screen[1],
        "language": language,
        "seconds": 6,
    }
    output = browser.check_output("printf '%%s' %s | timeout 60 python3 /usr/local/bin/browse.py", json.dumps(task))
    seen: dict[str, Any] = json.loads(output)
    seen["text"] = re.sub(r"\s+", " ", seen["text"])
    return seen


@pytest.fixture(scope="session")
def busy_since() -> float:
    """When every bot became busy, by the monotonic clock."""
    for host in testinfra.get_hosts(testinfra_hosts, ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]):
        with host.sudo():
            host.check_output("printf '%%s' %s > /var/lib/fake-bot/metrics", METRICS)
    return time.monotonic()


@pytest.fixture(scope="module")
def busy(host: Host, busy_since: float) -> Host:
    """The monitoring of a busy bot with two dead letters, after a minute."""
    time.sleep(max(0.0, busy_since + 60 - time.monotonic()))
    return host


@pytest.fixture(scope="module")
def desktop(busy: Host, browser: Host) -> dict[str, Any]:
    """What an operator sees."""
    seen = visit(browser, busy)
    keep(seen, "desktop")
    return seen


def keep(seen: dict[str, Any], name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"dashboard-{name}.png").write_bytes(base64.b64decode(seen["picture"]))


def test_the_page_shows_live_values(desktop: dict[str, Any]) -> None:
    assert desktop["errors"] == []
    text = desktop["text"]
    for title in TILES:
        assert re.search(rf"{re.escape(title)} (unknown|-?[0-9.]+)", text), (title, text)
    assert "Messages waiting 7" in text
    assert re.search(r"Failed model calls (1\.9|2)", text)
    assert "Validity of the model key unknown" in text
    assert re.search(r"app1 yes \d+ % \d+ % \d+ % ready", text), text
    assert desktop["paths"] >= len(TILES) - 1  # all but the unknown


def test_a_firing_alert_is_shown(desktop: dict[str, Any]) -> None:
    assert "Messages were given up after several attempts" in desktop["text"]
    assert "DeadLetters · 2 messages · firing" in desktop["text"]
    assert "all well" not in desktop["text"]


def test_a_phone_is_wide_enough(busy: Host, browser: Host) -> None:
    seen = visit(browser, busy, PHONE)
    keep(seen, "phone")
    assert (seen["errors"], seen["overflow"]) == ([], 0)
    assert "Messages waiting 7" in seen["text"]


def test_chinese_browsers_see_a_chinese_page(busy: Host, browser: Host) -> None:
    for name, screen in (("desktop-zh", DESKTOP), ("phone-zh", PHONE)):
        seen = visit(browser, busy, screen, language="zh-CN")
        keep(seen, name)
        assert (seen["errors"], seen["overflow"]) == ([], 0)
        assert "有消息多次重试后被放弃" in seen["text"]
        assert "等待中的消息 7" in seen["text"]
        assert "DeadLetters · 2 条消息 · 告警中" in seen["text"]


def test_without_the_password_nothing_is_shown(busy: Host, browser: Host) -> None:
    assert "Messages" not in visit(browser, busy, password=False)["text"]
