"""What is left in the queue of a site that was given up goes to the site that answers.

Most of it is known there, since its Redis was copied from ours. What is not was accepted in the last moments: it is
queued there, with what had been decided about it and what had been sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from clawdbot.answers import answer_key
from clawdbot.clock import now_ms
from clawdbot.engine.queue import DEAD, DEAD_ORDER, PAGE, WAITING, Begun, DeadLetter, Kept, Lease, Queue
from clawdbot.message import ORDER_DIGITS, Message, Unreadable
from clawdbot.sent import mark_key
from clawdbot.store import key


@dataclasses.dataclass(slots=True)
class HandedOver:
    """How many messages were handed over or known there, and how many dead letters are new there.

    What could not be read is one of these.
    """

    messages: int = 0
    known: int = 0
    dead: int = 0


def hand_over(here: Queue, there: Queue) -> HandedOver:
    """Give all that waits in ``here`` to ``there``; it stays here as well, and doing so again changes nothing.

    Nobody may be at work here.

    Raises:
        redis.RedisError: one of both cannot be asked, or ``there`` takes no writes.
    """
    told = HandedOver()
    letters = list(here.dead())
    waiting = sorted(_waiting(here, letters), key=lambda kept: (kept.written, kept.id))
    marks = list(here.client.scan_iter(mark_key("*", "*"), count=PAGE))
    for first in range(0, len(waiting), PAGE):
        batch = waiting[first : first + PAGE]
        new = [kept for kept in batch if not there.client.exists(key("dedup", kept.key))]
        told.known += len(batch) - len(new)
        told.messages += len(new)
        if new:
            _give(here, there, new, marks)
    for letter in letters:
        if there.client.hsetnx(DEAD, letter.key, letter.dump()):
            there.client.zadd(DEAD_ORDER, {letter.key: letter.died_ms})
            told.dead += 1
    return told


def _waiting(here: Queue, letters: list[DeadLetter]) -> Iterator[Kept]:
    """Yield what waits; what cannot be read becomes one of ``letters``."""
    prefix = key("conv", "")
    for name in here.client.scan_iter(f"{prefix}*", count=PAGE):
        conversation = str(name).removeprefix(prefix)
        for number, dumped in enumerate(map(str, here.client.lrange(name, 0, -1))):
            try:
                message = Message.load(dumped)
            except Unreadable as error:
                letters.append(DeadLetter.unreadable(Lease("", conversation), Begun(dumped, 0, 0, 0), str(error)))
                continue
            arrived = here.client.zscore(WAITING, message.key)
            moment = int(arrived) if arrived else now_ms()
            yield Kept(number, dumped[:ORDER_DIGITS], message.key, conversation, dumped, "", moment)


def _give(here: Queue, there: Queue, new: Sequence[Kept], marks: Sequence[str]) -> None:
    names = [answer_key(kept.key) for kept in new]
    # Should an answer have been on its way, it goes on where it stood.
    prefixes = tuple(mark_key(kept.key, "") for kept in new)
    names += [name for name in marks if name.startswith(prefixes)]
    for name, value in zip(names, here.client.mget(names), strict=True):
        if value is not None:
            there.client.set(name, value)
    there.hand_over(new, now_ms())
