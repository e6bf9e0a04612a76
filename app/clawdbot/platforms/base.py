"""What the bot expects of a chat platform, and what the platforms share."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import hmac
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import redis

from clawdbot import text
from clawdbot.errors import Final, Refusal, Retry
from clawdbot.message import Message

if TYPE_CHECKING:
    from clawdbot.cache import Cache
    from clawdbot.config import Access, Secret
    from clawdbot.http import Http
    from clawdbot.limits import Limits
    from clawdbot.notes import Notes
    from clawdbot.sent import Mark

LONGEST_ID = 256
LONGEST_TEXT = 200_000
# Of a quoted message that travels with the one that quotes it.
LONGEST_QUOTE = 8_000
MOST_QUOTED_PICTURES = 4
# A platform that is slow to confirm a part of an answer is waited for: its user would read a repetition.
SEND_SECONDS = 30.0
# In the route of a message whose writer the answer is to mention.
MENTION = "mention"
# A sign that comes later is none.
SIGN_SECONDS = 5.0


@dataclasses.dataclass(frozen=True, slots=True)
class CallbackRequest:
    """A callback as it arrived.

    Attributes:
        header: returns a header by its name, whatever its case.
        query: query parameters.
        body: raw body; signatures are over these bytes.
        now_ms: Unix time in milliseconds.
    """

    header: Callable[[str], str | None]
    query: Mapping[str, str]
    body: bytes
    now_ms: int


@dataclasses.dataclass(frozen=True, slots=True)
class Received:
    """An authenticated callback.

    Attributes:
        reply: JSON body of the HTTP 200.
        message: what to queue, None if there is nothing to do.
        replay_guard: identifies a signature that does not cover the body, else empty.
        note: for the log: why there is nothing to do.
        trouble: what the platform says is wrong and the operator has to mend, else empty.
        secrets: what it was verified or decrypted with.
    """

    reply: Mapping[str, Any]
    message: Message | None = None
    replay_guard: str = ""
    note: str = ""
    trouble: str = ""
    secrets: tuple[Secret, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Attachment:
    """A picture that a `Sender` can fetch.

    Attributes:
        message: id of the message that it belongs to.
        reference: what the platform calls it.
    """

    message: str
    reference: str


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """What a message says, be it the user's or one that the user quotes.

    Attributes:
        text: its words.
        images: references of its pictures.
        unsupported: the platform's name of its kind if nothing of it can be read, else empty.
    """

    text: str = ""
    images: tuple[str, ...] = ()
    unsupported: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Quote:
    """What the user quotes: its words, its pictures; neither if it cannot be read."""

    text: str = ""
    images: tuple[Attachment, ...] = ()


class Own:
    """What the bot has said of late in each conversation, by the names that a quote gives it.

    Platforms tell an app little or nothing of its own messages. Kept as long as a history.
    """

    def __init__(self, cache: Cache) -> None:
        """Keep it in ``cache``."""
        self._cache = cache

    def shows(self, message: Message, name: str, card: str) -> None:
        """Note that the answer ``name`` to ``message`` shows a card, whose words `said` may tell later."""
        self._note("shows", message, name, card)

    def said(self, message: Message, name: str, words: str) -> None:
        """Note what an answer to ``message`` says, or a card that shows it."""
        self._note("said", message, name, words[:LONGEST_QUOTE])

    def find(self, message: Message, name: str) -> str:
        """Return what ``name`` says in the conversation of ``message``, empty if that is not known."""
        shown = self._cache.lookup("shows", _own_name(message, name)) or name
        return str(self._cache.lookup("said", _own_name(message, str(shown))) or "")

    def _note(self, kind: str, message: Message, name: str, value: str) -> None:
        # What was sent is sent; nothing of it is to be done again for this.
        with contextlib.suppress(redis.RedisError):
            self._cache.remember(kind, _own_name(message, name), value)


def _own_name(message: Message, name: str) -> str:
    return f"{message.platform}:{message.conversation}:{name}"


class Receiver(Protocol):
    """What comes in from a chat platform: all that the web side needs of it."""

    name: str

    def receive(self, request: CallbackRequest) -> Received:
        """Verify and parse a callback.

        Raises:
            Refusal: it is not authentic (401) or malformed (400).
        """

    def pushed(self, event: dict[str, Any], now_ms: int) -> Received:
        """Parse what a callback holds, where it came over a connection that we opened: there is no signature.

        Raises:
            Refusal: it is meant for somebody else (401) or malformed (400).
        """


@dataclasses.dataclass(frozen=True, slots=True)
class Arrival:
    """What came over a connection.

    Attributes:
        answer: goes back at once, empty for nothing.
        receive: parses the event, if it is one; may raise `Refusal`.
        acknowledge: makes of the status of `clawdbot.ingress.Taken` what goes back when the event was taken, or was
            not; empty for silence, upon which the platform comes again.
        leave: whether the platform asks us to open another connection.
    """

    answer: str | bytes = b""
    receive: Callable[[], Received] | None = None
    acknowledge: Callable[[int], str | bytes] = lambda _: b""
    leave: bool = False


class Session(Protocol):
    """One connection to a platform.

    Attributes:
        url: of the websocket; whoever knows it can take our place, so nobody shall see it.
    """

    url: str

    @property
    def ping_seconds(self) -> float:
        """How often `ping` is sent; 0 for never."""

    def ping(self) -> bytes:
        """Return what the platform wants to hear now and then, besides the pings of the websocket."""

    def read(self, data: str | bytes, now_ms: int) -> Arrival:
        """Return what came.

        Raises:
            Refusal: 400, it cannot be read.
        """


class Line(Protocol):
    """How a platform sends events to those who connect to it."""

    name: str

    def open(self) -> Session:
        """Ask for a connection.

        Raises:
            Retry: not now.
            Final: the platform refuses us.
        """

    def pause(self, failures: int) -> float:
        """Return after how many seconds to connect again; ``failures`` in a row, 0 when a good one was lost."""


@dataclasses.dataclass(frozen=True, slots=True)
class Services:
    """What the senders share with everybody else in their process."""

    notes: Notes
    http: Http
    limiter: Limits
    cache: Cache


class CardRefused(Final):
    """The platform takes no card.

    Attributes:
        everywhere: whether that holds for all chats: a permission is missing, or there are no calls left.
    """

    def __init__(self, reason: str, *, everywhere: bool = False) -> None:
        """Keep whom it concerns."""
        super().__init__(reason)
        self.everywhere = everywhere


@dataclasses.dataclass(frozen=True, slots=True)
class Folded:
    """What is shown to who wants to see it: a title, and the words behind it."""

    title: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """When a growing card is updated: at once, and then after pauses that grow.

    Attributes:
        first: seconds between the first two updates.
        factor: how much longer each pause is than the one before.
        longest: no pause is longer.
        most: updates for one answer; 0 for any number.
    """

    first: float
    factor: float
    longest: float
    most: int = 0

    def seconds(self, number: int) -> float:
        """Return the pause behind update ``number``, the first being 1."""
        return float(min(self.longest, self.first * self.factor ** min(number - 1, 64)))


class CardSender(Protocol):
    """What shows an answer on a card while it is written.

    Every call may raise `Retry`, and `CardRefused` or another `Final`. Who calls takes care of order by ``turn``,
    which grows with each of them.

    Attributes:
        pace: when to update.
    """

    pace: Pace

    def possible(self, message: Message) -> bool:
        """Whether who wrote ``message`` can get a card."""

    def make(self, message: Message, words: str) -> str:
        """Make a card that nobody sees yet; return its id."""

    def post(self, message: Message, card: str, words: str, turn: int, *, again: bool) -> None:
        """Show a card as the answer to ``message``; ``again``: an earlier call may have done it."""

    def may(self) -> bool:
        """Whether an update is within the limits of the platform now, over all nodes; if so, it counts."""

    def update(self, card: str, words: str, turn: int) -> None:
        """Show all that was said so far."""

    def finish(self, message: Message, card: str, words: str, turn: int, folded: Folded | None) -> None:
        """Show the answer, and what is ``folded`` if the platform can; nothing follows."""


class Sender(Protocol):
    """What goes out to a chat platform, and what is looked up there: all that the worker needs of it.

    Attributes:
        name: name of the platform.
        access: who may talk to the bot.
        part_bytes: greatest size of one part of an answer, UTF-8 bytes.
        cards: shows answers while they are written; None if they come only when they are done.
        monthly_calls: how many calls the organisation has in a month; 0 if nobody said.
    """

    name: str
    access: Access
    part_bytes: int
    cards: CardSender | None
    monthly_calls: int

    def addressed(self, message: Message) -> bool:
        """Whether the bot is meant; in a group it is if somebody mentions it."""

    def react(self, message: Message) -> str:
        """Put a sign on ``message`` that the bot is at it; return what `unreact` needs.

        Raises:
            Retry: not now.
            Final: the platform refuses it.
        """

    def unreact(self, message: Message, reaction: str) -> None:
        """Take the sign away; see `react`."""

    def user_name(self, message: Message) -> str:
        """Display name of the sender, empty if unknown."""

    def quoted(self, message: Message) -> Quote | None:
        """Return what ``message`` quotes, None if it quotes nothing.

        Raises:
            Retry: later it may be known.
        """

    def download(self, message: Message, picture: Attachment) -> bytes:
        """Return the bytes of a picture of ``message``, or of one that goes with it."""

    def send(self, message: Message, part: str, content: str, mark: Mark) -> None:
        """Send one part of the answer to ``message``.

        Args:
            message: the user's message.
            part: name of the part, unique within the message.
            content: at most `part_bytes` bytes.
            mark: is told of requests that, repeated, would show the user the answer twice: `Mark.written` when one
                has been written, `Mark.refused` before another one follows.

        Raises:
            Retry: later it may work; nothing has been shown to the user as far as the platform tells.
            Final: it never will.
        """


def websocket_url(given: Any, base: str) -> str:
    """Return the URL of a websocket that a platform gave us; it may be plain only where ``base``, that we asked, is.

    Raises:
        Retry: it is none.
    """
    schemes = ("wss://",) if base.startswith("https://") else ("wss://", "ws://")
    if not isinstance(given, str) or not given.startswith(schemes):
        raise Retry(f"no {' or '.join(schemes)} URL was given")
    return given


def parse_json(body: bytes | str) -> dict[str, Any]:
    """Return a JSON object or refuse with 400."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise Refusal(400, "not_json") from None
    if not isinstance(data, dict):
        raise Refusal(400, "not_an_object")
    return data


def same(given: str, expected: str) -> bool:
    """Compare in constant time; any text is allowed."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode("utf-8", "replace"))


def decode_base64(value: str) -> bytes:
    """Decode strictly or refuse with 400."""
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "not_base64") from None


def identifier(data: Mapping[str, Any], name: str) -> str:
    """Return a required id or refuse with 400."""
    value = data.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID:
        raise Refusal(400, f"bad_{name}")
    return text.clean(value)


def string(data: Mapping[str, Any], name: str) -> str:
    """Return an optional text, empty if it is absent or of another type."""
    value = data.get(name)
    return text.clean(value[:LONGEST_TEXT]) if isinstance(value, str) else ""


def milliseconds(data: Mapping[str, Any], name: str, default: int) -> int:
    """Return a time in milliseconds, given as number or text; ``default`` if there is none or a senseless one."""
    value = data.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**15
    return int(value) if usable and value is not None else default


def section(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object within an object, empty if there is none."""
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def items(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the objects of a list, empty if there is none."""
    value = data.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
