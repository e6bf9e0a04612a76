"""What happens to one message: who may ask, commands, pictures, the model, and the answer's parts."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from clawdbot import gathering, http, languages, text, texts, usage
from clawdbot.answers import Answer, Answers
from clawdbot.cache import Cache
from clawdbot.cards import Cards, Growing, finish
from clawdbot.config import ModelConfig, Settings, voices
from clawdbot.config.live import Live
from clawdbot.config.voices import MAIN, BotFile, Voice
from clawdbot.engine.queue import Hold, Queue
from clawdbot.errors import Final, LeaseLost, Retry, Unsure
from clawdbot.gathering import MOST_PICTURES, Gatherer
from clawdbot.languages import Language
from clawdbot.limits import Limiter, Rate
from clawdbot.message import Message
from clawdbot.models import prompt
from clawdbot.models.chain import Models
from clawdbot.models.client import Model, Question, Reply
from clawdbot.models.dialects import Conversations
from clawdbot.notes import SharedNotes
from clawdbot.platforms.base import MENTION, Folded, Sender
from clawdbot.sent import APOLOGY, FIRST, PATIENCE, SENT, UNSURE, Sent
from clawdbot.sessions import Sessions
from clawdbot.store import key
from clawdbot.usage import Limit, Usage

log = logging.getLogger(__name__)

LONGEST_QUESTION = 20_000
PERIODS = {"day": texts.A_DAY, "month": texts.A_MONTH}
# Who has not written for so long is greeted again.
GREETED_SECONDS = 30 * 86400.0
# A model that was chosen stays so for so long.
CHOICE_SECONDS = 30 * 86400.0


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
        *,
        make: Callable[[ModelConfig], Model],
    ) -> None:
        """Put the parts together; ``model`` is the one of the environment, ``make`` makes those of ``bot.yaml``."""
        self._settings = settings
        self._live = Live(settings.config_dir / voices.FILE, settings.bot)
        self._models = Models(model, make)
        self._usage = Usage(queue.client)
        self._conversations = Conversations(queue.client, settings.redis.ttl)
        self._notes = SharedNotes(queue.client)
        self._platforms = platforms
        self._cache = cache
        self._answers = Answers(queue.client)
        self._sent = Sent(queue.client)
        self._cards = Cards(queue.client, self._notes)
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
                    card = self._cards.grow(platform, self._mentioning(message), hold, thinking)
                    with patience, card as growing:
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
        """As much as the model with the best memory reads; one with less gets it shortened."""
        return max((model.preset.history_tokens for model in self._configs(self._live.now()).values()), default=0)

    def _configs(self, bot: BotFile) -> dict[str, ModelConfig]:
        """All models by name."""
        main = {MAIN: self._settings.model} if self._settings.model else {}
        return {**main, **bot.models}

    def _voice(self, bot: BotFile, message: Message) -> Voice:
        return bot.voice(message.platform, message.conversation, message.sender)

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
        voice = self._voice(self._live.now(), message)
        if not voice.may_write or (access.users and message.sender not in access.users):
            return Answer(self._say(message, texts.NOT_ALLOWED), "apologised")
        most = voice.messages_per_minute or self._settings.user_messages_per_minute
        if first and not self._limiter.allows(f"user:{message.platform}:{message.sender}", Rate(most / 60, most)):
            return Answer(self._say(message, texts.SLOW_DOWN), "apologised")
        return self._command(platform, message)

    def _command(self, platform: Sender, message: Message) -> Answer | None:
        words = languages.commands()
        taking = [word for word, name in words.items() if name == texts.COMMAND_MODEL]
        name, argument = text.command(message.text, words, taking)
        match words.get(name):
            case texts.COMMAND_HELP:
                return Answer(self._help(message))
            case texts.COMMAND_RESET:
                self._cache.remember("reset", message.conversation_key, True)
                self._conversations.forget(message.conversation_key)
                return Answer(self._say(message, texts.RESET), forget=True)
            case texts.COMMAND_STATUS:
                return Answer(self._status(platform, message))
            case texts.COMMAND_USAGE:
                return Answer(self._used(message))
            case texts.COMMAND_MODEL:
                return Answer(self._choose(message, argument))
            case _:
                return None

    def _help(self, message: Message) -> str:
        voice = self._voice(self._live.now(), message)
        # Who needs help may not know the language that the command was given in.
        said = []
        for language in self._languages(message):
            said.append(language.say(texts.HELP))
            if voice.choose:
                said.append(language.say(texts.HELP_MODEL))
        return "\n\n".join(filter(None, [voice.greeting, *said]))

    def _choose(self, message: Message, wanted: str) -> str:
        """Let somebody choose the model that is asked first."""
        say, bot = self._languages(message)[0].say, self._live.now()
        voice, name = self._voice(bot, message), _choice_key(message)
        if not voice.choose:
            return say(texts.MODEL_FIXED)
        if wanted in voice.choose:
            self._notes.put(name, wanted, CHOICE_SECONDS)
        elif wanted:
            return say(texts.MODEL_UNKNOWN, name=wanted, names=", ".join(voice.choose))
        chosen = self._chain(voice, message)[0]
        return say(texts.MODEL_CHOSEN, name=chosen, names=", ".join(voice.choose))

    def _chain(self, voice: Voice, message: Message) -> tuple[str, ...]:
        """The models that are asked, that of the person's own choice first."""
        chosen = self._notes.get(_choice_key(message)) if voice.choose else None
        if chosen not in voice.choose:
            return voice.models
        return (chosen, *(name for name in voice.models if name != chosen))

    def _used(self, message: Message) -> str:
        bot, say = self._live.now(), self._languages(message)[0].say
        lines = [
            say(label, tokens=spent.tokens, cost=_money(spent.of("cost"), bot))
            for (_, spent), label in zip(
                self._usage.of_person(message).items(), (texts.USAGE_TODAY, texts.USAGE_MONTH), strict=True
            )
        ]
        for limit in self._usage.limits(message, self._voice(bot, message)):
            share = f"{min(999, round(100 * limit.used / limit.most))} %" if limit.most else "100 %"
            lines.append(say(texts.USAGE_LIMIT, limit=_limit(limit, say, bot), share=share))
        return "\n".join(lines)

    def _status(self, platform: Sender, message: Message) -> str:
        bot = self._live.now()
        model, depth = self._configs(bot).get(self._chain(self._voice(bot, message), message)[0]), self._queue.depth()
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
        bot, say = self._live.now(), self._languages(message)[0].say
        for limit in self._usage.limits(message, self._voice(bot, message)):
            if limit.used >= limit.most:
                return Answer(say(texts.LIMIT_REACHED, limit=_limit(limit, say, bot)), "apologised")
        try:
            return self._answer(platform, message, growing)
        except Final as error:
            if not error.apology:
                raise
            log.warning("no answer", extra={"fields": {"message_key": message.key, "reason": str(error)}})
            return Answer(self._say(message, error.apology), "apologised")

    def _question(
        self, platform: Sender, message: Message, growing: Growing, bot: BotFile
    ) -> tuple[Question, tuple[str, ...], list[str]]:
        """Return what is asked, which models, and what the user is told of it besides the answer."""
        name, configs, voice = _writer(platform, message), self._configs(bot), self._voice(bot, message)
        chain = self._chain(voice, message)
        seeing = tuple(each for each in voice.picture_models or chain if each in configs and configs[each].vision)
        words = message.text[:LONGEST_QUESTION]
        gathered = self._gatherer.gather(platform, message, words=words, vision=bool(seeing))
        if gathered.pictures:
            chain = seeing
        elif voice.long_models and len(gathered.text) > voice.long_characters:
            chain = voice.long_models
        model = self._settings.model
        template = voice.system_prompt or (model.system_prompt if model else "")
        group = str(message.route.get("group_name") or prompt.NAMELESS_GROUP) if message.group else ""
        today = datetime.datetime.now(datetime.UTC).astimezone().date()
        question = Question(
            key=message.key,
            system=prompt.system(template, name=name, group=group, today=today, bot=voice.bot_name),
            history=self._sessions.find(message),
            text=gathered.text,
            pictures=gathered.pictures,
            session=message.conversation_key,
            writer=prompt.one_line(name) if message.group else "",
            temperature=voice.temperature,
            watch=growing.watch,
        )
        notes = []
        if len(message.text) > LONGEST_QUESTION:
            notes.append(self._say(message, texts.QUESTION_CUT, count=LONGEST_QUESTION))
        if gathered.left_out:
            notes.append(self._say(message, texts.PICTURES_LEFT_OUT, count=MOST_PICTURES))
        return question, chain, notes

    def _answer(self, platform: Sender, message: Message, growing: Growing) -> Answer:
        bot = self._live.now()
        question, chain, notes = self._question(platform, message, growing, bot)
        reply = self._reply(message, question, chain, bot)
        if reply.note:
            notes.insert(0, self._say(message, reply.note))
        if reply.sources:
            notes.insert(0, self._say(message, texts.SOURCES, names="; ".join(reply.sources)))
        notes += self._pay(message, reply, bot)
        asked = question.text or gathering.ONLY_PICTURES
        turn = (f"{question.writer}: {asked}" if question.writer else asked, reply.text)
        greeting = self._greeting(message, bot)
        return Answer("\n\n".join([*greeting, reply.text, *notes]), turn=turn, thoughts=reply.thoughts)

    def _greeting(self, message: Message, bot: BotFile) -> list[str]:
        """What somebody is told who gets an answer for the first time, or after a long time."""
        greeting = self._voice(bot, message).greeting
        name = key("greeted", message.platform, message.sender)
        if not greeting or message.group or not self._notes.claim(name, "1", GREETED_SECONDS):
            return []
        return [greeting]

    def _pay(self, message: Message, reply: Reply, bot: BotFile) -> list[str]:
        """Count what an answer cost; return what the user is told when a limit nears."""
        if not reply.model:
            return []
        limits = self._usage.limits(message, self._voice(bot, message))
        cost = self._usage.note(message, reply.model, bot.prices.get(reply.model), reply.prompt, reply.completion)
        say = self._languages(message)[0].say
        return [say(texts.LIMIT_NEAR, limit=_limit(limit, say, bot)) for limit in limits if usage.crossed(limit, cost)]

    def _reply(self, message: Message, question: Question, chain: Sequence[str], bot: BotFile) -> Reply:
        """Ask the model, unless the same person has begun a conversation with the same within the cache's time.

        Behind other words the same question hardly comes twice, so only beginnings are remembered. Whoever has said
        /reset wants another answer.
        """
        configs, next_after = self._configs(bot), self._voice(bot, message).next_after
        if question.history or any(configs[each].preset.dialect for each in chain if each in configs):
            return self._models.ask(question, chain, configs, next_after=next_after)
        name = self._beginning(message, question, [repr(configs.get(each)) for each in chain])
        known = self._cache.lookup("model", name)
        if known is not None and not self._cache.lookup("reset", message.conversation_key):
            return Reply(known)
        reply = self._models.ask(question, chain, configs, next_after=next_after)
        if not reply.note:
            self._cache.remember("model", name, reply.text)
        return reply

    def _beginning(self, message: Message, question: Question, models: Sequence[str]) -> str:
        """Return a name for everything that makes the answer another one."""
        situation = [
            [*models, repr(question.temperature)],
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
        if part in {FIRST, APOLOGY}:
            message = self._mentioning(message)
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

    def _mentioning(self, message: Message) -> Message:
        """Return ``message`` such that its answer mentions who asked, where that is the rule."""
        if not message.group or not self._voice(self._live.now(), message).mention:
            return message
        return dataclasses.replace(message, route={**message.route, MENTION: True})

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


def _choice_key(message: Message) -> str:
    """Name of the note of which model somebody has chosen in a conversation."""
    return key("choice", message.conversation_key, message.sender)


def _money(amount: float, bot: BotFile) -> str:
    return f"{amount:.2f} {bot.currency}"


def _limit(limit: Limit, say: Callable[[str], str], bot: BotFile) -> str:
    """Return a limit in the words of its reader, such as "50000 tokens a day (group)"."""
    most = f"{limit.most:.0f} {say(texts.TOKENS)}" if limit.kind == "tokens" else _money(limit.most, bot)
    return f"{most} {say(PERIODS[limit.period])}{f' ({say(texts.GROUP)})' if limit.who == 'group' else ''}"


def _writer(platform: Sender, message: Message) -> str:
    """Who writes; in a group somebody without a known name has a label, so that people are not mixed up."""
    name = platform.user_name(message)
    if name or not message.group:
        return name
    return f"user {hashlib.sha256(message.sender.encode()).hexdigest()[:4]}"
