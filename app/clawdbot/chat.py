"""What happens to one message: who may ask, commands, pictures, the model, and the answer's parts."""

from __future__ import annotations

import datetime
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from clawdbot import gathering, http, languages, text, texts
from clawdbot.answers import Answer, Answers
from clawdbot.cache import Cache
from clawdbot.cards import Cards, Growing, finish
from clawdbot.config import Settings
from clawdbot.engine.queue import Hold, Queue
from clawdbot.errors import Final, LeaseLost, Retry, Unsure
from clawdbot.gathering import MOST_PICTURES, Gatherer
from clawdbot.languages import Language
from clawdbot.limits import Limiter, Rate
from clawdbot.message import Message
from clawdbot.models import prompt
from clawdbot.models.client import Model, Question, Reply
from clawdbot.notes import SharedNotes
from clawdbot.platforms.base import Folded, Sender
from clawdbot.sent import APOLOGY, FIRST, PATIENCE, SENT, UNSURE, Sent
from clawdbot.sessions import Sessions

log = logging.getLogger(__name__)

LONGEST_QUESTION = 20_000


class Chat:
    """Decides on an answer and delivers it; both can be repeated after a crash without the user noticing."""

    def __init__(
        self,
        settings: Settings,
        platforms: Mapping[str, Sender],
        model: Model,
        cache: Cache,
        limiter: Limiter,
        queue: Queue,
    ) -> None:
        """Put the parts together."""
        self._settings = settings
        self._platforms = platforms
        self._model = model
        self._cache = cache
        self._answers = Answers(queue.client)
        self._sent = Sent(queue.client)
        self._cards = Cards(queue.client, SharedNotes(queue.client))
        self._gatherer = Gatherer(queue.client)
        self._sessions = Sessions(queue.client, enabled=cache.enabled)
        self._limiter = limiter
        self._queue = queue

    def handle(
        self, message: Message, hold: Hold, patience: AbstractContextManager[object], *, first: bool = True
    ) -> Answer:
        """Answer ``message``.

        Args:
            message: the user's message.
            hold: the lease under which this happens.
            patience: is entered while the answer is made.
            first: whether this is the first attempt, which counts as one of the messages that a user may send.

        Raises:
            Retry: try again later.
            Final: give up.
            LeaseLost: another worker took over.
            Unreadable: an earlier attempt kept an answer that is none.
        """
        platform = self._platform(message)
        with self._cards.calls.counted(platform, message):
            answer = self._answers.find(message)
            if answer is None:
                answer = self._decide(platform, message, first=first)
                if answer is None:
                    thinking = self._say(message, texts.THINKING)
                    with patience, self._cards.grow(platform, message, hold, thinking) as growing:
                        answer = self._ask(platform, message, growing)
                hold.keep(message, answer)
            if answer.text:
                for number, part in enumerate(text.split(answer.text, platform.part_bytes)):
                    self._deliver(platform, message, str(number), part, hold, thoughts=answer.thoughts)
            self._cards.signs.take(platform, message)
        return answer

    def apologise(self, message: Message, words: str, hold: Hold) -> None:
        """Tell the user that there will be no answer."""
        platform = self._platform(message)
        self._deliver(platform, message, APOLOGY, self._say(message, words or texts.GAVE_UP), hold)
        self._cards.signs.take(platform, message)

    def ask_for_patience(self, message: Message, hold: Hold) -> None:
        """Tell the user, once, that the answer takes its time."""
        platform, words = self._platform(message), self._say(message, texts.STILL_WORKING)
        if not self._cards.say(platform, message, hold, words):
            self._deliver(platform, message, PATIENCE, words, hold)

    def session_after(self, message: Message, answer: Answer) -> str | None:
        """Return the conversation's new state for `Queue.done`."""
        if answer.forget:
            return ""
        return self._sessions.after(message, answer.turn, self._history_tokens)

    @property
    def _history_tokens(self) -> int:
        return self._settings.model.preset.history_tokens if self._settings.model else 0

    def _platform(self, message: Message) -> Sender:
        try:
            return self._platforms[message.platform]
        except KeyError:
            raise Retry(f"{message.platform} is switched off; mend its configuration") from None

    # Speaking

    def _say(self, message: Message, words: str, **fields: object) -> str:
        """Return one of `texts` as the writer of ``message`` gets it."""
        return self._languages(message)[0].say(words, **fields)

    def _languages(self, message: Message) -> Sequence[Language]:
        """Return the languages of the chat, that of the writer first."""
        return languages.preferred(self._settings.languages_of(message.conversation), self._said(message))

    def _said(self, message: Message) -> Iterator[str]:
        """What the writer of ``message`` said, newest first; in a group the history is everybody's."""
        yield message.text
        if not message.group:
            for asked, _ in reversed(self._sessions.find(message)):
                yield gathering.own_words(asked)

    # Deciding

    def _decide(self, platform: Sender, message: Message, *, first: bool) -> Answer | None:
        """Decide without the model if that is possible."""
        if not platform.addressed(message):
            return Answer("", "ignored")
        access = platform.access
        if access.conversations and message.conversation not in access.conversations:
            return Answer("", "ignored")
        if access.users and message.sender not in access.users:
            return Answer(self._say(message, texts.NOT_ALLOWED), "apologised")
        most = self._settings.user_messages_per_minute
        if first and not self._limiter.allows(f"user:{message.platform}:{message.sender}", Rate(most / 60, most)):
            return Answer(self._say(message, texts.SLOW_DOWN), "apologised")
        return self._command(platform, message)

    def _command(self, platform: Sender, message: Message) -> Answer | None:
        words = languages.commands()
        match words.get(text.command(message.text, words)):
            case texts.COMMAND_HELP:
                # Who needs help may not know the language that the command was given in.
                return Answer("\n\n".join(language.say(texts.HELP) for language in self._languages(message)))
            case texts.COMMAND_RESET:
                self._cache.remember("reset", message.conversation_key, True)
                return Answer(self._say(message, texts.RESET), forget=True)
            case texts.COMMAND_STATUS:
                return Answer(self._status(platform, message))
            case _:
                return None

    def _status(self, platform: Sender, message: Message) -> str:
        model, depth = self._settings.model, self._queue.depth()
        say = self._languages(message)[0].say
        lines = [
            say(texts.STATUS_MODEL, name=model.name, model=model.model) if model else say(texts.STATUS_NO_MODEL),
            say(texts.STATUS_TURNS, count=len(self._sessions.find(message))),
            say(texts.STATUS_WAITING, count=depth.messages),
            # Settings for single chats go by it, and DingTalk shows it nowhere.
            say(texts.STATUS_CHAT, id=message.conversation),
        ]
        if name := platform.user_name(message):
            lines.insert(0, say(texts.STATUS_USER, name=name))
        return "\n".join(lines)

    def _ask(self, platform: Sender, message: Message, growing: Growing) -> Answer:
        if message.unsupported:
            say = self._languages(message)[0].say
            return Answer(say(texts.UNSUPPORTED, kind=say(message.unsupported)), "apologised")
        try:
            return self._answer(platform, message, growing)
        except Final as error:
            if not error.apology:
                raise
            log.warning("no answer", extra={"fields": {"message_key": message.key, "reason": str(error)}})
            return Answer(self._say(message, error.apology), "apologised")

    def _question(self, platform: Sender, message: Message, growing: Growing) -> tuple[Question, list[str]]:
        """Return what the model is asked, and what the user is told of it besides the answer."""
        name, model = _writer(platform, message), self._settings.model
        words, vision = message.text[:LONGEST_QUESTION], bool(model and model.vision)
        gathered = self._gatherer.gather(platform, message, words=words, vision=vision)
        group = str(message.route.get("group_name") or prompt.NAMELESS_GROUP) if message.group else ""
        today = datetime.datetime.now(datetime.UTC).astimezone().date()
        question = Question(
            key=message.key,
            system=prompt.system(model.system_prompt if model else "", name=name, group=group, today=today),
            history=self._sessions.find(message),
            text=gathered.text,
            pictures=gathered.pictures,
            watch=growing.watch,
        )
        notes = []
        if len(message.text) > LONGEST_QUESTION:
            notes.append(self._say(message, texts.QUESTION_CUT, count=LONGEST_QUESTION))
        if gathered.left_out:
            notes.append(self._say(message, texts.PICTURES_LEFT_OUT, count=MOST_PICTURES))
        return question, notes

    def _answer(self, platform: Sender, message: Message, growing: Growing) -> Answer:
        question, notes = self._question(platform, message, growing)
        reply = self._reply(message, question)
        if reply.note:
            notes.insert(0, self._say(message, reply.note))
        asked = question.text or gathering.ONLY_PICTURES
        writer = prompt.one_line(_writer(platform, message)) if message.group else ""
        turn = (f"{writer}: {asked}" if writer else asked, reply.text)
        return Answer("\n\n".join([reply.text, *notes]), turn=turn, thoughts=reply.thoughts)

    def _reply(self, message: Message, question: Question) -> Reply:
        """Ask the model, unless the same person has begun a conversation with the same within the cache's time.

        Behind other words the same question hardly comes twice, so only beginnings are remembered. Whoever has said
        /reset wants another answer.
        """
        if question.history:
            return self._model.ask(question)
        name = self._beginning(message, question)
        known = self._cache.lookup("model", name)
        if known is not None and not self._cache.lookup("reset", message.conversation_key):
            return Reply(known)
        reply = self._model.ask(question)
        if not reply.note:
            self._cache.remember("model", name, reply.text)
        return reply

    def _beginning(self, message: Message, question: Question) -> str:
        """Return a name for everything that makes the answer another one."""
        situation = [
            repr(self._settings.model),
            [message.platform, message.sender],
            [question.system, question.text, *(picture.digest() for picture in question.pictures)],
        ]
        return hashlib.sha256(repr(situation).encode("utf-8", "replace")).hexdigest()

    # Delivering

    def _deliver(
        self, platform: Sender, message: Message, part: str, content: str, hold: Hold, *, thoughts: str = ""
    ) -> None:
        """Send one part unless it went out at an earlier attempt; ownership is asked right before it is written."""
        before = self._sent.state(message, part)
        if before == SENT:
            return
        hold.check()
        if self._on_card(platform, message, part, content, hold, thoughts):
            return
        mark = self._sent.mark(message, part, hold.fence, before)
        try:
            with http.asking_before_writing(hold.check):
                platform.send(message, part, content, mark)
        except Unsure:
            if before == UNSURE:
                # Twice written, twice without an answer: better read twice than six times.
                mark.sure()
                log.warning("taken for delivered", extra={"fields": {"message_key": message.key, "part": part}})
                return
            mark.unsure()
            raise
        except (Retry, Final, LeaseLost):
            mark.retract()
            raise
        except Exception:
            mark.close()
            raise
        mark.sure()

    def _on_card(self, platform: Sender, message: Message, part: str, content: str, hold: Hold, thoughts: str) -> bool:
        """Let the card end with the beginning of the answer, or with the apology that comes instead of one."""
        if platform.cards is None or part not in {FIRST, APOLOGY}:
            return False
        if part == APOLOGY and self._sent.state(message, FIRST):
            return False
        folded = Folded(self._say(message, texts.THOUGHTS), thoughts) if thoughts else None
        with http.asking_before_writing(hold.check):
            below = self._say(message, texts.BELOW)
            if not finish(self._cards, platform, message, hold, content, folded, below):
                return False
        mark = self._sent.mark(message, part, hold.fence)
        mark.sure()
        return True


def _writer(platform: Sender, message: Message) -> str:
    """Who writes; in a group somebody without a known name has a label, so that people are not mixed up."""
    name = platform.user_name(message)
    if name or not message.group:
        return name
    return f"user {hashlib.sha256(message.sender.encode()).hexdigest()[:4]}"
