"""The control API as Python calls, for tests and for the commands of this package."""

from typing import Any

import requests

from clawdbot_simulator.config import Config
from clawdbot_simulator.faults import Fault, Kind
from clawdbot_simulator.records import Record
from clawdbot_simulator.users import Question


class ControlError(RuntimeError):
    """The simulator cannot be reached or refused a control request."""


class Control:
    """Steers and questions a running simulator."""

    def __init__(self, config: Config, url: str | None = None) -> None:
        """``url`` is the simulator's address as seen from here, if it is not its public one."""
        self.config = config
        self.url = (url or config.public_url).rstrip("/")
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {config.control_token}"

    def records(self, *, after: int = 0, wait: float = 0.0, **equal: str) -> list[Record]:
        """Records newer than number ``after`` whose fields equal the given ones.

        Fields: kind, platform, endpoint, conversation, answers, text. Waits up to ``wait`` seconds
        for the first record to come.
        """
        query = {"after": after, "wait": wait, **equal}
        found = self._call("GET", "/records", params=query, timeout=wait + 60).json()
        return [Record(**record) for record in found]

    def messages(self, **query: Any) -> list[Record]:
        """What users got to read; see `records`."""
        return self.records(kind="message", **query)

    def cards(self) -> list[dict[str, Any]]:
        """The cards that users see: ``text``, ``growing`` as long as it is not done, ``updates``."""
        found: list[dict[str, Any]] = self._call("GET", "/cards").json()
        return found

    def last_seq(self) -> int:
        """Number of the newest record; 0 when there never was one."""
        return int(self._call("GET", "/status").json()["last_seq"])

    def add_fault(self, endpoint: str, kind: Kind, **options: Any) -> Fault:
        """Switch on a fault; options are the fields of `Fault`."""
        fault = {"endpoint": endpoint, "kind": kind, **options}
        return Fault(**self._call("POST", "/faults", json=fault).json())

    def faults(self) -> list[Fault]:
        """All faults, spent ones too, with their hits."""
        return [Fault(**fault) for fault in self._call("GET", "/faults").json()]

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._call("DELETE", "/faults")

    def set_model_answer(self, answer: str | None, **manner: Any) -> None:
        """What the model says from now on, None: it repeats the question; and how, see `simulation.Speech`."""
        self._call("PUT", "/model", json={"answer": answer, **manner})

    def ask(self, callback_base: str, platform: str, name: str, text: str, group: str = "") -> str:
        """Let a user ask something, for all who look at the page; return the id of the message."""
        body = {"platform": platform, "name": name, "text": text, "group": group, "callback_base": callback_base}
        return str(self._call("POST", "/ask", json=body).json()["message_id"])

    def keep(self, question: Question) -> None:
        """Let the bot look a question up, since somebody may quote it."""
        self._call("POST", "/messages", json=question.event)

    def push(self, question: Question, *, again: float = 60.0, wait: float = 60.0, parts: int = 1) -> dict[str, Any]:
        """Send a question over a connection of the bot's, every ``again`` seconds for ``wait`` seconds.

        ``sends`` says how often that was, ``seconds`` when it was acknowledged, None: it was not. Feishu may send it
        in ``parts``.
        """
        body = {"platform": question.platform, "event": question.event, "again": again, "wait": wait, "parts": parts}
        found: dict[str, Any] = self._call("POST", "/push", json=body, timeout=wait + 60).json()
        return found

    def connections(self, platform: str = "") -> list[dict[str, Any]]:
        """The connections that the bot has opened, with what it ``acknowledged`` over each."""
        found: list[dict[str, Any]] = self._call("GET", "/connections").json()
        return [each for each in found if platform in ("", each["platform"])]

    def disturb(self, how: str, platform: str = "", id: int = 0) -> None:
        """``cut`` connections, make them ``silent``; of DingTalk's ask the bot to ``disconnect``, or ``ping`` it."""
        self._call("POST", "/connections", json={"how": how, "platform": platform, "id": id})

    def upload(self, key: str, data: bytes) -> None:
        """The bytes behind a download code or image key."""
        self._call("PUT", f"/files/{key}", data=data)

    def reset(self) -> None:
        """Forget records, faults, tokens, delivered uuids, files and the model's answer."""
        self._call("POST", "/reset")

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        options.setdefault("timeout", 60)
        try:
            response = self._session.request(method, f"{self.url}/_sim{path}", **options)
        except requests.RequestException as error:
            raise ControlError(
                f"no simulator answers at {self.url} ({type(error).__name__}); "
                "start it with `python3 -m clawdbot_simulator serve` or give its address"
            ) from error
        if not response.ok:
            raise ControlError(f"{method} {path}: HTTP {response.status_code}: {response.text}")
        return response
