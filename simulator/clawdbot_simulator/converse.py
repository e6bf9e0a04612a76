"""A short conversation of one user of each platform with the bot, written down for people."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import requests

from clawdbot_simulator.client import Control
from clawdbot_simulator.config import Config
from clawdbot_simulator.records import Record
from clawdbot_simulator.users import DingTalk, Feishu, Question

PLATFORM_NAMES = {"dingtalk": "DingTalk", "feishu": "Feishu"}
USERS = {"dingtalk": "Li Lei", "feishu": "Han Meimei"}
GROUP = "Friends of clawdbot"
GREETING = "Hello, is anybody there?"
CHINESE = "你好，今天怎么样？"
IN_GROUP = "A question from the whole group"
# How long the bot may take to acknowledge what comes over its connection.
PUSH_SECONDS = 10.0


@dataclass(frozen=True)
class Exchange:
    """A question and what became of it."""

    question: Question
    asked: float  # seconds since the epoch
    ack: float  # seconds until the callback's response
    error: str  # why the callback was not accepted; empty when it was
    answer: Record | None

    @property
    def where(self) -> str:
        """The kind of chat it happened in."""
        return f"group “{self.question.group}”" if self.question.group else "single chat"


def default_questions(config: Config, platforms: Iterable[str]) -> list[Question]:
    """Two private messages and one in a group, for each platform."""
    questions: list[Question] = []
    for platform in platforms:
        users = DingTalk(config) if platform == "dingtalk" else Feishu(config)
        name = USERS[platform]
        questions += [users.text(name, GREETING), users.text(name, CHINESE)]
        questions.append(users.text(name, IN_GROUP, group=GROUP))
    return questions


def own_questions(config: Config, platforms: Iterable[str], texts: Sequence[str]) -> list[Question]:
    """The given texts as private messages, for each platform."""
    return [
        (DingTalk(config) if platform == "dingtalk" else Feishu(config)).text(USERS[platform], text)
        for platform in platforms
        for text in texts
    ]


def ask(
    question: Question,
    callback_base: str,
    control: Control,
    timeout: float,
    verify: bool | str = True,
) -> Exchange:
    """Deliver one question and wait up to ``timeout`` seconds for its answer.

    Without a ``callback_base`` it goes over a connection that the bot has opened.
    """
    after = control.last_seq()
    asked, started = time.time(), time.monotonic()
    try:
        error = deliver(question, callback_base, control, verify)
    except requests.RequestException as problem:
        error = type(problem).__name__
    ack = time.monotonic() - started
    answer = None if error else wait_for_answer(question, control, after, timeout)
    return Exchange(question, asked, ack, error, answer)


def deliver(question: Question, callback_base: str, control: Control, verify: bool | str = True) -> str:
    """Give the bot a question; return why it did not take it, empty if it did."""
    if not callback_base:
        return "" if control.push(question, wait=PUSH_SECONDS)["seconds"] is not None else "not acknowledged"
    response = question.callback().post(callback_base, verify=verify)
    return "" if response.status_code == 200 else f"HTTP {response.status_code}"


def wait_for_answer(question: Question, control: Control, after: int, timeout: float) -> Record | None:
    """The first message newer than ``after`` that answers the question.

    DingTalk's send APIs do not name the message they answer; there the conversation must do.
    """
    deadline = time.monotonic() + timeout
    while (left := deadline - time.monotonic()) > 0:
        for record in control.messages(after=after, wait=min(left, 5), conversation=question.conversation):
            if record.answers in ("", question.message_id):
                return record
            after = record.seq
    return None


def transcript(exchanges: Sequence[Exchange]) -> str:
    """The conversation, one block for each place where it happened."""
    lines: list[str] = []
    heading = ""
    for exchange in exchanges:
        question, answer = exchange.question, exchange.answer
        here = f"{PLATFORM_NAMES[question.platform]} · {exchange.where}"
        if here != heading:
            lines += ["", here] if lines else [here]
            heading = here
        clock = time.strftime("%H:%M:%S", time.localtime(exchange.asked))
        lines.append(f"  {clock}  {question.user:>10}  {question.text}")
        if answer is not None:
            clock = time.strftime("%H:%M:%S", time.localtime(answer.time))
            took = max(answer.time - exchange.asked, 0)
            text = answer.text.replace("\n", "\n" + " " * 24)
            lines.append(f"  {clock}  {'clawdbot':>10}  {text}")
            lines.append(" " * 24 + f"(accepted in {exchange.ack * 1000:.0f} ms, answered in {took:.2f} s)")
        else:
            reason = f"callback failed: {exchange.error}" if exchange.error else "no answer"
            lines.append(f"  {'':8}  {'':>10}  ✗ {reason}")
    return "\n".join(lines)
