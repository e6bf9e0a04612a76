"""A simulator, and a toy bot that can be told to misbehave."""

import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from clawdbot_simulator.client import Control
from clawdbot_simulator.crypto import feishu_decrypt
from clawdbot_simulator.server import running
from flask import Flask, request
from werkzeug.serving import make_server

VECTORS = Path(__file__).parents[2] / "app" / "tests" / "vectors"


@pytest.fixture(scope="session")
def simulator() -> Iterator[Control]:
    with running() as control:
        yield control


@pytest.fixture
def sim(simulator: Control) -> Control:
    simulator.reset()
    return simulator


@pytest.fixture
def vectors() -> Callable[[str], Any]:
    def load(name: str) -> Any:
        return json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))

    return load


class Api:
    """The calls a bot makes to the platforms, with valid tokens."""

    def __init__(self, control: Control) -> None:
        self.config, self.url = control.config, control.config.public_url
        self.refresh()

    def refresh(self) -> None:
        """Fetch the tokens that are valid now."""
        dingtalk, feishu = self.config.dingtalk, self.config.feishu
        found = self.post("/v1.0/oauth2/accessToken", {"appKey": dingtalk.app_key, "appSecret": dingtalk.app_secret})
        self.dingtalk = {"x-acs-dingtalk-access-token": found.json()["accessToken"]}
        found = self.post(
            "/open-apis/auth/v3/tenant_access_token/internal",
            {"app_id": feishu.app_id, "app_secret": feishu.app_secret},
        )
        self.feishu = {"Authorization": f"Bearer {found.json()['tenant_access_token']}"}
        self.model = {"Authorization": f"Bearer {self.config.model.api_key}"}

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> requests.Response:
        """POST JSON."""
        return requests.post(self.url + path, json=body, headers=headers, timeout=5)

    def get(self, path: str, headers: dict[str, str] | None = None) -> requests.Response:
        """GET."""
        return requests.get(self.url + path, headers=headers, timeout=5)

    def batch_send(self, users: list[str], **changes: object) -> requests.Response:
        """DingTalk's message to single users, with ``changes`` in its body."""
        body = {
            "robotCode": self.config.dingtalk.app_key,
            "userIds": users,
            "msgKey": "sampleText",
            "msgParam": json.dumps({"content": "hello"}),
        }
        return self.post("/v1.0/robot/oToMessages/batchSend", body | changes, self.dingtalk)

    def reply(self, message_id: str, **changes: object) -> requests.Response:
        """Feishu's reply, with ``changes`` in its body."""
        body = {"msg_type": "text", "content": json.dumps({"text": "hello"})}
        return self.post(f"/open-apis/im/v1/messages/{message_id}/reply", body | changes, self.feishu)


def codes(response: requests.Response) -> tuple[int, object]:
    """HTTP status and the error code in the body, whatever its name."""
    body = response.json()
    return response.status_code, next((body[k] for k in ("code", "errcode") if k in body), None)


@pytest.fixture
def api(sim: Control) -> Api:
    return Api(sim)


# What the toy bot does with the n-th message: the texts it answers, or None to refuse the callback.
Behaviour = Callable[[int, str], list[str] | None]


def good(_number: int, text: str) -> list[str] | None:
    return [f"echo: {text}"]


@contextlib.contextmanager
def toy_bot(control: Control, behaviour: Behaviour = good, batch: int = 1) -> Iterator[str]:
    """A bot that answers in order of arrival; ``batch`` > 1: in reverse order within batches.

    Yields its address.
    """
    api = Api(control)
    app = Flask("toy_bot")
    seen: set[str] = set()
    lock = threading.Lock()
    work: queue.Queue[Callable[[], None] | None] = queue.Queue()

    def deliver(texts: list[str], answer: Callable[[str], object]) -> None:
        for text in texts:
            answer(text)

    def accept(message_id: str, text: str, answer: Callable[[str], object]) -> tuple[str, int]:
        with lock:
            if message_id not in seen:
                texts = behaviour(len(seen), text)
                if texts is None:
                    return "", 503
                seen.add(message_id)
                work.put(lambda: deliver(texts, answer))
        return "{}", 200

    @app.post("/api/dingtalk/callback")
    def dingtalk() -> tuple[str, int]:
        body: Any = request.get_json()

        def answer(text: str) -> object:
            content = {"msgtype": "text", "text": {"content": text}}
            return requests.post(body["sessionWebhook"], json=content, timeout=5)

        return accept(body["msgId"], body["text"]["content"].strip(), answer)

    @app.post("/api/feishu/callback")
    def feishu() -> tuple[str, int]:
        body: Any = request.get_json()
        event = json.loads(feishu_decrypt(control.config.feishu.encryption_key, body["encrypt"]))
        message = event["event"]["message"]
        text = json.loads(message["content"])["text"].removeprefix("@_user_1 ")
        return accept(
            message["message_id"],
            text,
            lambda text: api.reply(message["message_id"], content=json.dumps({"text": text})),
        )

    def worker() -> None:
        jobs = []
        while (job := work.get()) is not None:
            jobs.append(job)
            if len(jobs) == batch:
                while jobs:
                    jobs.pop()()

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        host, port = listener.getsockname()
        server = make_server(host, port, app, threaded=True, fd=listener.fileno())
    threads = [threading.Thread(target=target) for target in (server.serve_forever, worker)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.shutdown()
        work.put(None)
        for thread in threads:
            thread.join()
        server.server_close()
