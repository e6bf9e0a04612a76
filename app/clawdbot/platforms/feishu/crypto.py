"""Feishu's event signature and encryption.

Source: open.feishu.cn, "Step 3: Receive events".
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from clawdbot.errors import Refusal
from clawdbot.platforms.base import decode_base64

BLOCK = 16


def signature(timestamp: str, nonce: str, encrypt_key: str, body: bytes) -> str:
    """Return ``X-Lark-Signature``: hexadecimal SHA-256 of time, nonce, key and the raw body."""
    start = f"{timestamp}{nonce}{encrypt_key}".encode("utf-8", "replace")
    return hashlib.sha256(start + body).hexdigest()


def decrypt(encrypt_key: str, encrypted: str) -> bytes:
    """Return the plaintext of ``base64(iv(16) | AES-256-CBC(PKCS#7))`` under the SHA-256 of ``encrypt_key``.

    Raises:
        Refusal: 400 if it is no such ciphertext.
    """
    data = decode_base64(encrypted)
    if len(data) < 2 * BLOCK or len(data) % BLOCK:
        raise Refusal(400, "bad_ciphertext")
    key = hashlib.sha256(encrypt_key.encode()).digest()
    decryptor = Cipher(algorithms.AES(key), modes.CBC(data[:BLOCK])).decryptor()
    plain = decryptor.update(data[BLOCK:]) + decryptor.finalize()
    pad = plain[-1]
    if not 1 <= pad <= BLOCK or plain[-pad:] != bytes([pad]) * pad:
        raise Refusal(400, "bad_padding")
    return plain[:-pad]
