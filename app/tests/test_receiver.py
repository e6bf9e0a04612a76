"""Connections instead of callbacks, in real processes: receivers, simulator, Redis, workers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests
from clawdbot import receiver
from clawdbot.config import Settings
from clawdbot.connected import Connected
from clawdbot.http import Http
from clawdbot.ingress import Taken
from clawdbot.notes import OwnNotes
from clawdbot.platforms.base import Received
from clawdbot.platforms.dingtalk.stream import DingTalkStream
from clawdbot.receiver import Connections
from clawdbot_simulator.load import Plan
from clawdbot_simulator.server import running
from clawdbot_simulator.users import DingTalk, Feishu, Question
from websockets.exceptions import WebSocketException

from .conftest import eventually
from .site import APP, Site, site
from .test_chaos import assert_kept, under_load

STREAM, CONNECTION = {"intake": "stream"}, {"intake": "connection"}
# How long a link can be dead without anybody knowing, see clawdbot.receiver, and a little for a busy machine.
HALF_OPEN_SECONDS = 25.0


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, APP, STREAM, None, CONNECTION) as found:
        found.run("receiver-a")
        connected(found, 1)
        yield found


def connected(node: Site, count: int) -> None:
    """Wait until each platform has so many connections."""
    eventually(lambda: len(node.control.connections("dingtalk")) == len(node.control.connections("feishu")) == count)


def written(node: Site, text: str, **options: Any) -> list[Question]:
    """A question to each platform."""
    return [user(node.config).text("Li", text, **options) for user in (DingTalk, Feishu)]


def answers(node: Site) -> dict[str, list[str]]:
    """What users read, by conversation."""
    found: dict[str, list[str]] = {}
    for record in node.control.messages():
        found.setdefault(record.conversation, []).append(record.text)
    return found


def page(node: Site) -> str:
    return requests.get(f"{node.url}/metrics", timeout=10).text


@contextlib.contextmanager
def pushing(node: Site, questions: list[Question], again: float) -> Iterator[list[dict[str, Any]]]:
    """Send questions meanwhile, each anew after ``again`` seconds; in the end there is what became of them."""
    sent: list[dict[str, Any]] = []

    def push(question: Question) -> None:
        sent.append(node.control.push(question, again=again))

    threads = [threading.Thread(target=push, args=[question]) for question in questions]
    for thread in threads:
        thread.start()
    yield sent
    for thread in threads:
        thread.join()


def test_a_message_is_answered_once(node: Site) -> None:
    single, group = written(node, "hello"), written(node, "all of you", group="team")
    for question in [*single, *group]:
        assert node.control.push(question)["sends"] == 1
        # The platform repeats what it has been told already, and does so over HTTP as well while a console changes.
        assert node.control.push(question)["sends"] == 1
        assert question.callback().post(node.url, timeout=10).status_code == 200
    wanted = {question.conversation: [f"echo: {question.text}"] for question in [*single, *group]}
    eventually(lambda: answers(node) == wanted)
    time.sleep(1)
    assert answers(node) == wanted
    node.control.push(Feishu(node.config).text("Li", "你" * 300), parts=7)
    eventually(lambda: "echo: " + "你" * 300 in answers(node)[single[1].conversation])
    shown = page(node)
    for platform in ("dingtalk", "feishu"):
        assert f'clawdbot_receivers_connected{{platform="{platform}"}} 1.0' in shown
        assert f'clawdbot_receiver_connections_total{{outcome="opened",platform="{platform}"}} 1.0' in shown
        lines = [line for line in node.log("access") if line.get("client") == platform]
        assert {"accepted", "duplicate"} == {line["result"] for line in lines}
    assert "no receiver is connected" not in node.check()
    assert node.terminate("receiver-a") == 0
    assert 'clawdbot_receivers_connected{platform="feishu"} 0.0' in page(node)
    assert node.check().count("no receiver is connected") == 2


def test_nothing_secret_is_logged(node: Site) -> None:
    for question in written(node, "hello"):
        node.control.push(question)
    node.control.disturb("cut")
    node.control.add_fault("dingtalk.connection", "error", status=403, count=1)
    node.control.add_fault("feishu.connection", "drop", count=1)
    node.control.add_fault("*.open_connection", "server_error", count=1)
    connected(node, 1)
    eventually(lambda: sum(line.get("message") == "connected" for line in node.log("error")) == 4)
    said = "".join(path.read_text() for path in [*node.logs.iterdir(), *node.folder.glob("*.out")])
    assert '"outcome": "lost"' in said
    assert '"outcome": "unreachable"' in said
    assert not re.search(r"ticket|service_id|ws/v2\?|hello", said)
    for secret in (node.config.dingtalk.app_secret, node.config.feishu.app_secret):
        assert secret not in said


def test_killed_and_cut_under_load(tmp_path: Path) -> None:
    """Two receivers, killed in turn, and all connections cut, with workers and Redis killed among it."""
    plan = Plan(rate=25, duration=24, duplicates=0.2, timeout=2.0, settle=300.0)
    victims = ["receiver-a", "cut", "receiver-b", "worker-a", "cut", "redis", "receiver-a", "cut", "receiver-b", "cut"]
    with site(tmp_path, APP, STREAM, None, CONNECTION) as node:
        for name in ("receiver-a", "receiver-b"):
            node.run(name)
        connected(node, 2)
        node.control.add_fault("model.*", "slow", seconds=0.1)
        disturb = [(2.0 * (number + 1), victim) for number, victim in enumerate(victims)]
        report = under_load(node, plan, disturb, callbacks=False)
        assert_kept(report, node)
        connected(node, 2)


def test_both_receivers_get_work(node: Site) -> None:
    node.run("receiver-b")
    connected(node, 2)
    report = under_load(node, Plan(rate=20, duration=3, settle=120.0, timeout=30.0), [], callbacks=False)
    assert report.ok, report.summary()
    assert all(connection["acknowledged"] for connection in node.control.connections())
    assert 'clawdbot_receivers_connected{platform="dingtalk"} 2.0' in page(node)


def test_redis_is_away(node: Site) -> None:
    """What comes meanwhile is acknowledged because it is on this node's disk, and answered in order."""
    node.redis.kill()
    for number in range(5):
        for question in written(node, f"question {number}"):
            assert node.control.push(question, again=3)["sends"] == 1
    assert "clawdbot_spool_messages 10.0" in page(node)
    node.kill("receiver-a")
    node.run("receiver-a")
    connected(node, 1)
    node.redis.start()
    eventually(lambda: sum(map(len, answers(node).values())) == 10)
    wanted = [f"echo: question {number}" for number in range(5)]
    assert all(read == wanted for read in answers(node).values())


def test_neither_redis_nor_the_disk(node: Site) -> None:
    """Nothing is acknowledged that nobody keeps."""
    node.redis.kill()
    shutil.rmtree(node.folder / "spool")
    questions = written(node, "hello")
    with pushing(node, questions, again=2) as sent:
        time.sleep(5)
        assert sent == []
        node.redis.start()
    assert all(each["sends"] > 1 and each["seconds"] > 5 for each in sent)
    eventually(lambda: len(answers(node)) == 2)
    time.sleep(1)
    assert answers(node) == {question.conversation: ["echo: hello"] for question in questions}


class Slow:
    """In place of `Ingress`: takes its time."""

    sites = None

    def __init__(self) -> None:
        self.taking, self.may_end = threading.Event(), threading.Event()

    def start(self) -> None:
        """There is nothing to start."""

    def take(self, _platform: str, receive: Callable[[], Received]) -> Taken:
        """Take a message when it may."""
        assert receive().message
        self.taking.set()
        self.may_end.wait(30)
        return Taken(200, {}, {"result": "accepted"})


def test_what_was_received_is_finished(settings: Settings, client: redis.Redis) -> None:
    """A receiver that is told to stop acknowledges first."""
    assert settings.dingtalk
    with running() as sim:
        app = sim.config.dingtalk
        config = dataclasses.replace(
            settings.dingtalk, app_key=app.app_key, app_secret=app.app_secret, api_base_url=sim.config.public_url
        )
        ingress: Any = Slow()
        connections = Connections([DingTalkStream(config, Http(), OwnNotes())], ingress, Connected(client), "receiver")
        thread = threading.Thread(target=connections.run)
        thread.start()
        sent: list[dict[str, Any]] = []
        question = DingTalk(sim.config).text("Li", "hello")
        pusher = threading.Thread(target=lambda: sent.append(sim.push(question, again=30, wait=30)))
        pusher.start()
        assert ingress.taking.wait(30)
        connections.stop()
        time.sleep(2)
        assert (len(sim.connections()), sent) == (1, [])
        ingress.may_end.set()
        pusher.join()
        thread.join()
        assert sent[0]["sends"] == 1
        assert sent[0]["seconds"] < 30
        assert sim.connections() == []


def test_stopped_under_load(node: Site) -> None:
    node.run("receiver-b")
    connected(node, 2)
    stopped: list[int] = []

    def stop() -> None:
        for name in ("receiver-a", "receiver-b"):
            time.sleep(1.5)
            stopped.append(node.terminate(name))
            node.run(name)
            connected(node, 2)

    thread = threading.Thread(target=stop)
    thread.start()
    report = under_load(node, Plan(rate=25, duration=8, timeout=2.0, settle=120.0), [], callbacks=False)
    thread.join()
    assert_kept(report, node)
    assert stopped == [0, 0]


def test_a_half_open_link_is_found(node: Site) -> None:
    before = {connection["id"] for connection in node.control.connections()}
    begin = time.monotonic()
    node.control.disturb("silent")
    eventually(lambda: len({each["platform"] for each in fresh(node, before)}) == 2, HALF_OPEN_SECONDS)
    assert time.monotonic() - begin > 5
    assert node.control.push(DingTalk(node.config).text("Li", "hello"), again=1)["seconds"] is not None
    eventually(lambda: 'outcome="silent",platform="dingtalk"} 1.0' in page(node))


def fresh(node: Site, before: set[int]) -> list[dict[str, Any]]:
    """The connections that were opened since."""
    return [connection for connection in node.control.connections() if connection["id"] not in before]


def test_the_platforms_are_obeyed(node: Site) -> None:
    """DingTalk's pings get their data back; asked to leave, the receiver connects anew before the old one ends."""
    node.control.disturb("ping", "dingtalk")
    eventually(lambda: node.control.connections("dingtalk")[0]["pings"] == 1)
    # Feishu wants to be pinged every two seconds here.
    eventually(lambda: node.control.connections("feishu")[0]["pings"] >= 2, 30)
    node.control.disturb("disconnect", "dingtalk")
    eventually(lambda: len(node.control.connections("dingtalk")) == 2, 9)
    for number in range(6):
        assert node.control.push(DingTalk(node.config).text("Li", str(number)), again=30)["sends"] == 1
    eventually(lambda: len(node.control.connections("dingtalk")) == 1, 20)
    assert 'outcome="moved",platform="dingtalk"} 1.0' in page(node)


def test_a_platform_that_refuses_us_is_asked_again(tmp_path: Path) -> None:
    with site(tmp_path, APP, STREAM, None, CONNECTION) as node:
        refusal = {"status": 401, "body": {"code": "authFailed"}, "count": 2}
        node.control.add_fault("dingtalk.open_connection", "error", **refusal)
        node.run("receiver-a")
        connected(node, 1)
        reasons = [line["reason"] for line in node.log("error") if line.get("outcome") == "refused"]
        assert reasons == ["dingtalk: connections/open answered 401 authFailed"] * 2


def test_connections_go_through_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows the host name: only a proxy can lead there, which does not want to."""
    asked: list[bytes] = []

    def refuse(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client:
            asked.append(client.recv(4096))
            client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=[listener])
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(WebSocketException), receiver._connect("wss://nowhere.test/x?ticket=t"):
            pass
        thread.join()
    [request] = asked
    assert request.startswith(b"CONNECT nowhere.test:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic " in request
    assert b"ticket" not in request


def test_systemd_is_told_when_there_are_connections(tmp_path: Path) -> None:
    with (
        site(tmp_path, APP, STREAM, None, CONNECTION) as node,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
    ):
        told.bind(str(tmp_path / "notify"))
        told.setblocking(False)
        node.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        node.control.add_fault("dingtalk.open_connection", "server_error", count=2)
        node.run("receiver-a")
        eventually(lambda: node.control.connections("feishu"))
        with pytest.raises(BlockingIOError):
            told.recv(100)
        connected(node, 1)
        told.settimeout(5)
        assert told.recv(100) == b"READY=1"


def test_there_is_nothing_to_connect_to(tmp_path: Path) -> None:
    with site(tmp_path) as node:
        node.run("receiver-a")
        assert node.processes.pop("receiver-a").wait(30) == 78
        assert "no platform's intake is stream" in (node.folder / "receiver-a.out").read_text()
        assert "clawdbot_receivers_connected{" not in page(node)


def test_intake_is_checked(node: Site) -> None:
    path = node.folder / "config" / "dingtalk.yaml"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intake": "connection"}))
    assert "intake: must be one of http, stream" in node.check()
