"""What we rely on of other people's insides. One that fails after an update says what to read anew."""

from __future__ import annotations

import http.client
import inspect
import io
import os
import socket
from typing import Any, cast

import redis
from clawdbot.http import _Body
from redis.connection import Connection


class _Wire(io.BytesIO):
    """Stands in for a socket that takes everything."""

    def sendall(self, data: bytes) -> None:
        self.write(data)


def test_a_body_is_written_when_the_client_has_read_its_end() -> None:
    """`http.Http`: ``http.client`` sends what it has read before it reads again, up to an empty read."""
    wire, seen = _Wire(), []
    connection = http.client.HTTPConnection("bot.test")
    connection.sock = cast("socket.socket", wire)
    content = b"x" * 100_000 + b"the end"
    body = _Body(content, lambda: seen.append(wire.getvalue().endswith(content)))
    connection.request("POST", "/", body=body, headers={"Content-Length": str(len(content))})
    assert seen == [True]


def test_commands_are_packed_sent_and_answered_by_a_connection_of_the_pool(client: redis.Redis) -> None:
    """`engine.intake.Intake` and `sent.Mark` use the connection itself."""
    assert "check_health" in inspect.signature(Connection.send_packed_command).parameters
    connection: Any = client.connection_pool.get_connection()  # redis-py types it in part
    try:
        connection.send_packed_command(connection.pack_commands([["PING"], ["ECHO", "x"]]), check_health=False)
        assert [connection.read_response(), connection.read_response()] == ["PONG", "x"]
        connection.send_packed_command(connection.pack_command("ECHO", "y"), check_health=False)
        assert connection.read_response() == "y"
        # `sent.Mark` writes without asking whether the socket takes it: one with a time limit never waits for that.
        assert not os.get_blocking(connection._sock.fileno())
        os.write(connection._sock.fileno(), b"".join(connection.pack_command("ECHO", "z")))
        assert connection.read_response() == "z"
    finally:
        client.connection_pool.release(connection)
