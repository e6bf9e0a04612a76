"""What belongs to a question besides its words: the message that it quotes, its pictures, and those sent before it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
from collections.abc import Iterable

import redis

from clawdbot import images, texts
from clawdbot.errors import Final
from clawdbot.images import Picture
from clawdbot.message import Message
from clawdbot.platforms.base import Attachment, Quote, Sender
from clawdbot.store import key

log = logging.getLogger(__name__)

MOST_PICTURES = 4
# A picture without words waits so long for the words that go with it.
EARLIER_SECONDS = 300
# Whole files are in memory while they are fetched.
DOWNLOADS_AT_ONCE = 4
# To the model, not to people.
ONLY_QUOTED = "(The user writes nothing else. Answer or explain what is quoted.)"
UNREADABLE = "(a message that cannot be read here)"
PICTURE = "(picture)"
ONLY_PICTURES = "[picture]"

_downloads = threading.BoundedSemaphore(DOWNLOADS_AT_ONCE)


@dataclasses.dataclass(frozen=True, slots=True)
class Gathered:
    """A question with what belongs to it.

    Attributes:
        text: what is quoted, as a Markdown quotation, and the user's words.
        pictures: at most `MOST_PICTURES`.
        left_out: whether there were more.
    """

    text: str
    pictures: list[Picture]
    left_out: bool = False


class Gatherer:
    """Gathers what belongs together; what waits for its question is kept in Redis."""

    def __init__(self, client: redis.Redis) -> None:
        """Keep it in ``client``."""
        self._client = client

    def gather(self, sender: Sender, message: Message, *, words: str, vision: bool) -> Gathered:
        """Return ``words`` of ``message`` with what belongs to them.

        Args:
            sender: the message's platform.
            message: the message; it has no kind that the bot cannot read.
            words: its words.
            vision: whether the model can see.

        Raises:
            Final: with an apology, it is no question, or one that the model cannot see.
            Retry: the platform is not there.
        """
        quote = sender.quoted(message)
        own = [Attachment(message.id, image) for image in message.images]
        if not words and not own:
            if quote is None:
                raise Final("empty message", apology=texts.NOTHING)
            if not quote.text and not quote.images:
                raise Final("unreadable quote", apology=texts.UNREADABLE_QUOTE)
        if not vision and (own or (quote and quote.images and not quote.text)):
            raise Final("pictures for a model without eyes", apology=texts.NO_VISION)
        if own and not words and quote is None:
            self._remember(message, own)
        if not vision:
            return Gathered(_with_quote(words, quote), [])
        others = quote.images if quote else () if own or not words else self._claim(message)
        wanted = [*own, *others]
        shown = [_picture(sender, message, one) for one in own[:MOST_PICTURES]]
        for one in others[: MOST_PICTURES - len(shown)]:
            try:
                shown.append(_picture(sender, message, one))
            except Final as error:
                # The question stands without it.
                log.warning("a picture is left out", extra={"fields": {"message_key": message.key, "why": str(error)}})
        return Gathered(_with_quote(words, quote), shown, left_out=len(wanted) > MOST_PICTURES)

    def _remember(self, message: Message, pictures: Iterable[Attachment]) -> None:
        """Keep pictures for the next words of the same person in the same conversation."""
        taken, known = self._waiting(message)
        kept = dict.fromkeys([*([] if taken else known), *pictures])
        self._keep(message, "", list(kept)[-MOST_PICTURES:])

    def _claim(self, message: Message) -> tuple[Attachment, ...]:
        """Take the pictures that wait; another attempt gets the same ones, another message none."""
        taken, known = self._waiting(message)
        if not known or taken not in {"", message.key}:
            return ()
        self._keep(message, message.key, known)
        return tuple(known)

    def _waiting(self, message: Message) -> tuple[str, list[Attachment]]:
        """Return which message took the pictures, empty if none did, and the pictures."""
        found = self._client.get(_name(message))
        if not found:
            return "", []
        try:
            taken, known = json.loads(str(found))
            return str(taken), [Attachment(*one) for one in known]
        except (ValueError, TypeError):
            # Another release's; better no picture than no answer.
            return "", []

    def _keep(self, message: Message, taken: str, pictures: list[Attachment]) -> None:
        value = json.dumps([taken, [[one.message, one.reference] for one in pictures]])
        # With a full Redis the picture is answered and not remembered.
        with contextlib.suppress(redis.OutOfMemoryError):
            self._client.set(_name(message), value, ex=EARLIER_SECONDS)


def own_words(asked: str) -> str:
    """Return a question of the history without what stands there for words that were not written."""
    return "" if asked == ONLY_PICTURES else asked.removesuffix(ONLY_QUOTED)


def _name(message: Message) -> str:
    return key("pictures", message.conversation_key, message.sender)


def _with_quote(words: str, quote: Quote | None) -> str:
    if quote is None:
        return words
    lines = (quote.text or (PICTURE if quote.images else UNREADABLE)).splitlines()
    return "\n".join([*(f"> {line}" for line in lines), "", words or ONLY_QUOTED])


def _picture(sender: Sender, message: Message, attachment: Attachment) -> Picture:
    with _downloads:
        try:
            data = sender.download(message, attachment)
        except Final as error:
            raise Final(str(error), apology=texts.NO_DOWNLOAD) from None
        return images.prepare(data)
