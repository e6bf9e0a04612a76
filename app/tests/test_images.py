"""Pictures: by content, bounded, shrunk."""

from __future__ import annotations

import io

import pytest
from clawdbot import images, texts
from clawdbot.errors import Final
from PIL import Image


def picture(kind: str, size: tuple[int, int] = (20, 10)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, "red").save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "media_type"), [(kind, media) for kind, media in images.FORMATS.items()])
def test_small_pictures_stay_as_they_are(kind: str, media_type: str) -> None:
    data = picture(kind)
    found = images.prepare(data)
    assert (found.media_type, found.data) == (media_type, data)
    assert found.data_url().startswith(f"data:{media_type};base64,")
    assert len(found.digest()) == 64


def test_large_picture_is_shrunk() -> None:
    found = images.prepare(picture("PNG", (5000, 1000)))
    assert found.media_type == "image/jpeg"
    with Image.open(io.BytesIO(found.data)) as image:
        assert max(image.size) == images.MAX_SIDE
        assert image.size[0] / image.size[1] == pytest.approx(5, rel=0.02)


@pytest.mark.parametrize(
    "data", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", picture("PNG")[:45], picture("BMP"), b"MZ" * 50]
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(Final) as refused:
        images.prepare(data)
    assert refused.value.apology == texts.NOT_A_PICTURE


def test_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(Final) as refused:
        images.prepare(picture("PNG", (11, 10)))
    assert refused.value.apology == texts.PICTURE_TOO_BIG
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(Final):
        images.prepare(picture("PNG", (11, 10)))
