"""Pictures: recognised by their content, made small enough for a model."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import warnings

from clawdbot import texts
from clawdbot.errors import Final

MAX_SIDE = 2048
MAX_PIXELS = 50_000_000
MAX_BYTES = 5 * 1024 * 1024
JPEG_QUALITY = 85
FORMATS = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


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
    """Check and shrink a picture; what is small enough stays as it is.

    Raises:
        Final: it is no picture of a known format, or it is huge.
    """
    # Pillow takes 10 MB and 60 ms; most messages have no picture.
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Final("picture: too many pixels", apology=texts.PICTURE_TOO_BIG)
                media_type = FORMATS[image.format or ""]
                small = max(image.size) <= MAX_SIDE and len(data) <= MAX_BYTES
                image.load()
                if small:
                    return Picture(media_type, data)
                shrunk = ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise Final("picture: not readable", apology=texts.NOT_A_PICTURE) from None
    shrunk.thumbnail((MAX_SIDE, MAX_SIDE))
    out = io.BytesIO()
    shrunk.save(out, "JPEG", quality=JPEG_QUALITY)
    return Picture("image/jpeg", out.getvalue())
