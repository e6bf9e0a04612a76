"""How services are spoken to: OpenAI's chat completions, and applications that know a company's documents.

An application keeps the conversation itself, under an id that follows our history, and names its sources. It has an
instruction of its own, so ours is not sent. Sources: docs.dify.ai "Send chat message", doc.fastgpt.io "Chat interface",
ragflow.io/docs "Converse with chat assistant".
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import redis

from clawdbot.store import key

if TYPE_CHECKING:
    from clawdbot.config import ModelConfig
    from clawdbot.models.client import Question
    from clawdbot.models.wire import Completion

MOST_SOURCES = 5
RAGFLOW_MARK = re.compile(r"\s*(?:##\d+\$\$|\[ID:\s*\d+\])")
# So much of two answers is compared to tell whether one is the other.
LONGEST_BEGINNING = 20
LONGEST_SOURCE = 80


class Dialect(Protocol):
    """What differs between services.

    Attributes:
        remembers: whether the service keeps the conversation.
        after_done: whether something follows ``[DONE]``.
    """

    remembers: bool = False
    after_done: bool = False

    def path(self, config: ModelConfig) -> str:
        """Where questions go, below the base URL."""

    def opening(self, config: ModelConfig) -> str:  # noqa: ARG002  # for those that need it
        """Where a conversation is begun before its first question; empty if it need not be."""
        return ""

    def body(self, config: ModelConfig, question: Question, conversation: str) -> dict[str, Any]:
        """The request for ``question``; nothing for services that do not remember, which get the messages."""

    def known(self, data: Mapping[str, Any]) -> bool:
        """Whether an answer in one piece is one of this service."""

    def take(self, found: Completion, event: str, data: Any) -> None:
        """Add a piece of the answer to ``found``."""

    def shown(self, text: str) -> str:
        """Return what people see of an answer."""
        return text


class OpenAI(Dialect):
    """OpenAI's chat completions, which most services speak."""

    def path(self, config: ModelConfig) -> str:  # noqa: ARG002  # part of Dialect
        """See `Dialect.path`."""
        return "/chat/completions"

    def body(self, config: ModelConfig, question: Question, conversation: str) -> dict[str, Any]:  # noqa: ARG002  # part of Dialect
        """See `Dialect.body`."""
        return {}

    def known(self, data: Mapping[str, Any]) -> bool:
        """See `Dialect.known`."""
        return bool(data.get("choices") or data.get("error") or coded(data))

    def take(self, found: Completion, event: str, data: Any) -> None:
        """See `Dialect.take`."""
        if event == "error" and isinstance(data, dict):
            found.error = data["error"] if isinstance(data.get("error"), dict) else data
        else:
            found.take(data)


class FastGPT(OpenAI):
    """FastGPT: OpenAI's form, with an id of the conversation that is ours, and sources behind the end."""

    remembers = True
    after_done = True

    def body(self, config: ModelConfig, question: Question, conversation: str) -> dict[str, Any]:  # noqa: ARG002  # part of Dialect
        """See `Dialect.body`."""
        messages = [{"role": "user", "content": _words(question)}]
        return {"chatId": conversation or secrets.token_hex(12), "stream": True, "detail": True, "messages": messages}

    def take(self, found: Completion, event: str, data: Any) -> None:
        """See `Dialect.take`."""
        if event == "flowResponses" and isinstance(data, list):
            for module in data:
                quotes = module.get("quoteList") if isinstance(module, dict) else None
                _sources(found, quotes, "sourceName")
                _count(found, module if isinstance(module, dict) else {}, "inputTokens", "outputTokens")
        elif event in {"", "message", "answer", "fastAnswer", "error"}:
            super().take(found, event, data)


class Dify(Dialect):
    """Dify's chat applications: the first answer names the conversation, the end names sources and tokens."""

    remembers = True

    def path(self, config: ModelConfig) -> str:  # noqa: ARG002  # part of Dialect
        """See `Dialect.path`."""
        return "/chat-messages"

    def body(self, config: ModelConfig, question: Question, conversation: str) -> dict[str, Any]:  # noqa: ARG002  # part of Dialect
        """See `Dialect.body`; a conversation belongs to its ``user``, so that is who shares our history."""
        return {
            "inputs": {},
            "query": _words(question),
            "response_mode": "streaming",
            "conversation_id": conversation,
            "user": question.session or "clawdbot",
            "auto_generate_name": False,
        }

    def known(self, data: Mapping[str, Any]) -> bool:
        """See `Dialect.known`."""
        return "answer" in data or "code" in data

    def take(self, found: Completion, event: str, data: Any) -> None:  # noqa: ARG002  # the event is in the data
        """See `Dialect.take`."""
        if not isinstance(data, dict):
            return
        found.conversation = str(data.get("conversation_id") or found.conversation)
        match data.get("event"):
            case "message" | "agent_message":
                found.add(data.get("answer"))
            case "message_replace":
                found.replace(data.get("answer"))
            case "message_end":
                found.finish = "stop"
                metadata = data.get("metadata")
                metadata = metadata if isinstance(metadata, dict) else {}
                _sources(found, metadata.get("retriever_resources"), "document_name")
                usage = metadata.get("usage")
                found.usage = usage if isinstance(usage, dict) else found.usage
            case "error":
                found.error = data


class RAGFlow(Dialect):
    """RAGFlow's chat assistants: the model's name is an assistant's id, and a session is made before all questions."""

    remembers = True

    def path(self, config: ModelConfig) -> str:
        """See `Dialect.path`."""
        return f"/chats/{config.model}/completions"

    def opening(self, config: ModelConfig) -> str:
        """See `Dialect.opening`."""
        return f"/chats/{config.model}/sessions"

    def body(self, config: ModelConfig, question: Question, conversation: str) -> dict[str, Any]:  # noqa: ARG002  # part of Dialect
        """See `Dialect.body`; without a session the request makes one."""
        if not conversation:
            return {"name": question.session or "clawdbot"}
        return {"question": _words(question), "stream": True, "session_id": conversation}

    def known(self, data: Mapping[str, Any]) -> bool:
        """See `Dialect.known`."""
        return "code" in data

    def take(self, found: Completion, event: str, data: Any) -> None:  # noqa: ARG002  # it has none
        """See `Dialect.take`."""
        if not isinstance(data, dict):
            return
        if data.get("code"):
            found.error = data
            return
        said = data.get("data")
        if said is True:
            found.finish = "stop"
        elif isinstance(said, dict):
            found.conversation = str(said.get("session_id") or said.get("id") or found.conversation)
            reference = said.get("reference")
            sources = reference.get("doc_aggs") if isinstance(reference, dict) else None
            _sources(found, sources, "doc_name")
            self._add(found, said.get("answer"), last=bool(sources))

    def _add(self, found: Completion, answer: Any, *, last: bool) -> None:
        """Add an answer: of older releases it is all that was said so far, of newer ones what is new.

        The last one may be all of it once more, with marks in it.
        """
        if not isinstance(answer, str) or not answer:
            return
        before = self.shown(found.text)
        start = len(before) if not last else min(len(before), LONGEST_BEGINNING)
        grown = len(answer) > len(before) and self.shown(answer)[:start] == before[:start]
        if before and grown:
            found.replace(answer)
        else:
            found.add(answer)

    def shown(self, text: str) -> str:
        """See `Dialect.shown`; marks that lead to sources lead nowhere in a chat."""
        return RAGFLOW_MARK.sub("", text)


OPENAI = OpenAI()
DIALECTS: Mapping[str, Dialect] = {"": OPENAI, "fastgpt": FastGPT(), "dify": Dify(), "ragflow": RAGFlow()}


def coded(data: Mapping[str, Any]) -> bool:
    """Whether ``data`` is an error although it does not stand in ``error``."""
    return any(data.get(name) for name in ("code", "error_code", "error_msg")) or data.get("object") == "error"


def _words(question: Question) -> str:
    return f"{question.writer}: {question.text}" if question.writer else question.text


def _sources(found: Completion, items: Any, name: str) -> None:
    for item in items if isinstance(items, list) else []:
        source = item.get(name) if isinstance(item, dict) else None
        if isinstance(source, str) and source.strip():
            shown = " ".join(source.split())[:LONGEST_SOURCE]
            if shown not in found.sources and len(found.sources) < MOST_SOURCES:
                found.sources.append(shown)


def _count(found: Completion, module: Mapping[str, Any], asked: str, answered: str) -> None:
    usage = dict(found.usage)
    for name, field in ((asked, "prompt_tokens"), (answered, "completion_tokens")):
        count = module.get(name)
        if isinstance(count, int):
            usage[field] = int(usage.get(field) or 0) + count
    found.usage = usage


@dataclasses.dataclass(frozen=True, slots=True)
class Conversations:
    """The ids of services that keep conversations themselves; they live as long as our history."""

    client: redis.Redis
    ttl: int

    def find(self, session: str, model: str) -> str:
        """Return the id, empty if there is none."""
        return str(self.client.hget(_name(session), model) or "")

    def keep(self, session: str, model: str, conversation: str) -> None:
        """Keep the id."""
        if session:
            self.client.hset(_name(session), model, conversation)
            self.client.expire(_name(session), self.ttl)

    def drop(self, session: str, model: str) -> None:
        """Forget one: the service does not know it any more."""
        self.client.hdel(_name(session), model)

    def forget(self, session: str) -> None:
        """Forget all of a session."""
        self.client.delete(_name(session))


def _name(session: str) -> str:
    return key("conversations", session)
