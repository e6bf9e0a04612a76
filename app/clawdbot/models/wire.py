"""One call of an OpenAI-compatible service, streamed or not, with three limits of time.

The only module that needs httpx2, so that only the worker pays for it. Each call has an event loop and a connection
of its own: waiting with a limit, whatever the reason, is what asyncio does well, and a connection that was idle for
minutes is a bad one to wait on.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx2
from requests.utils import get_environ_proxies, select_proxy

from clawdbot import http
from clawdbot.models.dialects import OPENAI, Dialect, coded
from clawdbot.models.failures import Failed, Kind

CONNECT_SECONDS = 5.0
MAX_BYTES = 4 * 1024 * 1024
# More than any answer with its reasoning; whatever comes after is not waited for.
MAX_CHARACTERS = 1_000_000
EVENT_STREAM = "text/event-stream"
# The kernel asks a silent peer whether it is there: one that is gone is found out after 15 s, one that thinks is not.
# It does not ask while something is on its way, so that has a limit of its own, in ms.
KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),
]


@dataclasses.dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for the first token, between two of them, and altogether."""

    first: float
    idle: float
    total: float


@dataclasses.dataclass
class Completion:
    """What the service said.

    Attributes:
        status: HTTP status.
        retry_after: seconds to wait, if the service said so.
        error: its error object, whatever its form, empty if there was none.
        pieces: the answer, reasoning in tags included.
        thoughts: reasoning that the service keeps apart.
        refusal: why the model does not want to answer, in its own words.
        finish: ``finish_reason``.
        usage: tokens by kind.
        first_token_seconds: when the first token came.
        late: True if the time for everything was over before the end.
        begun: True once a token came, of the answer or of reasoning.
        characters: length of the pieces.
        conversation: what the service calls the conversation, if it keeps it.
        sources: what the answer was taken from, if the service says so.
    """

    status: int = 0
    retry_after: float | None = None
    error: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pieces: list[str] = dataclasses.field(default_factory=list)
    thoughts: list[str] = dataclasses.field(default_factory=list)
    characters: int = 0
    refusal: str = ""
    finish: str = ""
    usage: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    first_token_seconds: float | None = None
    late: bool = False
    begun: bool = False
    conversation: str = ""
    sources: list[str] = dataclasses.field(default_factory=list)

    @property
    def text(self) -> str:
        """The answer so far; a character that was split over two pieces is one again."""
        return _joined(self.pieces)

    @property
    def thought(self) -> str:
        """The reasoning so far, as far as it is kept apart."""
        return _joined(self.thoughts)

    def add(self, words: Any) -> None:
        """Add a piece of the answer."""
        if isinstance(words, str) and words:
            self.pieces.append(words)
            self.characters += len(words)
            self.begun = True

    def replace(self, words: Any) -> None:
        """The answer is another one."""
        self.pieces, self.characters = [], 0
        self.add(words)

    def take(self, data: Any) -> None:
        """Add a piece of OpenAI's answer, or the whole of it: the two differ in one name."""
        if not isinstance(data, dict):
            return
        if data.get("error") or (not data.get("choices") and not data.get("usage") and coded(data)):
            error = data.get("error") or data
            self.error = error if isinstance(error, dict) else {"message": error}
            return
        choices = data.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        said = choice.get("delta") or choice.get("message")
        said = said if isinstance(said, dict) else {}
        content = _plain(said.get("content"))
        self.pieces.append(content)
        self.characters += len(content)
        self.refusal += _plain(said.get("refusal"))
        thought = said.get("reasoning_content") or said.get("reasoning")
        if isinstance(thought, str):
            self.thoughts.append(thought)
        self.begun = self.begun or bool(said.get("content") or thought)
        self.finish = str(choice.get("finish_reason") or self.finish)
        usage = data.get("usage") or choice.get("usage")
        self.usage = usage if isinstance(usage, dict) else self.usage


def _joined(pieces: list[str]) -> str:
    return "".join(pieces).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(content: Any) -> str:
    """The text of a content, which may be a list of parts; parts of another type, such as thinking, are no text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part if isinstance(part, str) else part.get("text") for part in content if _is_text(part)]
    return "".join(text for text in texts if isinstance(text, str))


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type", "text") in {"text", "output_text"})


class _Lively(httpx2.AsyncByteStream):
    """A body that tells of every sign of life, a comment of the event stream included."""

    def __init__(self, stream: httpx2.AsyncByteStream, alive: Callable[[], None]) -> None:
        self._stream = stream
        self._alive = alive

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._alive()
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Transport(httpx2.AsyncHTTPTransport):
    """A transport whose bodies are lively."""

    def __init__(self, alive: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._alive = alive

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        self._alive()
        if isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Lively(response.stream, self._alive)
        return response


class Service:
    """The way to one service; threads share it."""

    def __init__(self, url: str, dialect: Dialect = OPENAI) -> None:
        """``url`` is where questions go, in ``dialect``."""
        self._url = url
        self._dialect = dialect
        # Once, for http:// as well: a client that is given none loads the authorities at each call, which takes 40 ms.
        self._ssl = http.trust()

    def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], patience: Patience, found: Completion | None = None
    ) -> Completion:
        """Send a request and return the answer, whatever the status.

        ``found`` becomes the answer: another thread may look at how far it is.

        Raises:
            Failed: there is none: unreachable, broken off, silent, or too slow with nothing to show for it.
        """
        return asyncio.run(self._ask(body, headers, patience, found or Completion()))

    async def _ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], patience: Patience, found: Completion
    ) -> Completion:
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            async with asyncio.timeout(patience.total) as total, asyncio.timeout(patience.first) as silence:

                def alive() -> None:
                    if found.begun and found.first_token_seconds is None:
                        found.first_token_seconds = round(clock() - start, 3)
                    silence.reschedule(clock() + (patience.idle if found.begun else patience.first))

                await self._exchange(found, body, headers, alive)
        except TimeoutError:
            if found.finish:
                # All is said; the service only forgot to hang up.
                return found
            if not total.expired():
                raise Failed(Kind.SILENT, status=found.status) from None
            if not found.characters:
                raise Failed(Kind.TOO_SLOW, status=found.status) from None
            found.late = True
        except (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError) as error:
            if found.finish:
                return found
            kind = Kind.BROKEN_OFF if found.status else Kind.UNREACHABLE
            raise Failed(kind, status=found.status, error=type(error).__name__) from None
        return found

    async def _exchange(
        self, found: Completion, body: Mapping[str, Any], headers: Mapping[str, str], alive: Callable[[], None]
    ) -> None:
        # The same rules as for all other calls of the bot, which `requests` makes.
        proxy = select_proxy(self._url, get_environ_proxies(self._url))
        transport = _Transport(alive, verify=self._ssl, trust_env=False, proxy=proxy or None, socket_options=KEEPALIVE)
        timeout = httpx2.Timeout(None, connect=CONNECT_SECONDS)
        content = json.dumps(body).encode()
        headers = {"User-Agent": "clawdbot", "Content-Type": "application/json", **headers}
        async with (
            httpx2.AsyncClient(transport=transport, timeout=timeout, trust_env=False) as client,
            client.stream("POST", self._url, content=content, headers=headers) as response,
        ):
            found.status = response.status_code
            found.retry_after = _seconds(response.headers)
            if response.headers.get("content-type", "").partition(";")[0].strip().lower() == EVENT_STREAM:
                await _streamed(found, response, alive, self._dialect)
            else:
                _whole(found, await _bounded(response), self._dialect)


async def _streamed(found: Completion, response: httpx2.Response, alive: Callable[[], None], dialect: Dialect) -> None:
    async for event in httpx2.EventSource(response):
        if event.data == "[DONE]":
            if not dialect.after_done:
                return
            continue
        _event(found, event, dialect)
        alive()
        if found.error or found.characters > MAX_CHARACTERS:
            return
    if not found.finish:
        raise Failed(Kind.BROKEN_OFF, status=found.status)


def _event(found: Completion, event: httpx2.ServerSentEvent, dialect: Dialect) -> None:
    try:
        data = json.loads(event.data)
    except (ValueError, RecursionError):
        data = {"message": event.data}
    dialect.take(found, event.event, data)


async def _bounded(response: httpx2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        size += len(chunk)
        if size > MAX_BYTES:
            raise Failed(Kind.MALFORMED, status=response.status_code, error="TooLarge")
        parts.append(chunk)
    return b"".join(parts)


def _whole(found: Completion, body: bytes, dialect: Dialect) -> None:
    """Read an answer in one piece: JSON, or an event stream that does not say that it is one."""
    if body.lstrip().startswith(b"data:"):
        headers = {"Content-Type": EVENT_STREAM}
        request = httpx2.Request("POST", "http://service")
        for event in httpx2.EventSource(httpx2.Response(200, headers=headers, content=body, request=request)):
            if event.data != "[DONE]":
                _event(found, event, dialect)
        return
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        data = None
    if found.status >= 300:
        data = data if isinstance(data, dict) else {}
        error = data.get("error") or data
        found.error = (error if isinstance(error, dict) else {"message": error}) or {"message": ""}
        return
    if not isinstance(data, dict) or not dialect.known(data):
        raise Failed(Kind.MALFORMED, status=found.status)
    dialect.take(found, "", data)


def _seconds(headers: Mapping[str, str]) -> float | None:
    try:
        return max(0.0, float(headers["retry-after"]))
    except (KeyError, ValueError):
        return None
