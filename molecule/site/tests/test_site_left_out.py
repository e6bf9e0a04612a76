"""One dead host is one dead host: the others get what they were to get; it is brought up to date when it is back."""

from __future__ import annotations

import json
from pathlib import Path

from installation import Installation, application, lets_in


def test_a_dead_node_and_a_dead_monitoring_host_hold_up_nobody(site: Installation, tmp_path: Path) -> None:
    new = "the next password of Redis"
    options = (application(tmp_path, "8.1.0"), "-e", json.dumps({"site_redis_password": new}))
    before, redis, former = site.releases("app2"), site.on("redis1"), site.redis_password()
    site.kill("app2")
    site.kill("monitor1")
    try:
        said = site.refuse("site.yml", *options)
        assert "Left out, because no answer came or something failed: site-app2, site-monitor1." in said
        assert "The bot answers at" in said
        assert [release.split("-")[0] for release in site.releases("app1")] == ["8.1.0"]
        assert "site-redis1 goes on to accept the former site_redis_password as well, since site-app2 may" in said
        assert lets_in(redis, former)
        assert lets_in(redis, new)
    finally:
        site.start("app2")
        site.start("monitor1")
    assert site.releases("app2") == before
    site.play("playbooks/deploy.yml", *options)
    assert site.releases("app2") == site.releases("app1") != before
