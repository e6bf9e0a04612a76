"""Constant load on the bot, with every message accounted for at the simulator.

Open loop: messages are sent at their due time whether or not earlier ones were answered. No more
than rate x timeout requests can be under way, which bounds threads and connections.
"""

import heapq
import itertools
import math
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial

import requests

from clawdbot_simulator.client import Control
from clawdbot_simulator.records import Record
from clawdbot_simulator.users import CALLBACK_TIMEOUT, DingTalk, Feishu, Question

MAX_THREADS = 256
POLL = 0.5  # seconds between two looks at the simulator's records
LINGER = 2.0  # seconds after the last answer in which a second one would be noticed


@dataclass(frozen=True)
class Plan:
    """What to send."""

    rate: float = 50.0  # new messages a second
    duration: float = 60.0  # seconds
    platforms: Sequence[str] = ("dingtalk", "feishu")
    conversations: int = 40  # single chats, spread evenly over the platforms
    duplicates: float = 0.0  # share of the messages that the platform delivers twice
    retries: Sequence[float] = ()  # seconds until a failed callback is sent again; () = never
    timeout: float = CALLBACK_TIMEOUT  # seconds a callback may take, or an acknowledgement until it is sent again
    settle: float = 60.0  # seconds to wait for the last answers
    notices: Sequence[str] = ()  # what the bot says to who waits for long, which is no answer


@dataclass
class Message:
    """One message. Times are ``time.time()``; 0 means not yet."""

    write: Callable[[], Question]
    first_sent: float = 0.0
    accepted: float = 0.0
    answers: list[Record] = field(default_factory=list)

    @cached_property
    def question(self) -> Question:
        """The message as the user wrote it, when it was first asked for."""
        return self.write()


@dataclass(frozen=True)
class Report:
    """The account of a run; times in milliseconds, 0 where nothing was measured.

    Answer times end at the simulator's clock, which should agree with this host's.
    """

    messages: int
    requests: int  # with repetitions
    accepted: int
    answered_once: int
    lost: int  # accepted, never answered
    answered_twice: int  # or more often
    doubled: dict[str, int]  # these by platform, and whether the answers say the same
    out_of_order: int
    wrong_answers: int  # answered once, but not with the question's own text (an apology)
    failed_requests: int
    failures: dict[str, int]  # failed requests by reason
    seconds: float  # that it took to send every message once
    rate: float  # messages a second that were really sent
    lag_ms: float  # the longest that a message waited for a free thread
    ack_p50_ms: float
    ack_p99_ms: float
    ack_max_ms: float
    answer_p50_ms: float
    answer_p99_ms: float
    answer_max_ms: float
    ack_gap_ms: float  # the longest time in which no message was accepted
    answer_gap_ms: float  # the longest time in which none was answered

    @property
    def ok(self) -> bool:
        """Everything accepted at the first try and answered once, rightly and in order."""
        faults = self.failed_requests + self.answered_twice + self.out_of_order + self.wrong_answers
        return faults == 0 and self.answered_once == self.accepted == self.messages

    def summary(self) -> str:
        """One line for people."""
        reasons, doubled = (
            f" ({', '.join(f'{count} x {what}' for what, count in counts.items())})" if counts else ""
            for counts in (self.failures, self.doubled)
        )
        return (
            f"{'ok' if self.ok else 'FAILED'}: {self.messages} messages at {self.rate:.1f}/s: "
            f"{self.accepted} accepted, {self.answered_once} answered once, {self.lost} lost, "
            f"{self.answered_twice} answered twice{doubled}, {self.out_of_order} out of order, "
            f"{self.wrong_answers} wrong answers, {self.failed_requests} failed requests{reasons}; "
            f"accepted in {self.ack_p50_ms:.0f} ms (p99 {self.ack_p99_ms:.0f}), "
            f"answered in {self.answer_p50_ms:.0f} ms (p99 {self.answer_p99_ms:.0f}); "
            f"sent at most {self.lag_ms:.0f} ms late"
        )

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}


class Load:
    """One run against the bot at ``callback_base``; if that is empty, over the connections that the bot has opened."""

    def __init__(self, plan: Plan, control: Control, callback_base: str, verify: bool | str = True) -> None:
        """``verify`` as in `Callback.post`."""
        self._plan = plan
        self._control = control
        self._base = callback_base
        self._verify = verify
        threads = min(MAX_THREADS, math.ceil(plan.rate * (1 + plan.duplicates) * plan.timeout) + 4)
        self._pool = ThreadPoolExecutor(threads)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=threads))
        # The platforms promise no connection reuse; a fresh one each also meets no stale one.
        self._session.headers["Connection"] = "close"
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._tickets = itertools.count()
        self._under_way = 0
        self._stopped = False
        self._changed = threading.Condition()
        self._acks: list[float] = []  # seconds
        self._failures: Counter[str] = Counter()
        self._requests = 0
        self._lag = 0.0
        self._run = secrets.token_hex(3)
        self._messages = self._write_messages()
        self._by_id: dict[str, Message] = {}

    def run(self) -> Report:
        """Send, wait for the answers, account for them; takes duration + settle at most."""
        seen = self._control.last_seq()
        begin = time.time()
        repetitions = int(len(self._messages) * self._plan.duplicates)
        repeated = set(secrets.SystemRandom().sample(range(len(self._messages)), repetitions))
        for number, message in enumerate(self._messages):
            due = begin + number / self._plan.rate
            self._at(due, message, repeat=number in repeated)
        sender = threading.Thread(target=self._send_all, daemon=True)
        sender.start()
        while sender.is_alive():
            sender.join(POLL)
            seen = self._collect(seen)
        self._messages = [message for message in self._messages if message.first_sent]
        deadline = time.time() + self._plan.settle
        while time.time() < deadline and any(m.accepted and not m.answers for m in self._messages):
            seen = self._collect(seen, wait=POLL)
        time.sleep(LINGER)
        self._collect(seen)
        self._pool.shutdown()
        return self._report(begin)

    def stop(self) -> None:
        """Send no further message; `run` accounts for those that were sent. For another thread or a signal handler."""
        with self._changed:
            self._stopped = True
            self._queue.clear()
            self._changed.notify()

    def _write_messages(self) -> list[Message]:
        users: dict[str, DingTalk | Feishu] = {
            "dingtalk": DingTalk(self._control.config),
            "feishu": Feishu(self._control.config),
        }
        writers = [
            (users[self._plan.platforms[n % len(self._plan.platforms)]], f"load {self._run} {n}")
            for n in range(self._plan.conversations)
        ]
        return [
            Message(partial(platform.text, name, f"load-{self._run}-{number}"))
            for number, (platform, name) in zip(
                range(max(1, round(self._plan.rate * self._plan.duration))),
                itertools.cycle(writers),
                strict=False,
            )
        ]

    # Sending

    def _at(self, due: float, message: Message, *, attempt: int = 0, repeat: bool = False) -> None:
        def job() -> None:
            self._send(due, message, attempt, repeat)

        with self._changed:
            if self._stopped:
                return
            heapq.heappush(self._queue, (due, next(self._tickets), job))
            self._changed.notify()

    def _send_all(self) -> None:
        """Hand out each job when it is due, until none is left or could still come."""
        while True:
            with self._changed:
                if not self._queue:
                    if not self._under_way:
                        return
                    self._changed.wait()
                    continue
                left = self._queue[0][0] - time.time()
                if left > 0:
                    self._changed.wait(left)
                    continue
                job = heapq.heappop(self._queue)[2]
                self._under_way += 1
            self._pool.submit(self._guarded, job)

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def _send(self, due: float, message: Message, attempt: int, repeat: bool) -> None:
        self._by_id[message.question.message_id] = message
        deliver = self._call_back(message.question) if self._base else self._push(message.question)
        started = time.time()
        message.first_sent = message.first_sent or started
        try:
            failure = deliver()
        except requests.RequestException as error:
            failure = type(error).__name__
        ended = time.time()
        with self._changed:
            self._requests += 1
            self._lag = max(self._lag, started - due)
            if failure:
                self._failures[failure] += 1
            else:
                self._acks.append(ended - started)
                message.accepted = message.accepted or ended
        if failure and attempt < len(self._plan.retries):
            self._at(ended + self._plan.retries[attempt], message, attempt=attempt + 1)
        if repeat:
            self._at(ended + secrets.randbelow(1000) / 1000, message, attempt=len(self._plan.retries))

    def _call_back(self, question: Question) -> Callable[[], str]:
        """What delivers it as a callback, and returns why that failed."""
        callback = question.callback()

        def deliver() -> str:
            status = callback.post(self._base, self._session, self._plan.timeout, self._verify).status_code
            return "" if status == 200 else f"HTTP {status}"

        return deliver

    def _push(self, question: Question) -> Callable[[], str]:
        """What delivers it over a connection, again until it is acknowledged, and returns why that failed."""

        def deliver() -> str:
            sent = self._control.push(question, again=self._plan.timeout, wait=self._plan.settle)
            return "" if sent["seconds"] is not None else "not acknowledged"

        return deliver

    # Accounting

    def _collect(self, seen: int, wait: float = 0.0) -> int:
        """Assign new answers to their messages; DingTalk's send APIs only show it in the text."""
        records = self._control.messages(after=seen, wait=wait)
        for record in records:
            found = re.search(rf"load-{self._run}-(\d+)", record.text)
            message = self._by_id.get(record.answers) or (found and self._messages[int(found[1])])
            if message and record.text not in self._plan.notices:
                message.answers.append(record)
        return records[-1].seq if records else seen

    def _report(self, begin: float) -> Report:
        once = [message for message in self._messages if len(message.answers) == 1]
        waits = [max(m.answers[0].time - m.first_sent, 0.0) for m in once]
        seconds = max((m.first_sent for m in self._messages), default=begin) - begin + 1 / self._plan.rate
        twice = [message for message in self._messages if len(message.answers) > 1]
        acks = self._acks
        count = len(self._messages)
        return Report(
            messages=count,
            requests=self._requests,
            accepted=sum(m.accepted > 0 for m in self._messages),
            answered_once=len(once),
            lost=sum(m.accepted > 0 and not m.answers for m in self._messages),
            answered_twice=len(twice),
            doubled=dict(Counter(map(doubling, twice))),
            out_of_order=out_of_order(self._messages),
            wrong_answers=sum(m.question.text not in m.answers[0].text for m in once),
            failed_requests=self._failures.total(),
            failures=dict(self._failures),
            seconds=round(seconds, 3),
            rate=round(count / seconds, 2),
            lag_ms=_ms(self._lag),
            ack_p50_ms=percentile(acks, 50),
            ack_p99_ms=percentile(acks, 99),
            ack_max_ms=percentile(acks, 100),
            answer_p50_ms=percentile(waits, 50),
            answer_p99_ms=percentile(waits, 99),
            answer_max_ms=percentile(waits, 100),
            ack_gap_ms=longest_gap(message.accepted for message in self._messages if message.accepted),
            answer_gap_ms=longest_gap(message.answers[0].time for message in self._messages if message.answers),
        )


def out_of_order(messages: Iterable[Message]) -> int:
    """Messages answered after one that was sent only when they had already been accepted.

    Two messages of a conversation that were under way together have no order.
    """
    wrong = 0
    latest_sent: dict[str, float] = {}
    for message in sorted((m for m in messages if m.answers), key=lambda m: m.answers[0].seq):
        conversation = message.question.conversation
        latest = latest_sent.get(conversation, 0.0)
        wrong += 0 < message.accepted < latest
        latest_sent[conversation] = max(latest, message.first_sent)
    return wrong


def doubling(message: Message) -> str:
    """How a message was answered twice."""
    same = len({answer.text for answer in message.answers}) == 1
    return message.question.platform + ("" if same else " in other words")


def longest_gap(moments: Iterable[float]) -> float:
    """The longest time between two moments in milliseconds; 0 where there are not two."""
    return _ms(max((after - before for before, after in itertools.pairwise(sorted(moments))), default=0.0))


def percentile(seconds: Sequence[float], percent: int) -> float:
    """A percentile in milliseconds (nearest rank); 0 of nothing."""
    if not seconds:
        return 0.0
    rank = max(math.ceil(len(seconds) * percent / 100), 1)
    return _ms(sorted(seconds)[rank - 1])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
