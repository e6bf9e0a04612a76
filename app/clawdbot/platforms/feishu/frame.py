"""The frames of Feishu's long connection: one message of Protocol Buffers, version 2.

Source: the descriptor of ``pbbp2.proto`` in PyPI ``lark-oapi`` 1.7.5 (``lark_oapi/ws/pb/pbbp2_pb2.py``), and
protobuf.dev, "Encoding". docs/engine.md says why there is no library.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from clawdbot.errors import Refusal

CONTROL, DATA = 0, 1
VARINT, LENGTH_DELIMITED = 0, 2
SIXTY_FOUR_BITS = (1 << 64) - 1
LONGEST_VARINT = 10
BAD = "bad_frame"


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """A frame; ``method`` is `CONTROL` or `DATA`, ``service`` that of the connection's URL."""

    seq_id: int = 0
    log_id: int = 0
    service: int = 0
    method: int = CONTROL
    headers: tuple[tuple[str, str], ...] = ()
    payload_encoding: str = ""
    payload_type: str = ""
    payload: bytes = b""
    log_id_new: str = ""

    def header(self, name: str) -> str:
        """Return the first header of that name, empty if there is none."""
        return next((value for key, value in self.headers if key == name), "")

    def encode(self) -> bytes:
        """Return the bytes of the frame; the fields that have to be there come first, also where they are 0."""
        numbers = (self.seq_id, self.log_id, self.service, self.method)
        texts = ((6, self.payload_encoding), (7, self.payload_type), (8, self.payload), (9, self.log_id_new))
        return b"".join(
            [
                *(_tag(number, VARINT) + _varint(value) for number, value in enumerate(numbers, 1)),
                *(_delimited(5, _delimited(1, key) + _delimited(2, value)) for key, value in self.headers),
                *(_delimited(number, value) for number, value in texts if value),
            ]
        )


def decode(data: bytes) -> Frame:
    """Return the frame in ``data``. Unknown fields are skipped, of one that comes twice the last counts.

    Raises:
        Refusal: 400, it is none.
    """
    found: dict[int, int | bytes] = {}
    headers = []
    for number, value in _fields(data):
        if number == 5:  # the only one that is repeated
            header = dict(_fields(_bytes(value)))
            headers.append((_text(header.get(1, b"")), _text(header.get(2, b""))))
        else:
            found[number] = value
    seq_id, log_id, service, method = (_number(found.get(number, 0)) for number in (1, 2, 3, 4))
    encoding, kind, log_id_new = (_text(found.get(number, b"")) for number in (6, 7, 9))
    payload = _bytes(found.get(8, b""))
    return Frame(seq_id, log_id, service, method, tuple(headers), encoding, kind, payload, log_id_new)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        match tag & 7:
            case 0:  # a number
                value, at = _read_varint(data, at)
                yield tag >> 3, value
                continue
            case 1:  # 64 bits
                size = 8
            case 2:  # length and bytes
                size, at = _read_varint(data, at)
            case 5:  # 32 bits
                size = 4
            case _:
                raise Refusal(400, BAD)
        if at + size > len(data):
            raise Refusal(400, BAD)
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place, byte in enumerate(data[at : at + LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value & SIXTY_FOUR_BITS, at + place + 1
    raise Refusal(400, BAD)


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise Refusal(400, BAD)
    return value


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise Refusal(400, BAD)
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode("utf-8", "replace")


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    value &= SIXTY_FOUR_BITS
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _delimited(number: int, value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _tag(number, LENGTH_DELIMITED) + _varint(len(data)) + data
