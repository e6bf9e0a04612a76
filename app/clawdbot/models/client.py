"""The model: ``echo``, or any service that speaks OpenAI's chat completions."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from clawdbot import metrics, text, texts
from clawdbot.config import ModelConfig
from clawdbot.errors import Final, Retry, Throttled
from clawdbot.images import Picture
from clawdbot.limits import jittered
from clawdbot.logs import model_log
from clawdbot.models import failures, reasoning
from clawdbot.models.breaker import Breaker
from clawdbot.models.dialects import DIALECTS, Conversations
from clawdbot.models.failures import Failed, Kind

if TYPE_CHECKING:
    from clawdbot.models.wire import Completion, Patience

BREAKER_FAILURES = 5
BREAKER_SECONDS = 30.0
PAUSE_SECONDS = 0.5
LONGEST_PAUSE = 5.0
# A conversation that is too long for the model is first halved, then left out.
MOST_SHORTENINGS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What the model has said so far, without reasoning."""

    text: str = ""


def unwatched(said: Callable[[], Said]) -> None:
    """Nobody wants to know."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        key: key of the user's message, for the log.
        system: instruction to the model.
        history: earlier turns, oldest first.
        text: the user's words.
        pictures: what the user attached.
        session: what shares a history, for services that keep conversations themselves.
        writer: who writes, in a group; our history says it by itself.
        temperature: where it is not that of the model.
        next_after: seconds without a first word after which another model is asked; 0: there is no other.
        watch: is told, when the model begins, how to look at what it has said so far.
    """

    key: str
    system: str
    history: Sequence[tuple[str, str]]
    text: str
    pictures: Sequence[Picture] = ()
    session: str = ""
    writer: str = ""
    temperature: float | None = None
    next_after: float = 0
    watch: Callable[[Callable[[], Said]], None] = dataclasses.field(default=unwatched, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What the model answered.

    Attributes:
        text: the model's words, without reasoning.
        note: one of `texts` that the user is told besides, because the answer is not all there; else empty.
        thoughts: the reasoning, if users see that; else empty.
        sources: what the answer was taken from, by a service that says so.
        prompt: tokens of the question with all that went along; 0 if nobody was asked.
        completion: tokens of the answer, reasoning included.
        model: which of several models it was.
    """

    text: str
    note: str = ""
    thoughts: str = ""
    sources: tuple[str, ...] = ()
    prompt: int = dataclasses.field(default=0, compare=False)
    completion: int = dataclasses.field(default=0, compare=False)
    model: str = dataclasses.field(default="", compare=False)


class Model(Protocol):
    """Something that answers questions."""

    def ask(self, question: Question) -> Reply:
        """Return the answer.

        Raises:
            Retry: later it may answer.
            Final: it never will; the apology says why in plain words.
        """


class EchoModel:
    """Answers with the user's own words: no key, no network."""

    def ask(self, question: Question) -> Reply:
        """Return the echo."""
        with_pictures = f" [{len(question.pictures)} picture(s)]" if question.pictures else ""
        return Reply(f"echo: {question.text}{with_pictures}")


class Way(Protocol):
    """How a service is reached; `wire.Service` is one."""

    def ask(
        self, body: Mapping[str, Any], headers: Mapping[str, str], patience: Patience, found: Completion | None = None
    ) -> Completion:
        """See `wire.Service.ask`."""


class ChatModel:
    """An OpenAI-compatible service."""

    def __init__(
        self,
        config: ModelConfig,
        service: Way,
        credential: Callable[[], str],
        sleep: Callable[[float], None] = time.sleep,
        *,
        conversations: Conversations | None = None,
        opening: Way | None = None,
    ) -> None:
        """Put it together.

        Args:
            config: what is known of it.
            service: where questions go.
            credential: returns what goes into ``Authorization: Bearer``, empty for nothing.
            sleep: waits.
            conversations: the ids of conversations, of a service that keeps them itself.
            opening: where such a service begins one, if it has to be told.
        """
        self._config = config
        self._dialect = DIALECTS[config.preset.dialect]
        self._conversations = conversations
        self._opening = opening
        self._service = service
        self._credential = credential
        self._sleep = sleep
        self._breaker = Breaker(BREAKER_FAILURES, BREAKER_SECONDS)
        self._trouble = ""

    def ask(self, question: Question) -> Reply:
        """See `Model.ask`: one repetition at once, a deadline over all calls, and the breaker around them."""
        wait = self._breaker.wait()
        if wait:
            raise Throttled(f"{self._trouble} (circuit breaker is open)", after=wait, apology=texts.BUSY)
        try:
            reply = self._ask(question)
        except Failed as error:
            decided = error.for_the_queue()
            if isinstance(decided, Retry):
                # What an operator wants to know of those who find the breaker open.
                self._trouble = str(decided)
                self._breaker.failed()
            else:
                # The service is there; it is the question or the key that it does not like.
                self._breaker.succeeded()
            raise decided from None
        except (Retry, Final) as error:
            # No credential, so nobody was asked; operators have to know all the same.
            kind = Kind.AUTH if isinstance(error, Final) else Kind.UNREACHABLE
            metrics.MODEL_CALLS.labels(self._config.name, kind.value).inc()
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        return reply

    def _ask(self, question: Question) -> Reply:
        end = time.monotonic() + self._config.total_seconds
        shortenings, repeated = 0, False
        while True:
            try:
                return self._call(question, end - time.monotonic())
            except Failed as error:
                if self._forgotten(question, error):
                    continue
                if error.kind is Kind.CONTEXT and question.history and shortenings < MOST_SHORTENINGS:
                    shortenings += 1
                    question = _shorter(question, shortenings)
                    continue
                pause = error.after if error.after is not None else jittered(PAUSE_SECONDS)
                left = end - time.monotonic() - pause
                if (
                    repeated
                    or question.next_after
                    or error.kind not in failures.AT_ONCE
                    or pause > LONGEST_PAUSE
                    or left < 1
                ):
                    raise
            repeated = True
            self._sleep(pause)

    def _forgotten(self, question: Question, error: Failed) -> bool:
        """Whether the service may have forgotten the conversation, so that it is worth to begin another one."""
        if self._conversations is None or error.kind not in {Kind.BAD_REQUEST, Kind.MODEL, Kind.CONTEXT}:
            return False
        if not self._conversations.find(question.session, self._place):
            return False
        self._conversations.drop(question.session, self._place)
        return True

    @property
    def _place(self) -> str:
        """What a conversation's id belongs to."""
        return f"{self._config.base_url} {self._config.model}"

    def _begun(self, question: Question, headers: Mapping[str, str], patience: Patience) -> str:
        """Return the service's id of the conversation, of one that is begun if need be."""
        if self._conversations is None:
            return ""
        found = self._conversations.find(question.session, self._place)
        if not found and self._opening is not None:
            opened = self._opening.ask(self._dialect.body(self._config, question, ""), headers, patience)
            self._refuse(opened)
            found = opened.conversation
        return found

    def _call(self, question: Question, seconds: float) -> Reply:
        # Only the worker comes here, and pays for the HTTP client of models.
        from clawdbot.models.wire import Completion, Patience

        config, timer = self._config, metrics.Timer()
        credential = self._credential()
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        first = min(config.first_token_seconds if config.stream else seconds, seconds)
        first = min(first, question.next_after or first)
        kind = Kind.SUCCESS
        fields: dict[str, Any] = {}
        try:
            so_far = Completion()
            question.watch(lambda: Said(text.clean(reasoning.without(self._dialect.shown(so_far.text)))))
            patience = Patience(first, config.idle_seconds, seconds)
            conversation = self._begun(question, headers, patience)
            body = self._dialect.body(config, question, conversation) or self._body(question)
            found = self._service.ask(body, headers, patience, so_far)
            fields = {"status": found.status, "finish": found.finish, "first_token_seconds": found.first_token_seconds}
            counted = self._count(found.usage)
            fields |= counted
            reply = self._reply(found)
            if self._conversations is not None:
                known = found.conversation or conversation or str(body.get("chatId", ""))
                self._conversations.keep(question.session, self._place, known)
            estimated = {"prompt_tokens": _tokens(question), "completion_tokens": text.tokens(found.text)}
            tokens = estimated | counted
            return dataclasses.replace(reply, prompt=tokens["prompt_tokens"], completion=tokens["completion_tokens"])
        except Failed as error:
            kind = error.kind
            fields |= error.fields | {"reason": str(error)}
            raise
        finally:
            metrics.MODEL_CALLS.labels(config.name, kind.value).inc()
            metrics.MODEL_SECONDS.labels(config.name).observe(timer.seconds())
            fields |= {"provider": config.name, "model": config.model, "outcome": kind.value}
            fields |= {"seconds": round(timer.seconds(), 3), "message": question.key}
            level = "info" if kind is Kind.SUCCESS else "warning"
            getattr(model_log, level)("", extra={"fields": {key: value for key, value in fields.items() if value}})

    def _count(self, usage: Mapping[str, Any]) -> dict[str, int]:
        counted = {}
        for kind in ("prompt_tokens", "completion_tokens"):
            count = usage.get(kind)
            if isinstance(count, int) and count > 0:
                counted[kind] = count
                metrics.MODEL_TOKENS.labels(self._config.name, kind.removesuffix("_tokens")).inc(count)
        return counted

    def _body(self, question: Question) -> dict[str, Any]:
        config = self._config
        body: dict[str, Any] = {"model": config.model, "messages": _messages(question), "stream": config.stream}
        if config.stream:
            body["stream_options"] = {"include_usage": True}
        temperature = config.temperature if question.temperature is None else question.temperature
        if temperature is not None:
            body["temperature"] = temperature
        if config.max_tokens:
            body[config.preset.length_field] = config.max_tokens
        return {key: value for key, value in (body | dict(config.extra_fields)).items() if value is not None}

    def _reply(self, found: Completion) -> Reply:
        """Return what the user gets, or what went wrong although there was an answer."""
        self._refuse(found)
        ended = failures.finish(found.finish)
        if ended not in {Kind.SUCCESS, Kind.LENGTH, Kind.CONTENT_FILTER}:
            raise Failed(ended, status=found.status, code=found.finish)
        answer, thoughts = reasoning.parted(self._dialect.shown(found.text))
        words = text.clean(answer) or text.clean(found.refusal)
        if not words:
            nothing = Kind.TOO_SLOW if found.late else Kind.EMPTY if ended is Kind.SUCCESS else ended
            raise Failed(nothing, status=found.status, code=found.finish)
        note = {Kind.LENGTH: texts.CUT, Kind.CONTENT_FILTER: texts.FILTERED_REST}.get(ended, "")
        if len(words) > self._config.answer_characters:
            words, note = words[: self._config.answer_characters], texts.CUT
        thoughts = text.clean(found.thought or thoughts) if self._config.show_reasoning else ""
        return Reply(words, texts.CUT_LATE if found.late else note, thoughts, tuple(found.sources))

    def _refuse(self, found: Completion) -> None:
        if found.error or found.status >= 300:
            kind, code = failures.sort(self._config.name, found.status, found.error)
            raise Failed(kind, after=found.retry_after, status=found.status, code=code)


def _tokens(question: Question) -> int:
    """Estimate what a service that does not count has read."""
    history = sum(text.tokens(asked) + text.tokens(answered) for asked, answered in question.history)
    return text.tokens(question.system) + history + text.tokens(question.text)


def _shorter(question: Question, times: int) -> Question:
    history = list(question.history)
    kept = history[(len(history) + 1) // 2 :] if times < MOST_SHORTENINGS else []
    return dataclasses.replace(question, history=kept)


def _messages(question: Question) -> list[dict[str, Any]]:
    """Messages of the request; pictures of earlier turns are not sent again."""
    messages: list[dict[str, Any]] = []
    if question.system:
        messages.append({"role": "system", "content": question.system})
    for asked, answered in question.history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    content: str | list[dict[str, Any]] = question.text
    if question.pictures:
        shown = [{"type": "image_url", "image_url": {"url": picture.data_url()}} for picture in question.pictures]
        content = [{"type": "text", "text": question.text or "Describe the picture."}, *shown]
    messages.append({"role": "user", "content": content})
    return messages
