"""Stands for the mail servers there are, by aiosmtpd; what arrives is a line of JSON in /var/lib/mail-server/received.

127.0.0.1:25 is a mailer on the host itself; mail.test is elsewhere: :25 without STARTTLS, :587 with, :465 with TLS from
the first byte; the last two take mail of a user with a password only.
"""

import json
import ssl
import threading
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

HOME = Path("/var/lib/mail-server")
LOCAL, ELSEWHERE = "127.0.0.1", "127.0.0.2"


class Mailbox:
    """Keeps what comes in through one door."""

    def __init__(self, door: str) -> None:
        """Take the door's name."""
        self.door = door

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:
        """Notes who sent what to whom."""
        user = session.auth_data.login.decode() if session.auth_data else ""
        line = {"door": self.door, "user": user, "from": envelope.mail_from, "to": envelope.rcpt_tos}
        text = envelope.content.decode("utf-8", "replace")
        with (HOME / "received").open("a") as file:
            file.write(json.dumps(line | {"text": text}) + "\n")
        return "250 OK"


def known(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: LoginPassword) -> AuthResult:
    """Whether user and password are right."""
    return AuthResult(success=(data.login, data.password) == (b"bot@mail.test", b"pass word"), auth_data=data)


def context() -> ssl.SSLContext:
    """TLS with the certificate of mail.test."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(HOME / "mail.test.crt", HOME / "mail.test.key")
    return made


# Its LOGIN asks in words of its own, which Alertmanager does not understand.
accounts: dict[str, Any] = {"authenticator": known, "auth_required": True, "auth_exclude_mechanism": ["LOGIN"]}
for controller in (
    Controller(Mailbox("local"), hostname=LOCAL, port=25),
    Controller(Mailbox("plain"), hostname=ELSEWHERE, port=25),
    Controller(
        Mailbox("starttls"), hostname=ELSEWHERE, port=587, tls_context=context(), require_starttls=True, **accounts
    ),
    # It does not take the connection for a secure one, because TLS is not its own.
    Controller(Mailbox("tls"), hostname=ELSEWHERE, port=465, ssl_context=context(), auth_require_tls=False, **accounts),
):
    controller.start()
threading.Event().wait()
