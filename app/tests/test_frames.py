"""The frames of Feishu's long connection, against those that Feishu's own client has encoded."""

from __future__ import annotations

import contextlib

import pytest
from clawdbot.errors import Refusal
from clawdbot.platforms.feishu.frame import Frame, decode
from hypothesis import given
from hypothesis import strategies as some

from .conftest import vectors

FRAMES = vectors("feishu_frames")["frames"]
NUMBERS = some.integers(0, 2**64 - 1)
TEXTS = some.text(max_size=20)
BAD = ("ff", "08", "0a05616263", "2a020a05", "0b", "08ffffffffffffffffffffff01", "0d0000", "2801", "0a0161", "4001")


@pytest.mark.parametrize("vector", FRAMES)
def test_frames_of_feishus_client(vector: dict[str, object]) -> None:
    data = bytes.fromhex(str(vector["bytes"]))
    frame = decode(data)
    for name, value in vector.items():
        match name, value:
            case "bytes", _:
                assert frame.encode() == data
            case "headers", list():
                assert frame.headers == tuple(map(tuple, value))
            case "payload", str():
                assert frame.payload == value.encode()
            case "service", int():
                assert frame.service == value % 2**64
            case _:
                assert getattr(frame, name) == value


@given(
    some.builds(
        Frame,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        NUMBERS,
        some.lists(some.tuples(TEXTS, TEXTS)).map(tuple),
        payload=some.binary(),
    )
)
def test_what_is_encoded_is_decoded(frame: Frame) -> None:
    assert decode(frame.encode()) == frame


@given(some.binary(max_size=60))
def test_whatever_comes_is_a_frame_or_refused(data: bytes) -> None:
    with contextlib.suppress(Refusal):
        decode(data)


@pytest.mark.parametrize("data", BAD)
def test_what_is_no_frame(data: str) -> None:
    with pytest.raises(Refusal):
        decode(bytes.fromhex(data))


def test_fields_of_later_versions_are_skipped() -> None:
    frame = Frame(1, 2, 3, 1, (("type", "event"),), payload=b"x")
    later = bytes.fromhex("50015a0361626365ffffffff69ffffffffffffffff")
    assert decode(later + frame.encode() + later) == frame
