"""Pictures: by content, upright, without metadata, bounded in pixels and memory."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clawdbot import images, texts
from clawdbot.errors import Final
from PIL import Image

APP = Path(__file__).parents[1]


def picture(
    kind: str, size: tuple[int, int] = (20, 10), mode: str = "RGB", colour: Any = "red", **options: Any
) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, colour).save(out, kind, **options)
    return out.getvalue()


def decoded(data: bytes) -> Image.Image:
    found = images.prepare(data)
    assert found.media_type == "image/jpeg"
    assert found.data_url().startswith("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(found.data))
    image.load()
    assert not image.info.get("exif")
    assert len(image.getexif()) == 0
    return image


def near(found: Any, wanted: tuple[int, int, int]) -> bool:
    return all(abs(one - other) < 12 for one, other in zip(found, wanted, strict=True))


def mpo() -> bytes:
    out = io.BytesIO()
    second = Image.new("RGB", (40, 20), "blue")
    Image.new("RGB", (40, 20), "red").save(out, "MPO", save_all=True, append_images=[second])
    return out.getvalue()


def animation() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(
        out, "GIF", save_all=True, append_images=[Image.new("RGB", (40, 20), "blue")], duration=100
    )
    return out.getvalue()


RED = (254, 0, 0)


@pytest.mark.parametrize(
    ("data", "colour"),
    [
        *((picture(kind), RED) for kind in ("PNG", "JPEG", "WEBP", "GIF")),
        (mpo(), RED),
        (animation(), RED),
        (picture("JPEG", mode="CMYK", colour=(0, 255, 255, 0)), RED),
        (picture("JPEG", mode="L", colour=100), (100, 100, 100)),
        (picture("PNG", mode="P", colour=0), (0, 0, 0)),
        (picture("PNG", mode="1", colour=1), (255, 255, 255)),
        (picture("PNG", mode="I;16", colour=100 * 257), (100, 100, 100)),
        (picture("PNG", mode="LA", colour=(0, 0)), (255, 255, 255)),
        (picture("PNG", mode="RGBA", colour=(255, 0, 0, 255)), RED),
        (picture("PNG", mode="RGBA", colour=(0, 0, 0, 0)), (255, 255, 255)),
        (picture("PNG", (1, 1)), RED),
        (picture("PNG", (5000, 1)), RED),
    ],
)
def test_what_people_send_is_seen_as_they_see_it(data: bytes, colour: tuple[int, int, int]) -> None:
    image = decoded(data)
    assert image.mode == "RGB"
    assert near(image.getpixel((image.width // 2, image.height // 2)), colour)


def oriented(kind: str, orientation: int) -> bytes:
    """Red above blue as it is stored, with an orientation, a place and a maker's name."""
    image = Image.new("RGB", (64, 32), "blue")
    image.paste("red", (0, 0, 64, 16))
    exif = Image.Exif()
    exif[274], exif[271] = orientation, "secret maker"
    exif.get_ifd(34853)[2] = (31.0, 14.0, 0.0)
    out = io.BytesIO()
    image.save(out, kind, exif=exif)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [
        (1, (64, 32), (32, 4)),
        (3, (64, 32), (32, 28)),
        (6, (32, 64), (28, 32)),
        (8, (32, 64), (4, 32)),
        (99, (64, 32), (32, 4)),
    ],
)
def test_turned_upright_and_without_a_trace_of_where_and_how(
    kind: str, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    data = oriented(kind, orientation)
    image = decoded(data)
    assert image.size == size
    assert near(image.getpixel(red), RED)
    found = images.prepare(data).data
    for trace in (b"Exif", b"GPS", b"secret maker", b"http"):
        assert trace not in found


def test_comments_and_profiles_go_as_well() -> None:
    assert b"private words" not in images.prepare(picture("JPEG", comment=b"private words")).data


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_large_picture_is_shrunk(kind: str) -> None:
    image = decoded(picture(kind, (5000, 1000)))
    assert max(image.size) == images.MAX_SIDE
    assert image.size[0] / image.size[1] == pytest.approx(5, rel=0.02)


def test_strips_leave_no_seams() -> None:
    """Shrunk strip by strip it is what it would be in one go."""
    source = Image.effect_mandelbrot((2600, 2300), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    out = io.BytesIO()
    source.save(out, "PNG")
    with Image.open(out) as image:
        strips = images._shrink(image)
    whole = source.resize(strips.size, Image.Resampling.BICUBIC)
    differences = [abs(a - b) for a, b in zip(strips.tobytes(), whole.tobytes(), strict=True)]
    assert max(differences) <= 2


def heif(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(64)


@pytest.mark.parametrize("brand", sorted(images.HEIF_BRANDS))
def test_heic_is_called_by_its_name(brand: bytes) -> None:
    with pytest.raises(Final) as refused:
        images.prepare(heif(brand))
    assert refused.value.apology == texts.PICTURE_HEIC


@pytest.mark.parametrize(
    "data",
    [
        b"", b"<svg/>", b"\x89PNG\r\n\x1a\n", picture("PNG")[:45], picture("BMP"), b"MZ" * 50, picture("JPEG")[:-200],
        picture("WEBP")[:30], mpo()[:300], animation()[:30], b"\xff\xd8\xff\xda", b"\xff\xd8" + b"\xff" * 100,
    ],
)  # fmt: skip
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(Final) as refused:
        images.prepare(data)
    assert refused.value.apology == texts.NOT_A_PICTURE


@pytest.mark.parametrize(
    "source", [picture("PNG"), picture("JPEG"), oriented("JPEG", 6), picture("WEBP"), animation(), mpo()]
)
def test_whatever_is_broken_gets_a_clear_answer(source: bytes) -> None:
    """400 mutations of each; anything but an answer or a clear refusal is an error here."""
    chance = random.Random(20)  # noqa: S311  # no secret
    apologies = set()
    for _ in range(400):
        broken = bytearray(source)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        try:
            images.prepare(bytes(broken[: chance.randint(1, len(broken))] if chance.random() < 0.3 else broken))
        except Final as refused:
            apologies.add(refused.apology)
    assert apologies <= {texts.NOT_A_PICTURE, texts.PICTURE_TOO_BIG, texts.PICTURE_HEIC}


def test_a_decoder_that_raises_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(Final) as refused:
        images.prepare(picture("PNG"))
    assert refused.value.apology == texts.NOT_A_PICTURE


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is huge."""
    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    body = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def multi_scan(size: tuple[int, int]) -> bytes:
    """A JPEG whose components come in scans of their own, which a decoder has to keep as a whole."""
    return picture("JPEG", size, progressive=True, subsampling=0)


@pytest.mark.parametrize(
    "data",
    [png_header(30_000, 30_000), picture("PNG", (4000, 4000)), multi_scan((5000, 4000)), picture("PNG", (60_000, 1))],
)
def test_bombs(data: bytes) -> None:
    with pytest.raises(Final) as refused:
        images.prepare(data)
    assert refused.value.apology in {texts.PICTURE_TOO_BIG, texts.NOT_A_PICTURE}


def test_progressive_is_known_by_its_first_scan_as_well() -> None:
    """A baseline JPEG may come in several scans; only its first scan tells."""
    assert images._first_scan(picture("JPEG")) == 3
    assert images._first_scan(picture("JPEG", mode="L", colour=5)) == 1
    assert images._first_scan(b"\xff\xd8\xff\xe0\x00\x02") == 0


PEAK = """
import sys, threading
from clawdbot import images, errors
from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, WebPImagePlugin, GifImagePlugin
data = [open(name, "rb").read() for name in sys.argv[2:]]
images.prepare(open(sys.argv[1], "rb").read())
def highest():
    # Not getrusage: its figure survives exec and would be that of the test itself.
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0])
before = highest()
accepted = []
def run(raw):
    try:
        images.prepare(raw)
        accepted.append(raw)
    except errors.Final:
        pass
threads = [threading.Thread(target=run, args=(raw,)) for raw in data]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(accepted), (highest() - before) // 1024)
"""
LARGE: dict[str, Callable[[], bytes]] = {
    "png": lambda: picture("PNG", (3870, 3870)),
    "png_alpha": lambda: picture("PNG", (3870, 3870), "RGBA", (1, 2, 3, 4)),
    "png_grey": lambda: picture("PNG", (7700, 7700), "L", 5),
    "png_palette": lambda: picture("PNG", (7700, 7700), "P", 5),
    "png_16_bit": lambda: picture("PNG", (5400, 5400), "I;16", 500),
    "png_wide": lambda: picture("PNG", (20_000, 740)),
    "jpeg": lambda: picture("JPEG", (9000, 9000), subsampling=0),
    "jpeg_wide": lambda: picture("JPEG", (60_000, 1000)),
    "jpeg_progressive": lambda: picture("JPEG", (4400, 4400), progressive=True),
    "jpeg_cmyk": lambda: picture("JPEG", (8000, 8000), "CMYK", (1, 2, 3, 4)),
    "webp": lambda: picture("WEBP", (1900, 1900)),
    "gif": lambda: picture("GIF", (7000, 7000), "P", 5),
}


def peak(folder: Path, *sources: bytes) -> tuple[int, int]:
    """How many were accepted, and the megabytes that they took at most, in a process of their own."""
    names = []
    for number, data in enumerate([picture("PNG"), *sources]):
        (folder / str(number)).write_bytes(data)
        names.append(str(folder / str(number)))
    out = subprocess.run([sys.executable, "-c", PEAK, *names], cwd=APP, capture_output=True, text=True, check=True)
    accepted, megabytes = out.stdout.split()
    return int(accepted), int(megabytes)


@pytest.mark.parametrize("kind", LARGE)
def test_memory_of_the_largest_that_are_accepted(tmp_path: Path, kind: str) -> None:
    """Several at once cost what one costs: below 100 MB."""
    several = 8 if kind == "png" else 2
    accepted, megabytes = peak(tmp_path, *[LARGE[kind]()] * several)
    assert accepted == several
    assert megabytes < 100
