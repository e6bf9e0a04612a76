"""Cards that the bot changes after they were sent, as their users see them."""

import threading
import time
from dataclasses import dataclass, field

from clawdbot_simulator.records import Records


@dataclass
class Card:
    """A card. Users see it once it has a conversation; it is done when it does not grow any more."""

    id: str
    platform: str
    text: str
    conversation: str = ""
    answers: str = ""
    name: str = ""  # of the message that shows it, where somebody quotes that
    asker: str = ""  # who is mentioned
    folded: str = ""
    growing: bool = True
    done: bool = False
    sequence: int = 0
    updates: int = 0
    elements: set[str] = field(default_factory=set)
    changed: float = field(default_factory=time.time)


class Cards:
    """All cards. What is on one becomes a ``message`` of the records when it is done: that is the answer."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._cards: dict[str, Card] = {}
        self.lock = threading.RLock()

    def add(self, card: Card) -> None:
        """A new one, which nobody sees yet."""
        with self.lock:
            self._cards[card.id] = card

    def find(self, card: str) -> Card | None:
        """The card of that id."""
        return self._cards.get(card)

    def all(self) -> list[Card]:
        """Those that a user sees, in the order in which they were made."""
        with self.lock:
            return [card for card in self._cards.values() if card.conversation]

    def show(self, card: Card, conversation: str, answers: str, name: str) -> None:
        """Users see it from now on."""
        with self.lock:
            card.conversation, card.answers, card.name = conversation, answers, name
            self._note(card)

    def change(self, card: Card, text: str, *, growing: bool = True, folded: str = "") -> None:
        """There is other text on it."""
        with self.lock:
            card.text, card.growing, card.changed = text, growing, time.time()
            card.folded = folded or card.folded
            card.updates += 1
            self._note(card)

    def clear(self) -> None:
        """Forget all."""
        with self.lock:
            self._cards.clear()

    def _note(self, card: Card) -> None:
        if not card.conversation:
            return
        place = {"conversation": card.conversation, "answers": card.answers, "text": card.text}
        place |= {"name": card.name, "asker": card.asker}
        endpoint = f"{card.platform}.card"
        self._records.add("card", endpoint, card=card.id, growing=card.growing, folded=card.folded, **place)
        if not card.growing and not card.done:
            card.done = True
            self._records.add("message", endpoint, msg_type="card", card=card.id, **place)
