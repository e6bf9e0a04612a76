"""The state behind all endpoints, and the way a platform says no."""

import dataclasses
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Mapping
from typing import Any

from flask import request

from clawdbot_simulator.cards import Cards
from clawdbot_simulator.config import Config
from clawdbot_simulator.connections import Connections
from clawdbot_simulator.faults import FaultBoard
from clawdbot_simulator.records import Records

TOKEN_LIFETIME = 7200  # seconds, both platforms
# In a request's environment: close its connection without an answer.
DROP = "clawdbot_simulator.drop"


@dataclasses.dataclass(frozen=True)
class Speech:
    """What the model says, and how; times in seconds."""

    answer: str | None = None  # None: it repeats the question
    reasoning: str = ""  # said before the answer, as `reasoning_content`
    before: float = 0.0  # silence before the first token
    pace: float = 0.0  # silence before each further word
    words: int | None = None  # after so many of them the connection ends; None: never
    streams: bool = True  # False: it answers in one piece whatever it is asked for
    finish: str = "stop"


class Refusal(Exception):
    """An answer that says no, in the platform's own form; it is recorded as ``refused``."""

    def __init__(self, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, body)
        self.status = status
        self.body = dict(body)
        self.headers = dict(headers or {})


class Tokens:
    """Access tokens of one platform: the same one again until ``renew_below`` seconds are left."""

    def __init__(self, prefix: str, renew_below: float) -> None:
        self._prefix = prefix
        self._renew_below = renew_below
        self._expiry: dict[str, float] = {}
        self._lock = threading.Lock()

    def issue(self) -> tuple[str, int]:
        """The token and the seconds it is still valid."""
        now = time.time()
        with self._lock:
            for token, expiry in self._expiry.items():
                if expiry - now > self._renew_below:
                    return token, int(expiry - now)
            token = self._prefix + secrets.token_hex(20)
            self._expiry[token] = now + TOKEN_LIFETIME
            return token, TOKEN_LIFETIME

    def valid(self, token: str) -> bool:
        """Whether this token opens the API now."""
        with self._lock:
            return self._expiry.get(token, 0.0) > time.time()

    def revoke(self) -> None:
        """Void every token handed out so far."""
        with self._lock:
            self._expiry.clear()


class Simulation:
    """One running simulator."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.records = Records()
        self.cards = Cards(self.records)
        self.faults = FaultBoard()
        self.connections = Connections()
        self.lock = threading.Lock()
        self.files: dict[str, bytes] = {}
        self.messages: dict[str, dict[str, Any]] = {}
        self.forget()

    def forget(self) -> None:
        """Back to the state after the start; only configuration and record numbers stay."""
        self.records.clear()
        self.cards.clear()
        self.faults.clear()
        self.tokens = {
            "dingtalk": Tokens("", renew_below=0),
            # Below 30 minutes Feishu hands out a new token and the old one stays valid.
            "feishu": Tokens("t-", renew_below=1800),
        }
        self.delivered_uuids: dict[str, tuple[float, dict[str, Any]]] = {}
        self.files.clear()
        self.messages.clear()
        self.speech = Speech()

    def keep(self, event: Mapping[str, Any]) -> None:
        """Let a user's message of Feishu be looked up; of DingTalk's no page says how."""
        message = (event.get("event") or {}).get("message")
        if isinstance(message, dict) and "content" in message:
            content = {"body": {"content": message["content"]}, "msg_type": message["message_type"]}
            self.messages[message["message_id"]] = {**message, **content}

    def file(self, key: str) -> bytes:
        """The picture behind a download code or image key: uploaded, else made from the key."""
        return self.files.get(key) or picture(key)


def json_body() -> dict[str, Any]:
    """The request's JSON object; empty when it is none, so that the field checks refuse it."""
    body = request.get_json(force=True, silent=True)
    return body if isinstance(body, dict) else {}


def picture(key: str) -> bytes:
    """A 64 x 64 PNG in a colour that depends on the key."""
    size = 64
    colour = zlib.crc32(key.encode()).to_bytes(4, "big")[:3]

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    pixels = zlib.compress((b"\0" + colour * size) * size)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def readable(content: object) -> str:
    """The words of a rich message (post, card, markdown), in order, one line each."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, map(readable, content)))
    if isinstance(content, dict):
        # "tag", "href" and the like are markup; all other strings below these keys are shown.
        hidden = {"tag", "href", "style", "url", "image_key", "user_id", "msgtype", "schema"}
        return readable([value for key, value in content.items() if key not in hidden])
    return ""
