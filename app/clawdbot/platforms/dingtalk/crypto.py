"""DingTalk's signatures and encryption.

Sources: help.dingtalk.io "Receive messages" (robot signature), open.dingtalk.com "Configure HTTP push" with the
samples of open-dingtalk/DingTalk-Callback-Crypto (event envelope). The official Python sample is not followed
where it counts characters instead of bytes or compares in variable time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import string

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from clawdbot.errors import Refusal
from clawdbot.platforms.base import decode_base64

BLOCK = 32
RANDOM = 16
LENGTH = 4
CIPHER_BLOCK = 16
NONCE_ALPHABET = string.ascii_letters + string.digits


def robot_sign(secret: str, timestamp: str) -> str:
    """Return the ``sign`` of a robot message or a group robot's URL; it covers the time, not the body.

    Args:
        secret: app secret, or the group robot's SEC... secret.
        timestamp: Unix time in milliseconds, as text.
    """
    digest = hmac.digest(secret.encode(), f"{timestamp}\n{secret}".encode(), "sha256")
    return base64.b64encode(digest).decode()


def event_signature(token: str, timestamp: str, nonce: str, encrypted: str) -> str:
    """Return the ``msg_signature`` of an event: hexadecimal SHA-1 of the four sorted texts."""
    joined = "".join(sorted([token, timestamp, nonce, encrypted])).encode("utf-8", "replace")
    return hashlib.sha1(joined, usedforsecurity=False).hexdigest()


class EventCipher:
    """AES-256-CBC envelope of events: ``random(16) | length(4, big endian) | message | owner``, padded to 32."""

    def __init__(self, aes_key: str, owner: str) -> None:
        """Take the 43 characters of ``aes_key`` and the ``owner``, which is the app key for an internal app."""
        self._key = base64.b64decode(aes_key + "=")
        self._owner = owner.encode()

    def _cipher(self) -> Cipher[modes.CBC]:
        return Cipher(algorithms.AES(self._key), modes.CBC(self._key[:CIPHER_BLOCK]))

    def decrypt(self, encrypted: str, *, owner_required: bool = True) -> bytes:
        """Return the message.

        Raises:
            Refusal: 400 if it is no such envelope, 401 if it is meant for somebody else.
        """
        data = decode_base64(encrypted)
        if not data or len(data) % CIPHER_BLOCK:
            raise Refusal(400, "bad_ciphertext")
        decryptor = self._cipher().decryptor()
        plain = decryptor.update(data) + decryptor.finalize()
        pad = plain[-1]
        if not 1 <= pad <= BLOCK or len(plain) < pad or plain[-pad:] != bytes([pad]) * pad:
            raise Refusal(400, "bad_padding")
        plain = plain[:-pad]
        start = RANDOM + LENGTH
        end = start + int.from_bytes(plain[RANDOM:start], "big")
        if len(plain) < start or end > len(plain):
            raise Refusal(400, "bad_length")
        owner = plain[end:]
        if (owner or owner_required) and not hmac.compare_digest(owner, self._owner):
            raise Refusal(401, "other_owner")
        return plain[start:end]

    def encrypt(self, message: bytes) -> str:
        """Return the envelope of ``message``."""
        plain = os.urandom(RANDOM) + len(message).to_bytes(LENGTH, "big") + message + self._owner
        pad = BLOCK - len(plain) % BLOCK
        encryptor = self._cipher().encryptor()
        return base64.b64encode(encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()).decode()


def nonce() -> str:
    """Return 16 random characters."""
    return "".join(secrets.choice(NONCE_ALPHABET) for _ in range(RANDOM))
