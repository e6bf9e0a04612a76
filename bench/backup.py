"""What copies of Redis every 15 minutes cost: bytes in the store, seconds of processor, memory.

A Redis with what a bot keeps of a day's messages, taken through its queue, is copied by the backup's own program into a
folder on this machine: after as many messages as come in 15 minutes, after none, and as at night, with check and
pruning. Texts are made of characters as frequent as in Chinese texts, in no order, so real ones become smaller. Prints
a table for each number of messages a day. Needs Debian's restic and redis-tools.

    app/.venv/bin/python bench/backup.py [--messages 10000 100000]
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
APP = ROOT / "app"
sys.path[:0] = [str(APP), str(ROOT / "simulator")]

from clawdbot.answers import Answer  # noqa: E402  # after the path
from clawdbot.config import RedisConfig  # noqa: E402
from clawdbot.engine.queue import Hold, Queue  # noqa: E402
from clawdbot.message import Message  # noqa: E402
from clawdbot.sent import Sent  # noqa: E402
from clawdbot.sessions import Sessions  # noqa: E402
from clawdbot.store import connect  # noqa: E402

from tests.conftest import RedisServer  # noqa: E402

COPIES_A_DAY = 96
ROUNDS = 5
# A history is forgotten after an hour; whoever writes does so five times in it.
CONVERSATIONS_A_MESSAGE = 1 / 24 / 5
HISTORY_TOKENS = 8000
QUESTION_CHARACTERS, ANSWER_CHARACTERS = 70, 700
PASSWORD = "bench"  # noqa: S105  # of a repository that is thrown away
SETTINGS = """
export RESTIC_REPOSITORY={folder}/store RESTIC_PASSWORD={password} RESTIC_CACHE_DIR={folder}/cache
host=bench paths=() options=() prune=1 every=15min redis_port={port}
keep=(--keep-within 6h --keep-hourly 72 --keep-daily 7 --keep-weekly 4 --keep-monthly 6)
counts=('conversations=keys clawdbot:session:*')
metric={folder}/metrics/night often_metric={folder}/metrics/often
"""


@dataclass(frozen=True)
class Cost:
    """Of one copy.

    Attributes:
        stored: bytes that came into the store.
        processor: seconds, those of Redis included.
        resident: bytes of memory of the largest process.
        seconds: from begin to end.
    """

    stored: float
    processor: float
    resident: float
    seconds: float


class Bot:
    """A bot that answers what is written to it, without a model."""

    def __init__(self, port: int, messages_a_day: int) -> None:
        self.client = connect(RedisConfig(port=port), timeout=5)
        self._queue, self._sent = Queue(self.client, "bench"), Sent(self.client)
        self._sessions = Sessions(self.client, enabled=True)
        self._queue.prepare()
        self._conversations = max(1, round(messages_a_day * CONVERSATIONS_A_MESSAGE))
        self._numbers = itertools.count()
        self._random = random.Random(0)  # noqa: S311  # makes up texts
        pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs").glob("*.zh.md"))
        self._characters = [character for character in pages if character > "\u3000"]

    def _text(self, length: int) -> str:
        return "".join(self._random.choices(self._characters, k=length))

    def answer(self, messages: int) -> None:
        """Take so many messages, and answer them."""
        while messages > 0:
            batch = min(messages, self._conversations)
            messages -= batch
            for number in itertools.islice(self._numbers, batch):
                name = f"msg{self._random.getrandbits(128):032x}"
                route = {"session_webhook": f"https://oapi.dingtalk.com/robot/sendBySession?session={name}"}
                conversation = f"cid{number % self._conversations:032d}"
                text = self._text(QUESTION_CHARACTERS)
                message = Message(
                    "dingtalk", name, conversation, group=False, sender="u", created_ms=number, route=route
                )
                self._queue.accept(replace(message, text=text), replay_guard=f"{self._random.getrandbits(256):064x}")
            while leases := self._queue.take(batch, 1):
                for lease in leases:
                    if begun := self._queue.begin(lease):
                        message, hold = begun.message(), Hold(self._queue, lease)
                        turn = (message.text, self._text(ANSWER_CHARACTERS))
                        hold.keep(message, Answer(turn[1], turn=turn))
                        mark = self._sent.mark(message, "0", hold.fence)
                        mark.written()
                        mark.sure()
                        self._queue.done(lease, message, self._sessions.after(message, turn, HISTORY_TOKENS), 86400)

    def processor(self) -> float:
        """Seconds that Redis has used so far."""
        return sum(float(value) for name, value in self.client.info("cpu").items() if name.startswith("used_cpu_"))


class Backup:
    """The program of the backup, with its folders below ``folder``."""

    def __init__(self, folder: Path, bot: Bot, port: int) -> None:
        self._store, self._program, self._bot = folder / "store", folder / "program", bot
        program = (ROOT / "roles/backup/files/clawdbot-backup").read_text("utf-8")
        for place in ("/var/lib/clawdbot-backup", "/etc/clawdbot-backup"):
            program = program.replace(place, str(folder / "backup"))
        self._program.write_text(program, "utf-8")
        (folder / "backup").mkdir()
        (folder / "backup/settings").write_text(SETTINGS.format(folder=folder, password=PASSWORD, port=port), "utf-8")

    def size(self) -> int:
        """Bytes in the store."""
        return sum(file.stat().st_size for file in self._store.rglob("*") if file.is_file())

    def __call__(self, command: str) -> Cost:
        """What a command costs."""
        held, used, begin = self.size(), self._bot.processor(), time.perf_counter()
        run = subprocess.Popen(["/bin/bash", self._program, command], stdout=subprocess.DEVNULL)  # noqa: S603  # our own
        _, status, usage = os.wait4(run.pid, 0)
        run.returncode = os.waitstatus_to_exitcode(status)
        if run.returncode:
            raise subprocess.CalledProcessError(run.returncode, run.args)
        seconds = time.perf_counter() - begin
        processor = usage.ru_utime + usage.ru_stime + self._bot.processor() - used
        return Cost(self.size() - held, processor, usage.ru_maxrss * 1024, seconds)


def median(costs: list[Cost]) -> Cost:
    """The median of each."""
    names = ("stored", "processor", "resident", "seconds")
    return Cost(**{name: statistics.median(getattr(cost, name) for cost in costs) for name in names})


def show(what: str, cost: Cost) -> None:
    """Print a row."""
    stored, resident = cost.stored / 1e6, cost.resident / 1e6
    print(f"{what:<36} {stored:>9.2f} {cost.processor:>11.2f} {resident:>9.0f} {cost.seconds:>8.2f}")


def measure(messages: int, folder: Path) -> None:
    """Print the table for so many messages a day."""
    (folder / "redis").mkdir()
    redis = RedisServer(folder / "redis", to_disk=False)
    redis.start()
    try:
        bot = Bot(redis.port, messages)
        backup = Backup(folder, bot, redis.port)
        backup("init")
        bot.answer(messages)
        print(f"\n{messages} messages a day, {bot.client.info('memory')['used_memory'] / 1e6:.0f} MB in Redis")
        print(f"{'':<36} {'MB stored':>9} {'processor s':>11} {'memory MB':>9} {'takes s':>8}")
        show("the first copy", backup("often"))
        busy = []
        for _ in range(ROUNDS):
            bot.answer(round(messages / COPIES_A_DAY))
            busy.append(backup("often"))
        each, night = median(busy), backup("run")
        show("each after 15 minutes of messages", each)
        show("each after 15 minutes of silence", median([backup("often") for _ in range(ROUNDS)]))
        show("the nightly one", night)
        day = Cost(
            COPIES_A_DAY * each.stored + night.stored,
            COPIES_A_DAY * each.processor + night.processor,
            max(each.resident, night.resident),
            COPIES_A_DAY * each.seconds + night.seconds,
        )
        show("a day of messages", day)
    finally:
        redis.kill()


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, nargs="+", default=[10_000, 100_000], help="a day")
    for messages in parser.parse_args().messages:
        with tempfile.TemporaryDirectory() as name:
            measure(messages, Path(name))


if __name__ == "__main__":
    main()
