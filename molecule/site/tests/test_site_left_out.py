"""One dead host is one dead host: the others get what they were to get; it is brought up to date when it is back."""

from __future__ import annotations

from pathlib import Path

import pytest
from installation import Installation, application

GROUPS = {
    "loadbalancer": ["lb1"],
    "clawdbot": ["app1", "app2"],
    "redis": ["redis1"],
    "monitoring": ["monitor1"],
    "internet": ["outside"],
}


@pytest.fixture(scope="session")
def site(request: pytest.FixtureRequest) -> Installation:
    """The installation of the scenario."""
    return Installation(request.config.getoption("--ansible-inventory"), GROUPS)


def test_a_dead_node_and_a_dead_monitoring_host_hold_up_nobody(site: Installation, tmp_path: Path) -> None:
    source = application(tmp_path, "8.1.0")
    before = site.releases("app2")
    site.kill("app2")
    site.kill("monitor1")
    try:
        said = site.refuse("playbooks/deploy.yml", source)
        assert "Left out, because no answer came or something failed: site-app2." in said
        assert [release.split("-")[0] for release in site.releases("app1")] == ["8.1.0"]
        said = site.refuse("site.yml", source)
        assert "Left out, because no answer came or something failed: site-app2, site-monitor1." in said
        assert "The bot answers at" in said
    finally:
        site.start("app2")
        site.start("monitor1")
    assert site.releases("app2") == before
    site.play("playbooks/deploy.yml", source)
    assert site.releases("app2") == site.releases("app1") != before


def test_a_dead_balancer_keeps_no_node_from_its_turn(site: Installation, tmp_path: Path) -> None:
    site.kill("lb1")
    try:
        said = site.refuse("playbooks/deploy.yml", application(tmp_path, "8.1.1"))
        assert "Left out, because no answer came or something failed: site-lb1." in said
        assert [release.split("-")[0] for release in site.releases("app1", "app2")] == ["8.1.1"]
    finally:
        site.start("lb1")


def test_a_change_that_needs_redis_waits_for_it(site: Installation, tmp_path: Path) -> None:
    before = site.releases("app1", "app2")
    site.kill("redis1")
    try:
        said = site.refuse("playbooks/deploy.yml", application(tmp_path, "8.1.2"))
        assert "site-redis1 does not answer, and without Redis no node becomes ready. No node was changed" in said
        assert site.releases("app1", "app2") == before
        # What needs no Redis goes on: a node leaves, and the note of the run lies on another host.
        site.play("playbooks/remove_node.yml", "-e", "node=site-app2")
    finally:
        site.start("redis1")
    assert site.members() == ["app1"]
    assert site.on("app2").run("systemctl is-active clawdbot-worker.service").stdout.strip() == "inactive"


def test_a_node_that_leaves_only_its_group_answers_nobody(site: Installation) -> None:
    site.play("playbooks/add_node.yml", "-e", "node=site-app2")
    assert site.on("app2").service("clawdbot-worker.service").is_running
    site.groups["monitoring"] = ["monitor1", "app2"]
    site.nodes("app1")
    try:
        site.play("playbooks/leave.yml", "-e", "ansible_port=2222")
        for unit in ("clawdbot.socket", "clawdbot.service", "clawdbot-worker.service"):
            service = site.on("app2").service(unit)
            assert not service.is_running, unit
            assert not service.is_enabled, unit
    finally:
        site.groups["monitoring"] = ["monitor1"]
        site.nodes("app1", "app2")
