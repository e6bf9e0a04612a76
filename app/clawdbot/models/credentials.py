"""What model services want in ``Authorization: Bearer``, where it is not simply the key."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import redis

from clawdbot.config import ModelConfig
from clawdbot.http import Http, TransportError
from clawdbot.models import failures
from clawdbot.models.failures import Failed, Kind
from clawdbot.notes import SharedNotes
from clawdbot.tokens import Token

ZHIPU_SECONDS = 180
BAIDU_SECONDS = 86400
BAIDU_SIGNATURE_SECONDS = 1800
BAIDU_PATH = "/v1/BCE-BEARER/token"


def credential(config: ModelConfig, client: redis.Redis, web: Http) -> Callable[[], str]:
    """Return a function that returns the bearer credential of the moment; empty means none."""
    key, secret, auth = config.api_key, config.api_secret, config.preset.auth
    if auth == "zhipu-jwt" and not secret and key.count(".") == 1:
        key, secret = key.split(".")
    if auth == "zhipu-jwt" and secret:
        return lambda: zhipu_jwt(key, secret, now_ms=time.time_ns() // 1_000_000)
    if auth == "baidu-iam" and secret:
        return Token(SharedNotes(client), config.name, key, lambda: _baidu_key(config, web)).get
    return lambda: key


def zhipu_jwt(key_id: str, secret: str, *, now_ms: int) -> str:
    """Return Zhipu's signed token, good for three minutes.

    Source: zhipuai 1.0.7 ``utils/jwt_token.py``: HS256, header with ``sign_type``, times in milliseconds.
    """
    head = {"alg": "HS256", "sign_type": "SIGN"}
    payload = {"api_key": key_id, "exp": now_ms + ZHIPU_SECONDS * 1000, "timestamp": now_ms}
    signed = b".".join(_base64url(json.dumps(part, separators=(",", ":")).encode()) for part in (head, payload))
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return b".".join((signed, _base64url(signature))).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def baidu_authorization(key_id: str, secret: str, host: str, query: str, *, now: datetime.datetime) -> str:
    """Return the signature with which an access key asks for a short-lived API key.

    Source: cloud.baidu.com/doc/Reference, "authentication mechanism": bce-auth-v1 over method, path, query and
    host.
    """
    prefix = f"bce-auth-v1/{key_id}/{now:%Y-%m-%dT%H:%M:%SZ}/{BAIDU_SIGNATURE_SECONDS}"
    signing_key = _hex_hmac(secret, prefix)
    signature = _hex_hmac(signing_key, f"GET\n{BAIDU_PATH}\n{query}\nhost:{host}")
    return f"{prefix}/host/{signature}"


def _hex_hmac(key: str, message: str) -> str:
    return hmac.new(key.encode(), message.encode(), hashlib.sha256).hexdigest()


def _baidu_key(config: ModelConfig, web: Http) -> tuple[str, float]:
    """Fetch a short-lived API key; source: cloud.baidu.com/doc/Reference, "create API key (short-lived)"."""
    base = config.preset.iam_url
    query = f"expireInSeconds={BAIDU_SECONDS}"
    now = datetime.datetime.now(datetime.UTC)
    authorization = baidu_authorization(config.api_key, config.api_secret, urlsplit(base).netloc, query, now=now)
    try:
        response = web.request("GET", f"{base}{BAIDU_PATH}?{query}", headers={"Authorization": authorization})
    except TransportError:
        raise Failed(Kind.UNREACHABLE, of="the key service").for_the_queue() from None
    token = response.json().get("token")
    if isinstance(token, str) and token:
        return token, BAIDU_SECONDS
    kind, code = failures.sort(config.name, response.status, response.json())
    # Whatever it is that waiting does not mend, it is about the two halves of the key.
    kind = Kind.AUTH if kind in failures.FINAL else kind
    refused = Failed(kind, after=response.retry_after(), status=response.status, code=code, of="the key service")
    raise refused.for_the_queue()
