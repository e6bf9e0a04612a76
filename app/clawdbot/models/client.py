"""The model: ``echo``, or any service that speaks OpenAI's chat completions.

A plain HTTP client rather than the ``openai`` package: one POST is all there is, and the package costs a second
of start and 59 MB in every process.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from clawdbot import metrics, texts
from clawdbot.config import ModelConfig
from clawdbot.errors import ClawdbotError, Final, Retry
from clawdbot.http import Http, Response, TransportError
from clawdbot.images import Picture
from clawdbot.limits import jittered
from clawdbot.logs import model_log
from clawdbot.models.breaker import Breaker

CALL_SECONDS = 60.0
TOTAL_SECONDS = 90.0
BREAKER_FAILURES = 5
BREAKER_SECONDS = 30.0
PAUSE_SECONDS = 0.5
LONGEST_PAUSE = 5.0

QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "arrearage", "exceeded_current_quota_error"}
MODEL_CODES = {"model_not_found", "model_not_exist", "invalidendpointormodel.notfound"}


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        key: key of the user's message, for the log.
        system: instruction to the model.
        history: earlier turns, oldest first.
        text: the user's words.
        pictures: what the user attached.
    """

    key: str
    system: str
    history: Sequence[tuple[str, str]]
    text: str
    pictures: Sequence[Picture] = ()


class Model(Protocol):
    """Something that answers questions."""

    def ask(self, question: Question) -> str:
        """Return the answer.

        Raises:
            Retry: later it may answer.
            Final: it never will; the apology says why in plain words.
        """


class EchoModel:
    """Answers with the user's own words: no key, no network."""

    def ask(self, question: Question) -> str:
        """Return the echo."""
        with_pictures = f" [{len(question.pictures)} picture(s)]" if question.pictures else ""
        return f"echo: {question.text}{with_pictures}"


class ChatModel:
    """An OpenAI-compatible service."""

    def __init__(
        self, config: ModelConfig, web: Http, credential: Callable[[], str], sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """``credential`` returns what goes into ``Authorization: Bearer``, empty for nothing."""
        self._config = config
        self._http = web
        self._credential = credential
        self._sleep = sleep
        self._breaker = Breaker(BREAKER_FAILURES, BREAKER_SECONDS)

    def ask(self, question: Question) -> str:
        """See `Model.ask`: one repetition at once, a deadline over both, and the breaker around them."""
        wait = self._breaker.wait()
        if wait:
            raise Retry("model: circuit breaker is open", after=wait, apology=texts.BUSY)
        try:
            answer = self._ask_twice(question)
        except Retry:
            self._breaker.failed()
            raise
        except Final:
            # The service is there; it is the question or the key that it does not like.
            self._breaker.succeeded()
            raise
        self._breaker.succeeded()
        return answer

    def _ask_twice(self, question: Question) -> str:
        end = time.monotonic() + TOTAL_SECONDS
        body = {"model": self._config.model, "messages": _messages(question), "stream": False}
        try:
            return self._call(question, body, end)
        except Retry as error:
            pause = error.after if error.after is not None else jittered(PAUSE_SECONDS)
            if pause > LONGEST_PAUSE or time.monotonic() + pause >= end:
                raise
        self._sleep(pause)
        return self._call(question, body, end)

    def _call(self, question: Question, body: dict[str, Any], end: float) -> str:
        timer = metrics.Timer()
        outcome = "success"
        fields: dict[str, Any] = {}
        try:
            response = self._post(body, min(CALL_SECONDS, max(1.0, end - time.monotonic())))
            fields["status"] = response.status
            answer = _answer(response)
            usage = response.json().get("usage")
            for kind in ("prompt_tokens", "completion_tokens"):
                count = usage.get(kind) if isinstance(usage, dict) else None
                if isinstance(count, int) and count > 0:
                    fields[kind] = count
                    metrics.MODEL_TOKENS.labels(self._config.name, kind.removesuffix("_tokens")).inc(count)
        except ClawdbotError as error:
            reason = str(error).split(" ")
            outcome = reason[1].rstrip(",") if reason[0] == "model:" else "failure"
            fields["reason"] = str(error)
            raise
        finally:
            metrics.MODEL_CALLS.labels(self._config.name, outcome).inc()
            metrics.MODEL_SECONDS.labels(self._config.name).observe(timer.seconds())
            fields |= {"provider": self._config.name, "model": self._config.model, "outcome": outcome}
            fields |= {"seconds": round(timer.seconds(), 3), "message": question.key}
            level = "info" if outcome == "success" else "warning"
            getattr(model_log, level)("", extra={"fields": fields})
        return answer

    def _post(self, body: dict[str, Any], deadline: float) -> Response:
        credential = self._credential()
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        url = f"{self._config.base_url}/chat/completions"
        try:
            return self._http.request("POST", url, payload=body, headers=headers, deadline=deadline)
        except TransportError as error:
            raise Retry(f"model: unreachable {error}", apology=texts.BUSY) from None


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


def _answer(response: Response) -> str:
    """Return the answer's text or sort the failure."""
    data = response.json()
    if response.status == 200:
        try:
            content = data["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            raise Retry("model: malformed answer", apology=texts.BUSY) from None
        if not isinstance(content, str) or not content.strip():
            raise Final("model: empty answer", apology=texts.EMPTY)
        return content
    error = data.get("error")
    detail = error if isinstance(error, dict) else data
    codes = {str(detail.get(name, "")).lower() for name in ("code", "type")}
    return _sort_failure(response, codes)


def _sort_failure(response: Response, codes: set[str]) -> str:
    status = response.status
    if codes & QUOTA_CODES or status == 402:
        raise Final(f"model: quota exhausted, status {status}", apology=texts.NO_QUOTA)
    if status in {401, 403}:
        raise Final(f"model: auth refused, status {status}", apology=texts.MISCONFIGURED)
    if status == 404 or codes & MODEL_CODES:
        raise Final(f"model: not_found, status {status}; check MODEL_NAME and MODEL_BASE_URL", apology=texts.NO_MODEL)
    if status in {408, 409, 429} or status >= 500:
        kind = "rate_limited" if status == 429 else "server_error"
        raise Retry(f"model: {kind} status {status}", after=response.retry_after(), apology=texts.BUSY)
    raise Final(f"model: bad_request status {status}", apology=texts.BAD_REQUEST)
