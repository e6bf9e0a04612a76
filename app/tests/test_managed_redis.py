"""A Redis of somebody else: TLS, and an account."""

from __future__ import annotations

import dataclasses
import datetime
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from clawdbot.config import RedisConfig
from clawdbot.store import connect
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from .conftest import eventually, free_port


def _certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[RedisConfig]:
    _certificate(tmp_path)
    port = free_port()
    options = f"""
        port 0
        tls-port {port}
        bind 127.0.0.1
        dir {tmp_path}
        tls-cert-file {tmp_path}/ca.pem
        tls-key-file {tmp_path}/key.pem
        tls-auth-clients no
        user default off
        user bot on >the-password ~* &* +@all
    """
    (tmp_path / "redis.conf").write_text(options)
    program = shutil.which("redis-server") or shutil.which("redis-check-rdb")
    assert program, "install redis-server or redis-tools"
    process = subprocess.Popen(["redis-server", str(tmp_path / "redis.conf")], executable=program)
    config = RedisConfig(
        host="localhost", port=port, username="bot", password="the-password", tls=True, tls_ca=f"{tmp_path}/ca.pem"
    )
    yield config
    process.kill()
    process.wait()


def answers(config: RedisConfig) -> bool:
    with connect(config, timeout=2) as client:
        return bool(client.ping())


def ready(config: RedisConfig) -> bool:
    try:
        return answers(config)
    except redis.ConnectionError:
        return False


def test_encrypted_with_an_account(managed: RedisConfig) -> None:
    assert eventually(lambda: ready(managed))
    with pytest.raises(redis.AuthenticationError):
        answers(dataclasses.replace(managed, password="another"))


@pytest.mark.parametrize(("host", "tls_ca"), [("localhost", ""), ("127.0.0.1", None)])
def test_whoever_is_not_proven_to_be_it_gets_no_password(managed: RedisConfig, host: str, tls_ca: str | None) -> None:
    """An authority that is not trusted, and a certificate with another name."""
    eventually(lambda: ready(managed))
    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        answers(dataclasses.replace(managed, host=host, tls_ca=managed.tls_ca if tls_ca is None else tls_ca))
