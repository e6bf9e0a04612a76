"""Answers that grow: a card that shows what the model has said so far, and in the end the answer.

A card is one more form of an answer's first part. Which one belongs to a message is kept in Redis from before its user
sees it until the message is settled: whoever goes on after a worker that died goes on with the same card. Where there
can be none, the user's message gets a sign, and the answer comes as a message.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import redis

from clawdbot import http, text
from clawdbot.calls import Calls
from clawdbot.engine.failures import judge
from clawdbot.engine.queue import Hold
from clawdbot.errors import ClawdbotError, Final, LeaseLost, Retry
from clawdbot.message import Message
from clawdbot.models.client import Said
from clawdbot.notes import Notes
from clawdbot.platforms.base import CardRefused, CardSender, Folded, Sender
from clawdbot.sent import CARD, mark_key
from clawdbot.signs import Signs
from clawdbot.store import DEDUP_SECONDS, READY, Script, key

log = logging.getLogger(__name__)

# An answer that takes no longer than this is a message as ever.
OPEN_SECONDS = 0.3
# How often a card looks for the model's next words.
LOOK_SECONDS = 0.1
# After a refusal that concerns everybody, or one chat, answers come without cards for so long.
OFF_SECONDS = 3600.0
# Idle ones cost nothing, and no more are made than conversations are in work.
MOST_THREADS = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A card of a message.

    Attributes:
        id: what the platform calls it.
        turn: grows with everything that is done to it, whoever does it.
        seen: whether its user sees it for certain.
    """

    id: str
    turn: int
    seen: bool


class Cards:
    """The cards of the messages in work."""

    def __init__(self, client: redis.Redis, notes: Notes) -> None:
        """Keep them in Redis; ``notes`` say where there are none for a while, and why."""
        self._client = client
        self._notes = notes
        self.calls = Calls(client)
        self.signs = Signs(client, notes, self.calls)
        self._turn = Script(client, "card", durable=True)
        self._threads = ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="card")
        self._growing: dict[str, Growing] = {}

    # Growing

    def grow(self, sender: Sender, message: Message, hold: Hold, words: str) -> Growing:
        """Return a context manager around making an answer; the card begins with ``words``."""
        return Growing(self, sender, message, hold, words)

    def start(self, growing: Growing) -> Future[None]:
        """Run what ``growing`` does in a thread of its own."""
        self._growing[growing.message.key] = growing
        return self._threads.submit(contextvars.copy_context().run, growing.run)

    def ended(self, growing: Growing) -> None:
        """Nothing grows any more."""
        self._growing.pop(growing.message.key, None)

    def say(self, sender: Sender, message: Message, hold: Hold, words: str) -> bool:
        """Say ``words`` on the card of ``message`` until there are better ones; False if it has none.

        Raises:
            Retry: later it may work.
            Final: the card cannot say it.
        """
        if growing := self._growing.get(message.key):
            return growing.say(words)
        if sender.cards is None or (card := self.turn(message, hold)) is None:
            return False
        with http.asking_before_writing(hold.check):
            sender.cards.update(card.id, words, card.turn)
        return True

    # What is kept

    def turn(self, message: Message, hold: Hold, *, made: str = "", seen: bool = False) -> Card | None:
        """Take a turn at the card of ``message``; None if it has none.

        Args:
            message: the user's message.
            hold: the lease under which this happens.
            made: id of a card that was just made.
            seen: its user sees it now.

        Raises:
            LeaseLost: another worker took over.
        """
        args = [*hold.fence, DEDUP_SECONDS, made, "1" if seen else ""]
        found = self._turn([mark_key(message.key, CARD), READY], args)
        if found is None:
            if made:
                raise LeaseLost("the lease belongs to another worker")
            return None
        return Card(str(found[0]), int(found[1]), bool(found[2]))

    def forget(self, message: Message) -> None:
        """Its card is none any more."""
        self._client.delete(mark_key(message.key, CARD))

    # Where there are none

    def possible(self, sender: Sender, message: Message) -> CardSender | None:
        """Return what shows a card to whoever wrote ``message``; None if nothing can, or shall just now."""
        cards = sender.cards
        if cards is None or not cards.possible(message):
            return None
        if any(self._notes.get(name) for name in (off_key(sender.name), _off_key(message))):
            return None
        return None if self.calls.scarce(sender) else cards

    def refused(self, message: Message, error: CardRefused) -> None:
        """Do without cards for a while."""
        name = off_key(message.platform) if error.everywhere else _off_key(message)
        self._notes.put(name, str(error), OFF_SECONDS)
        fields = {"reason": str(error), "everywhere": error.everywhere, "seconds": OFF_SECONDS}
        log.warning("a card was refused, so answers come without for a while", extra={"fields": fields})


class Growing:
    """A context manager around making an answer: shows it while it grows, if it takes long enough.

    When the context has ended, nothing of it is on its way any more.
    """

    def __init__(self, cards: Cards, sender: Sender, message: Message, hold: Hold, words: str) -> None:
        """See `Cards.grow`."""
        self.message = message
        self._cards = cards
        self._sender = sender
        self._hold = hold
        self._words = words
        self._said: Callable[[], Said] = Said
        self._over = threading.Event()
        self._open = False
        self._future: Future[None] | None = None

    def watch(self, said: Callable[[], Said]) -> None:
        """From now on ``said`` tells what the model has said so far."""
        self._said = said

    def say(self, words: str) -> bool:
        """See `Cards.say`."""
        self._words = words
        return self._open

    def __enter__(self) -> Growing:
        """Start to wait."""
        self._future = self._cards.start(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop; what is on its way is waited for."""
        self._over.set()
        if self._future is not None:
            self._future.result()
            self._cards.ended(self)

    def run(self) -> None:
        """Open the card and let it grow, or put up a sign. Whatever fails, the answer comes all the same."""
        if self._over.wait(OPEN_SECONDS):
            return
        try:
            cards = self._cards.possible(self._sender, self.message)
            if cards is None or not self._shown(cards):
                self._cards.signs.put(self._sender, self.message, self._hold)
        except (ClawdbotError, redis.RedisError) as error:
            fields = {"message_key": self.message.key, "reason": judge(error).reason}
            log.info("the user sees nothing before the answer", extra={"fields": fields})
        except Exception:
            log.exception("a card failed", extra={"fields": {"message_key": self.message.key}})

    def _shown(self, cards: CardSender) -> bool:
        """Let a card grow until the answer is there; False if it was refused."""
        with http.asking_before_writing(self._hold.check):
            try:
                again = self._opened(cards)
            except CardRefused as error:
                self._cards.refused(self.message, error)
                return False
            self._grow(cards, again=again)
        return True

    def _grow(self, cards: CardSender, *, again: bool) -> None:
        self._open = True
        # What an earlier attempt has shown stays until there is more.
        self._words, pace, shown, number = "" if again else self._words, cards.pace, self._words, 0
        due = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            if time.monotonic() < due or (pace.most and number >= pace.most):
                continue
            words = self._part()
            if not words or words == shown or not cards.may():
                continue
            turn = self._cards.turn(self.message, self._hold)
            if turn is None:
                return
            number += 1
            # The next one has it all.
            with contextlib.suppress(Retry):
                cards.update(turn.id, words, turn.turn)
                shown = words
            due = time.monotonic() + pace.seconds(number)

    def _opened(self, cards: CardSender) -> bool:
        """See to it that the user looks at a card; return whether an earlier attempt made it."""
        card, again = self._cards.turn(self.message, self._hold), True
        if card is None:
            made = cards.make(self.message, self._words)
            card, again = self._cards.turn(self.message, self._hold, made=made), False
        if card is None:
            raise LeaseLost("the lease belongs to another worker")
        if not card.seen:
            try:
                cards.post(self.message, card.id, self._words, card.turn, again=again)
            except CardRefused:
                self._cards.forget(self.message)
                raise
            self._cards.turn(self.message, self._hold, seen=True)
        return again

    def _part(self) -> str:
        """What fits into the card of what was said so far."""
        words = self._said().text
        return text.split(words, self._sender.part_bytes)[0] if words else self._words


def finish(
    cards: Cards, sender: Sender, message: Message, hold: Hold, content: str, folded: Folded | None, below: str
) -> bool:
    """Let the card of ``message`` end with ``content``; False if it has none, or none that takes it.

    May be repeated: it ends the same way. A card that does not take ``content`` ends with the words ``below``.

    Raises:
        Retry: later it may work.
        LeaseLost: another worker took over.
    """
    if sender.cards is None or (card := cards.turn(message, hold)) is None:
        return False
    try:
        if not card.seen:
            # An attempt before may have shown it, or have died right before.
            sender.cards.post(message, card.id, content, card.turn, again=True)
            card = cards.turn(message, hold, seen=True) or card
        sender.cards.finish(message, card.id, content, card.turn, folded)
    except Final as error:
        with contextlib.suppress(Final, Retry):
            sender.cards.finish(message, card.id, below, card.turn + 1, None)
        cards.forget(message)
        fields = {"message_key": message.key, "reason": str(error)}
        log.warning("a card could not be finished, so the answer is a message", extra={"fields": fields})
        return False
    return True


def off_key(platform: str) -> str:
    """Name of the note that says why no answer grows on a platform."""
    return key("cards-off", platform)


def _off_key(message: Message) -> str:
    return key("cards-off", message.platform, message.conversation)
