"""Signatures and encryption of both platforms, written apart from the bot's: each checks the other.

Sources: DingTalk "Receive message" and "Event subscription, HTTP mode" with the official samples
of open-dingtalk/DingTalk-Callback-Crypto; Feishu "Step 3: Receive events".
"""

import base64
import hashlib
import hmac
import os
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

DINGTALK_PADDING = 32
FEISHU_PADDING = 16


def dingtalk_robot_sign(secret: str, timestamp: str) -> str:
    """Base64 HMAC-SHA256 of timestamp, newline, secret; timestamp in milliseconds.

    Used for robot callbacks (secret = app secret) and for group robot webhooks (secret = SEC...).
    """
    digest = hmac.new(secret.encode(), f"{timestamp}\n{secret}".encode(), hashlib.sha256).digest()
    return base64.b64encode(digest).decode()


def dingtalk_event_signature(token: str, timestamp: str, nonce: str, encrypt: str) -> str:
    """Hex SHA-1 of the four strings, sorted and joined."""
    joined = "".join(sorted([token, timestamp, nonce, encrypt])).encode()
    return hashlib.sha1(joined).hexdigest()  # noqa: S324 -- DingTalk prescribes SHA-1


def dingtalk_encrypt(aes_key: str, owner_key: str, message: str, random16: bytes | None = None) -> str:
    """AES-256-CBC, iv = key[:16], of ``random16 | length | message | owner key``.

    The length counts bytes, as 4 bytes big endian.
    """
    key = base64.b64decode(aes_key + "=")
    data = message.encode()
    prefix = os.urandom(16) if random16 is None else random16
    plain = prefix + struct.pack(">I", len(data)) + data + owner_key.encode()
    return base64.b64encode(_encrypt(key, key[:16], plain, DINGTALK_PADDING)).decode()


def dingtalk_decrypt(aes_key: str, owner_key: str, encrypt: str) -> str:
    """Reverse of `dingtalk_encrypt`; ValueError when padding, length or owner key are wrong."""
    key = base64.b64decode(aes_key + "=")
    plain = _decrypt(key, key[:16], base64.b64decode(encrypt), DINGTALK_PADDING)
    if len(plain) < 20:
        raise ValueError("the decrypted text is shorter than its header")
    end = 20 + struct.unpack(">I", plain[16:20])[0]
    if plain[end:] != owner_key.encode():
        raise ValueError("the text was not encrypted for this owner key")
    return plain[20:end].decode()


def feishu_signature(timestamp: str, nonce: str, encrypt_key: str, body: bytes) -> str:
    """Hex SHA-256 over timestamp, nonce, encrypt key and the raw body."""
    return hashlib.sha256(f"{timestamp}{nonce}{encrypt_key}".encode() + body).hexdigest()


def feishu_encrypt(encrypt_key: str, message: str, iv: bytes | None = None) -> str:
    """Base64 of ``iv | AES-256-CBC`` with key = SHA-256 of the encrypt key."""
    start = os.urandom(16) if iv is None else iv
    key = hashlib.sha256(encrypt_key.encode()).digest()
    return base64.b64encode(start + _encrypt(key, start, message.encode(), FEISHU_PADDING)).decode()


def feishu_decrypt(encrypt_key: str, encrypt: str) -> str:
    """Reverse of `feishu_encrypt`; ValueError when the padding is wrong."""
    raw = base64.b64decode(encrypt)
    key = hashlib.sha256(encrypt_key.encode()).digest()
    return _decrypt(key, raw[:16], raw[16:], FEISHU_PADDING).decode()


def _encrypt(key: bytes, iv: bytes, plain: bytes, block: int) -> bytes:
    pad = block - len(plain) % block
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return encryptor.update(plain + bytes([pad]) * pad) + encryptor.finalize()


def _decrypt(key: bytes, iv: bytes, data: bytes, block: int) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    plain = decryptor.update(data) + decryptor.finalize()
    pad = plain[-1] if plain else 0
    if not 1 <= pad <= block or plain[-pad:] != bytes([pad]) * pad:
        raise ValueError("wrong padding: the key or the text is wrong")
    return plain[:-pad]
