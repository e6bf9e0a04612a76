"""The body of a request, which a stranger may have sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clawdbot.errors import Refusal

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# The greatest callback is a Feishu text of 150 KB, encrypted and in Base64.
MAX_BODY = 1024 * 1024


def read(environ: WSGIEnvironment) -> bytes:
    """Return the body.

    Raises:
        Refusal: 413, it is larger than `MAX_BODY` bytes; 400, it cannot be read, such as chunks that are none.
    """
    try:
        body: bytes = environ["wsgi.input"].read(MAX_BODY + 1)
    except Exception as error:  # PEP 3333 leaves to the server what it raises
        raise Refusal(400, "unreadable_body") from error
    if len(body) > MAX_BODY:
        raise Refusal(413, "too_large")
    return body
