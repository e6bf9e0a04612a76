"""Two sites: one answers, the other one stands by, takes over, and nothing is answered by both."""

from __future__ import annotations

import dataclasses
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from clawdbot import cli, config
from clawdbot.answers import answer_key
from clawdbot.config import RedisConfig, Settings, SiteConfig
from clawdbot.engine.leftover import HandedOver, hand_over
from clawdbot.engine.queue import DeadLetter, Hold, Queue
from clawdbot.errors import LeaseLost
from clawdbot.sent import mark_key
from clawdbot.sites import CLAIM, FROZEN_SECONDS, Claim, Role, Sites
from clawdbot.store import connect, key
from clawdbot_simulator.load import Load, Plan, Report

from .conftest import Bot, RedisServer, dingtalk_body, eventually, free_port
from .site import Site
from .test_queue import message

HERE, THERE = "shanghai", "beijing"


def client_of(server: RedisServer) -> redis.Redis:
    return connect(RedisConfig(port=server.port), timeout=5)


class Pair:
    """The Redis of both sites; that of the second one copies the first one's, which has the claim."""

    def __init__(self, folder: Path) -> None:
        self.servers = {}
        for name in (HERE, THERE):
            (folder / name).mkdir()
            self.servers[name] = RedisServer(folder / name, to_disk=False)
            self.servers[name].start()
            self.client(name).config_set("repl-diskless-sync-delay", 0)
        self.follow(THERE, HERE)
        self.claim(HERE)
        eventually(lambda: self.client(THERE).get(CLAIM))

    def client(self, name: str) -> redis.Redis:
        """Of one site."""
        return client_of(self.servers[name])

    def follow(self, name: str, other: str) -> None:
        """Have the Redis of a site copy the other one's."""
        self.client(name).replicaof("127.0.0.1", str(self.servers[other].port))
        eventually(lambda: self.client(name).info("replication")["master_link_status"] == "up")

    def promote(self, name: str, epoch: int) -> None:
        """As playbooks/promote_site.yml does it when the other site is dead."""
        self.client(name).replicaof("NO", "ONE")
        self.claim(name, epoch)

    def claim(self, name: str, epoch: int = 1) -> None:
        """As the role redis does it: with the word of who runs it."""
        client = self.client(name)
        client.set(CLAIM, f"{epoch} {name}")
        client.set(key("site-word", name), client.info("server")["run_id"])

    def sites(self, name: str, clock: Callable[[], float] = time.monotonic, *, cut: bool = False) -> Sites:
        """What a new process of a site knows; with ``cut`` it cannot ask the other one."""
        [other] = {HERE, THERE} - {name}
        port = free_port() if cut else self.servers[other].port
        return Sites(SiteConfig(name, other, RedisConfig(port=port)), self.client(name), clock)

    def role(self, name: str, *, cut: bool = False) -> Role:
        """What a process finds that begins now."""
        return looked(self.sites(name, cut=cut))


def looked(sites: Sites) -> Role:
    """Its role after another look."""
    sites.look()
    return sites.role


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path)
    yield found
    for server in found.servers.values():
        server.kill()


def test_the_site_that_has_the_claim_answers(pair: Pair) -> None:
    assert pair.role(HERE) is Role.ACTIVE
    assert pair.role(THERE) is Role.STANDBY
    # Nobody was promoted yet, or what is there is no claim.
    for nothing in ("", "shanghai", "-1 shanghai", "1 "):
        pair.client(HERE).set(CLAIM, nothing)
        assert pair.role(HERE) is Role.UNKNOWN
    assert Claim.load("12 beijing") == Claim(12, "beijing")


def test_a_site_that_comes_back_after_the_other_one_was_promoted_does_nothing(pair: Pair) -> None:
    assert pair.role(HERE) is Role.ACTIVE
    pair.servers[HERE].kill()
    assert pair.role(THERE) is Role.STANDBY
    pair.promote(THERE, 2)
    assert pair.role(THERE) is Role.ACTIVE
    pair.servers[HERE].start()
    assert pair.client(HERE).get(CLAIM) == f"1 {HERE}"
    # Its network may come later than itself.
    assert pair.role(HERE, cut=True) is Role.UNKNOWN
    assert pair.role(HERE) is Role.STANDBY


def test_a_site_that_goes_on_living_needs_the_other_one_for_nothing(pair: Pair) -> None:
    old = pair.sites(HERE)
    assert looked(old) is Role.ACTIVE
    pair.servers[THERE].kill()
    assert looked(old) is Role.ACTIVE
    # A process that begins now, in a roll-out, has the word.
    assert pair.role(HERE) is Role.ACTIVE
    pair.servers[HERE].kill()
    pair.servers[HERE].start()
    assert pair.role(HERE) is Role.UNKNOWN
    # One that lives gives it again.
    old.look()
    assert pair.role(HERE) is Role.ACTIVE


def test_redis_that_is_away_changes_nothing(pair: Pair) -> None:
    sites = pair.sites(HERE)
    sites.look()
    pair.servers[HERE].kill()
    assert looked(sites) is Role.ACTIVE
    # But for what the other site says.
    pair.promote(THERE, 2)
    assert looked(sites) is Role.STANDBY


def test_who_was_frozen_asks_again(pair: Pair) -> None:
    moment = [0.0]
    sites = pair.sites(HERE, lambda: moment[0])
    sites.look()
    pair.servers[THERE].kill()
    moment[0] += FROZEN_SECONDS - 1
    assert looked(sites) is Role.ACTIVE
    moment[0] += FROZEN_SECONDS + 1
    assert looked(sites) is Role.UNKNOWN
    assert pair.role(HERE) is Role.UNKNOWN


def test_two_that_were_promoted_apart_do_nothing_until_one_is_promoted_again(pair: Pair) -> None:
    pair.promote(THERE, 2)
    pair.client(HERE).set(CLAIM, f"2 {HERE}")
    assert [pair.role(HERE), pair.role(THERE)] == [Role.UNKNOWN, Role.UNKNOWN]
    pair.promote(THERE, 3)
    assert [pair.role(HERE), pair.role(THERE)] == [Role.STANDBY, Role.ACTIVE]


def test_a_planned_move(pair: Pair) -> None:
    here, there = pair.sites(HERE), pair.sites(THERE)
    both = (here, there)

    def roles() -> list[Role]:
        return [looked(sites) for sites in both]

    assert roles() == [Role.ACTIVE, Role.STANDBY]
    pair.client(HERE).set(CLAIM, f"2 {THERE}")
    eventually(lambda: pair.client(THERE).get(CLAIM) == f"2 {THERE}")
    # It ends its work and takes messages, which the other one gets by copying.
    assert roles() == [Role.LEAVING, Role.STANDBY]
    assert here.choose("here", "there") == "here"
    assert there.choose("its own", "the other's") == "the other's"
    pair.client(THERE).replicaof("NO", "ONE")
    assert roles() == [Role.STANDBY, Role.ACTIVE]
    assert here.choose("here", "there") == "there"
    pair.follow(HERE, THERE)
    assert roles() == [Role.STANDBY, Role.ACTIVE]


def test_what_is_in_work_is_left_when_another_site_answers(pair: Pair) -> None:
    queue = Queue(pair.client(HERE), "one")
    queue.prepare()
    queue.accept(message())
    [lease] = queue.take(1, 1)
    sites = pair.sites(HERE)
    sites.look()
    hold = Hold(queue, lease, sites)
    hold.check()
    pair.promote(THERE, 2)
    sites.look()
    with pytest.raises(LeaseLost, match="another site"):
        hold.check()


def test_what_was_left_goes_to_the_other_site(pair: Pair) -> None:
    here, there = Queue(pair.client(HERE), "one"), Queue(pair.client(THERE), "two")
    here.prepare()
    known = message("a", created_ms=1)
    here.accept(known)
    eventually(lambda: there.depth().messages == 1)
    pair.promote(THERE, 2)
    there.prepare()
    first, second = message("a", created_ms=5), message("b", created_ms=4)
    for late in (first, second):
        assert here.accept(late) == "accepted"
    here.client.set(mark_key(first.key, "0"), "1")
    here.client.set(answer_key(first.key), "what was decided")
    here.client.rpush(key("conv", "c"), "nonsense")
    here.client.hset(key("dead"), "m", DeadLetter("m", "c", first.dump(), "why", 1, 1).dump())
    assert hand_over(here, there) == HandedOver(messages=2, known=1, dead=2)
    assert there.client.get(mark_key(first.key, "0")) == "1"
    assert there.client.get(answer_key(first.key)) == "what was decided"
    assert there.client.get(mark_key(second.key, "0")) is None
    leases = there.take(9, 1)
    begun = {lease.conversation: there.begin(lease) for lease in leases}
    assert {name: found and found.message().key for name, found in begun.items()} == {
        "dingtalk:a": known.key,
        "dingtalk:b": second.key,
    }
    assert hand_over(here, there) == HandedOver(messages=0, known=3, dead=0)
    assert there.depth().messages == 3


@pytest.fixture
def bot(pair: Pair, settings: Settings, tmp_path: Path) -> Bot:
    """Web of the first site."""
    (tmp_path / "spool").mkdir()
    own = RedisConfig(port=pair.servers[HERE].port)
    site = SiteConfig(HERE, THERE, RedisConfig(port=pair.servers[THERE].port))
    return Bot(dataclasses.replace(settings, redis=own, site=site, spool_dir=str(tmp_path / "spool")))


def start(bot: Bot) -> None:
    """Start the threads of the web process."""
    bot.app.extensions["clawdbot-start"]()


def accepted(bot: Bot) -> bool:
    return bot.robot(dingtalk_body(msgId=secrets.token_hex(8))).status_code == 200


def readiness(bot: Bot) -> Any:
    return bot.web.get("/ready").json


def test_messages_go_to_whoever_answers(bot: Bot, pair: Pair) -> None:
    """Wherever the consoles of the platforms lead to."""
    there = Queue(pair.client(THERE), "two")
    assert bot.web.get("/ready").status_code == 503
    # Nobody knows yet: it waits on the disk.
    assert accepted(bot)
    assert there.depth().messages == 0
    start(bot)
    eventually(lambda: readiness(bot)["status"] == "ready")
    eventually(lambda: there.depth().messages == 1)
    pair.promote(THERE, 2)
    eventually(lambda: readiness(bot)["status"] == "standby")
    assert readiness(bot)["answers"] == THERE
    assert accepted(bot)
    eventually(lambda: there.depth().messages == 2)
    assert bot.queue.depth().messages == 1
    page = bot.web.get("/metrics").text
    assert f'clawdbot_site_role{{role="standby",site="{HERE}"}} 1.0' in page
    # The other one is away: it waits again.
    pair.servers[THERE].kill()
    assert accepted(bot)
    assert bot.queue.depth().messages == 1
    pair.servers[THERE].start()
    eventually(lambda: there.depth().messages == 3)


def run(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], *arguments: str) -> int:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return cli.main(arguments)


def test_the_command_line(
    pair: Pair, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(environ["CLAWDBOT_CONFIG_DIR"])
    cache = {"host": "127.0.0.1", "port": pair.servers[HERE].port}
    site = {"site": HERE, "other_site": THERE, "other_redis": f"127.0.0.1:{pair.servers[THERE].port}"}
    write_cache(folder, cache | site)
    assert run(monkeypatch, environ, "hand-over") == cli.EX_UNAVAILABLE
    assert "beijing does not answer for this site: active" in capsys.readouterr().err
    run(monkeypatch, environ, "check")
    assert f"note: site {HERE}: active; {HERE} answers" in capsys.readouterr().out
    Queue(pair.client(HERE)).accept(message())
    pair.promote(THERE, 2)
    Queue(pair.client(HERE)).accept(message())
    assert run(monkeypatch, environ, "hand-over") == 0
    assert "handed over to beijing: 1" in capsys.readouterr().out
    pair.follow(HERE, THERE)
    run(monkeypatch, environ, "check")
    told = capsys.readouterr().out
    assert f"note: site {HERE}: standby; {THERE} answers" in told
    assert "replica" not in told
    write_cache(folder, cache)
    assert run(monkeypatch, environ, "hand-over") == cli.EX_CONFIG
    write_cache(folder, cache | {"site": HERE})
    assert [problem.key for problem in config.load(environ).problems] == ["other_redis"]


def write_cache(folder: Path, values: dict[str, Any]) -> None:
    (folder / "cache.yaml").write_text(json.dumps(values), "utf-8")


# The whole, in processes


class Sited:
    """Two sites in processes, and one simulator."""

    def __init__(self, folder: Path) -> None:
        self.here, self.there = Site(folder / HERE), Site(folder / THERE)
        self.there.config = self.here.config
        self.there.environ |= {
            name: self.here.environ[name] for name in ("MODEL_BASE_URL", "MODEL_API_KEY", "MODEL_NAME")
        }
        for site, name, other, others in ((self.here, HERE, THERE, self.there), (self.there, THERE, HERE, self.here)):
            site.redis.start()
            self.client(site).config_set("repl-diskless-sync-delay", 0)
            site.cache = {"site": name, "other_site": other, "other_redis": f"127.0.0.1:{others.redis.port}"}
        self.client(self.there).replicaof("127.0.0.1", str(self.here.redis.port))
        self.client(self.here).set(CLAIM, f"1 {HERE}")

    def client(self, site: Site) -> redis.Redis:
        """Of one site."""
        return client_of(site.redis)

    def start(self) -> None:
        """Start both and wait until they are ready."""
        self.here.start()
        self.there.configure()
        for name in ("web", "worker-a"):
            self.there.run(name)
        eventually(self.there.ready, 60)

    def close(self) -> None:
        """Kill everything."""
        self.there.close()
        self.here.close()


@pytest.fixture
def sited(tmp_path: Path) -> Iterator[Sited]:
    found = Sited(tmp_path)
    try:
        found.start()
        yield found
    finally:
        found.close()


def busy(sited: Sited, plan: Plan, meanwhile: Callable[[], None], url: str) -> Report:
    """What becomes of messages that are sent to ``url`` while something happens."""
    reports: list[Report] = []
    load = Load(plan, sited.here.control, url)
    thread = threading.Thread(target=lambda: reports.append(load.run()))
    thread.start()
    meanwhile()
    thread.join()
    print(reports[0].summary())
    return reports[0]


def test_a_planned_move_under_load_and_back(sited: Sited) -> None:
    """The consoles of the platforms go on sending to the first site: it hands on what comes."""

    def move(site: Site, to: Site, epoch: int, name: str) -> None:
        old, new = sited.client(site), sited.client(to)
        old.set(CLAIM, f"{epoch} {name}")
        eventually(lambda: not pending(site), 30)
        old.client_pause(10_000, all=False)
        eventually(
            lambda: new.info("replication")["master_repl_offset"] >= old.info("replication")["master_repl_offset"]
        )
        new.replicaof("NO", "ONE")
        old.replicaof("127.0.0.1", str(to.redis.port))
        old.client_unpause()

    def there_and_back() -> None:
        time.sleep(3)
        move(sited.here, sited.there, 2, THERE)
        time.sleep(4)
        move(sited.there, sited.here, 3, HERE)

    report = busy(sited, Plan(rate=20, duration=12, settle=60), there_and_back, sited.here.url)
    assert report.ok, report.summary()


def pending(site: Site) -> int:
    return int(client_of(site.redis).xpending(key("ready"), "workers")["pending"])


def test_a_site_is_lost_and_comes_back(sited: Sited) -> None:
    """What it had accepted is answered once: by the other one, or, if that never heard of it, when it is back."""
    sited.here.control.add_fault("model.*", "slow", seconds=0.3)

    def lose() -> None:
        time.sleep(4)
        for name in list(sited.here.processes):
            sited.here.kill(name)
        sited.here.redis.kill()
        sited.client(sited.there).replicaof("NO", "ONE")
        promoted = sited.client(sited.there)
        promoted.set(CLAIM, f"2 {THERE}")
        promoted.set(key("site-word", THERE), promoted.info("server")["run_id"])
        time.sleep(3)
        sited.here.redis.start()
        for name in ("web", "worker-a"):
            sited.here.run(name)
        eventually(sited.here.ready, 60)
        time.sleep(1)
        told = hand_over(Queue(sited.client(sited.here)), Queue(sited.client(sited.there)))
        print(told)
        sited.client(sited.here).replicaof("127.0.0.1", str(sited.there.redis.port))

    plan = Plan(rate=20, duration=25, settle=90, retries=(1, 2, 4, 8))
    report = busy(sited, plan, lose, sited.here.url)
    assert report.lost == report.out_of_order == report.wrong_answers == 0, report.summary()
    assert report.answered_twice <= 2, report.summary()  # their worker died before it could say that they were
    assert report.accepted == report.messages
    assert not [line for line in sited.here.log("worker") if line.get("message") == "took over"]
