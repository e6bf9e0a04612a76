"""Pictures: recognised by their content, made small enough for a model, rid of everything but their pixels.

Every picture is decoded and written anew, so neither EXIF nor GPS nor anything else that a phone adds leaves the bot.
Memory is bounded whatever arrives: see `_decoded_bytes`; and one picture is decoded at a time.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import math
import threading
import warnings
from typing import TYPE_CHECKING

from clawdbot import texts
from clawdbot.errors import Final

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE = 2048
# Beyond it, however narrow, a strip of the picture would be large.
MAX_LONGEST = 20_000
MAX_BYTES = 1024 * 1024
# What a decoder may allocate; with the shrunk copy and the file itself a picture stays below 100 MB.
MAX_DECODED_BYTES = 60_000_000
# A JPEG can be decoded at a half, a quarter or an eighth of its size.
SCALES = (1, 2, 4, 8)
# Pixels of a strip, without what it shares with its neighbours; bicubic filtering reaches two pixels far.
STRIP_PIXELS = 500_000
REACH = 2
QUALITIES = (85, 60, 30)
# Pillow calls a JPEG with a second picture inside (portrait, gain map, depth) MPO; the first one is what people see.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF")
# Bytes of a decoded pixel; Pillow pads three channels to four.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}
OTHER_MODE_BYTES = 4
# libwebp keeps two canvases of four bytes, Pillow two copies of the one that is shown.
WEBP_BYTES = 16
# Brands of ISO 14496-12 files that hold a HEIF picture.
HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1", b"heif"}

# Exif 2.32, tag 274: what was done to the picture, and how Pillow's `Transpose` numbers what undoes it.
ORIENTATION = 274
TURNED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}

_one_at_a_time = threading.Lock()


@dataclasses.dataclass(frozen=True, slots=True)
class Picture:
    """A picture that a model may be shown."""

    media_type: str
    data: bytes

    def data_url(self) -> str:
        """Return it as a ``data:`` URL: the platforms' own URLs are private and expire."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"

    def digest(self) -> str:
        """Return the SHA-256 of its bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


def prepare(data: bytes) -> Picture:
    """Turn a picture into a JPEG of at most `MAX_SIDE` pixels a side, upright and without metadata.

    Of an animation the first picture is taken.

    Raises:
        Final: it is no picture of a known format, or it is huge.
    """
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        raise Final("picture: HEIF", apology=texts.PICTURE_HEIC)
    with _one_at_a_time:
        try:
            return Picture("image/jpeg", _encode(_decode(data)))
        except Final:
            raise
        except Exception as error:
            # A hostile file can make a decoder raise anything: struct.error, KeyError, MemoryError, zlib.error, ...
            raise Final(f"picture: {type(error).__name__}", apology=texts.NOT_A_PICTURE) from None


def _decode(data: bytes) -> Image:
    # Pillow takes 10 MB and 60 ms; most messages have no picture.
    from PIL import Image, PngImagePlugin

    # Compressed text in a PNG may swell to this, besides the pixels.
    PngImagePlugin.MAX_TEXT_MEMORY = 4 * PngImagePlugin.MAX_TEXT_CHUNK
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            needed = _jpeg_coefficients(image, data) if image.format in {"JPEG", "MPO"} else 0
            if image.format in {"JPEG", "MPO"}:
                scale = _jpeg_scale(image)
                image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
            if max(_decoded_bytes(image), needed) > MAX_DECODED_BYTES or max(image.size) > MAX_LONGEST:
                raise Final("picture: too many pixels", apology=texts.PICTURE_TOO_BIG)
            upright = TURNED.get(image.getexif().get(ORIENTATION, 1))
            image.load()
            shrunk = _shrink(image)
    return shrunk if upright is None else shrunk.transpose(Image.Transpose(upright))


def _decoded_bytes(image: Image) -> int:
    """What decoding allocates."""
    size = WEBP_BYTES if image.format == "WEBP" else MODE_BYTES.get(image.mode, OTHER_MODE_BYTES)
    return image.width * image.height * size


def _jpeg_scale(image: Image) -> int:
    """The greatest reduction that leaves enough pixels, or the first one that needs little enough memory."""
    for scale in SCALES:
        area = (image.width // scale) * (image.height // scale)
        if max(image.size) < 2 * scale * MAX_SIDE and area * OTHER_MODE_BYTES <= MAX_DECODED_BYTES:
            return scale
    return SCALES[-1]


def _jpeg_coefficients(image: Image, data: bytes) -> int:
    """What libjpeg keeps of a JPEG whose components come in several scans: two bytes a coefficient, for all of it."""
    layers = getattr(image, "layer", [])
    if not image.info.get("progressive") and _first_scan(data) >= len(layers):
        return 0
    widest = max(layer[1] for layer in layers) * max(layer[2] for layer in layers)
    share = sum(layer[1] * layer[2] for layer in layers) / widest
    return int(2 * share * image.width * image.height)


def _first_scan(data: bytes) -> int:
    """How many components a JPEG's first scan has (ITU T.81, B.2.3); 0 if there is none."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return data[at + 4]
        # A marker may be preceded by any number of fill bytes.
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


def _shrink(image: Image) -> Image:
    """Return a copy in RGB on white, small enough; made strip by strip, so that little is in memory twice."""
    from PIL import Image

    ratio = max(1.0, max(image.size) / MAX_SIDE)
    size = (max(1, round(image.width / ratio)), max(1, round(image.height / ratio)))
    out = Image.new("RGB", size)
    tall = image.height / size[1]
    margin = math.ceil(REACH * tall) + 1
    rows = max(1, int(STRIP_PIXELS / (image.width * tall)))
    for top in range(0, size[1], rows):
        bottom = min(size[1], top + rows)
        first = max(0, math.floor(top * tall) - margin)
        strip = _flat(image.crop((0, first, image.width, min(image.height, math.ceil(bottom * tall) + margin))))
        box = (0.0, top * tall - first, float(image.width), min(strip.height, bottom * tall - first))
        out.paste(strip.resize((size[0], bottom - top), Image.Resampling.BICUBIC, box), (0, top))
    return out


def _flat(image: Image) -> Image:
    """Return it in RGB: 16 bits become 8, what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith("I"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in {"LA", "PA", "RGBA", "La", "RGBa"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _encode(image: Image) -> bytes:
    """Write a JPEG as good as `MAX_BYTES` allow. Colours at full resolution: much of what is sent is text."""
    for quality in QUALITIES:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=quality, subsampling=0, exif=b"")
        if out.tell() <= MAX_BYTES:
            break
    return out.getvalue()
