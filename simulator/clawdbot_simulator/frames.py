"""The frames of Feishu's long connection, written apart from the bot's: each checks the other.

Source: ``pbbp2.proto`` in PyPI ``lark-oapi`` 1.7.5. All of it is numbers, and bytes with a length.
"""

import io
from typing import BinaryIO

SEQ_ID, LOG_ID, SERVICE, METHOD, HEADERS, PAYLOAD = 1, 2, 3, 4, 5, 8
CONTROL, DATA = 0, 1


def number(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have the highest bit set."""
    head, rest = value & 127, value >> 7
    return bytes([head | 128]) + number(rest) if rest else bytes([head])


def chunk(field: int, value: bytes) -> bytes:
    """A field of bytes."""
    return number(field * 8 + 2) + number(len(value)) + value


def build(method: int, headers: dict[str, str], payload: bytes = b"", service: int = 1) -> bytes:
    """A frame."""
    fields = b"".join(
        number(field * 8) + number(value) for field, value in ((SEQ_ID, 7), (LOG_ID, 2**63 + 9), (SERVICE, service))
    )
    fields += number(METHOD * 8) + number(method)
    for key, value in headers.items():
        fields += chunk(HEADERS, chunk(1, key.encode()) + chunk(2, value.encode()))
    return fields + (chunk(PAYLOAD, payload) if payload else b"")


def parse(frame: bytes) -> tuple[int, dict[str, str], bytes]:
    """Method, headers and payload; ValueError when it is no frame, or one that lacks what it has to have."""
    numbers, chunks = split(frame)
    if not {SEQ_ID, LOG_ID, SERVICE, METHOD} <= numbers.keys():
        raise ValueError("a frame needs SeqID, LogID, service and method")
    headers = {}
    for header in chunks.get(HEADERS, []):
        parts = split(header)[1]
        headers[parts[1][0].decode()] = parts[2][0].decode()
    return numbers[METHOD], headers, chunks.get(PAYLOAD, [b""])[-1]


def split(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a message: numbers, and pieces of bytes."""
    numbers: dict[int, int] = {}
    chunks: dict[int, list[bytes]] = {}
    source = io.BytesIO(message)
    while source.tell() < len(message):
        field, kind = divmod(read_number(source), 8)
        if kind == 0:
            numbers[field] = read_number(source)
        elif kind == 2:
            size = read_number(source)
            value = source.read(size)
            if len(value) < size:
                raise ValueError("a field is cut off")
            chunks.setdefault(field, []).append(value)
        else:
            raise ValueError(f"wire type {kind} is not expected")
    return numbers, chunks


def read_number(source: BinaryIO) -> int:
    """See `number`."""
    value, shift = 0, 0
    while byte := source.read(1):
        value |= (byte[0] & 127) << shift
        shift += 7
        if byte[0] < 128:
            return value
    raise ValueError("a number is cut off")
