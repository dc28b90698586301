"""One image file in, one upright uint8 array of the wanted geometry out.

Whatever the file holds (grey, palette, CMYK, Lab, 16 bits, alpha, animation, EXIF rotation), the result is RGB or
grey with 8 bits, the right way up. What cannot be decoded raises `Unreadable` with a reason for the sample table.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from . import card_data as cards
from .atomic import replacing

# Names that may be images. Others (Thumbs.db, notes.txt) are counted and left alone.
SUFFIXES = {".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm"}
SUFFIXES |= {".tga", ".tif", ".tiff", ".webp"}
MAX_PIXELS = 89_478_485  # Pillow's own limit for a warning (a quarter GiB of RGB); a larger claim is refused
EMPTY = "empty slice"  # how the reason begins where a slice shows nothing: no fault of its file
WHITE = (255, 255, 255, 255)  # what shows through transparent pixels


class Unreadable(Exception):
    """This file should be an image and cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Decoded:
    """A decoded picture, or slice of a volume."""

    pixels: NDArray[np.uint8]  # (H, W, C)
    sha256: str  # of the file
    mode: str  # as stored: Pillow's term for a picture, the type of the numbers for a volume
    width: int  # px, as stored
    height: int
    position: str = ""  # of a slice: mm from the lower face of its volume
    window: str = ""  # of a slice: the two values of its volume that became black and white
    foreground: str = ""  # of a slice: area of its head in cm2, and volume of the whole head in ml


def decode_file(path: Path, wanted: cards.Image) -> Decoded:
    """Read, decode and fit the image file at `path`.

    Raises:
        Unreadable: with the reason.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from None
    if not data:
        raise Unreadable("the file is empty")
    with reasons(), Image.open(io.BytesIO(data)) as image:
        return decode_image(image, wanted, sha256=hashlib.sha256(data).hexdigest())


@contextlib.contextmanager
def reasons() -> Iterator[None]:
    """Turn whatever Pillow raises while one picture is opened and decoded into `Unreadable` with the reason."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise Unreadable(f"refused as a decompression bomb: {error}") from None
    except UnidentifiedImageError:
        raise Unreadable("not an image, or of an unknown format") from None
    except (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, MemoryError) as error:
        raise Unreadable(f"damaged: {error or type(error).__name__}") from None


def decode_image(image: Image.Image, wanted: cards.Image, *, sha256: str = "") -> Decoded:
    """Decode and fit an open Pillow image; `sha256` is that of its file, where there is one.

    Raises:
        Unreadable: it claims too many pixels. Damage raises whatever Pillow raises, see `reasons`.
    """
    mode, (width, height) = image.mode, image.size
    if width * height > MAX_PIXELS:
        raise Unreadable(f"claims {width} x {height} pixels: refused as a decompression bomb")
    # A JPEG decodes 2-8 times faster at reduced scale; twice the wanted size keeps the detail that is left.
    image.draft(None, (2 * wanted.size, 2 * wanted.size))
    return Decoded(fit(image, wanted), sha256, mode, width, height)


def fit(image: Image.Image, wanted: cards.Image) -> NDArray[np.uint8]:
    """An image of any mode and size as uint8 (size, size, channels).

    `crop` cuts the largest centred square, `pad` adds black borders, `squash` changes the aspect ratio. Resampling
    is bilinear with antialiasing.
    """
    image = _grey_or_rgb(_upright(image), grey=wanted.channels == 1)
    width, height = image.size
    size = (wanted.size, wanted.size)
    if wanted.fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        if width != height:
            image = image.crop((left, top, left + side, top + side))
    elif wanted.fit == "pad":  # shrunk before it is padded: the square around a panorama would take gigabytes
        scale = wanted.size / max(width, height)
        inner = max(1, round(width * scale)), max(1, round(height * scale))  # `pad` alone would round a line to nothing
        image = ImageOps.pad(image.resize(inner, Image.Resampling.BILINEAR), size)
    image = image.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8).reshape(wanted.size, wanted.size, wanted.channels)
    return stretched(pixels) if wanted.normalise == "standard" else pixels


def stretched(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture less its mean, divided by its standard deviation and rescaled to the full range, as uint8.

    Mean and deviation cancel in the rescaling: what is left is that the darkest pixel becomes 0 and the brightest 255.

    >>> stretched(np.array([[10, 20], [40, 60]], np.uint8)).tolist()
    [[0, 51], [153, 255]]
    """
    low, high = int(pixels.min()), int(pixels.max())
    return ((pixels.astype(np.float32) - low) * (255 / max(1, high - low))).round().astype(np.uint8)


def _upright(image: Image.Image) -> Image.Image:
    """Obey the EXIF orientation. A broken EXIF block is ignored; a broken data stream is not."""
    image.load()
    try:
        # Where there is nothing to turn, `exif_transpose` would copy the picture.
        return image if image.getexif().get(Base.Orientation, 1) == 1 else ImageOps.exif_transpose(image)
    except OSError:
        raise
    except Exception:  # Pillow raises almost anything on nonsense EXIF, and the pixels are fine all the same
        return image


def _grey_or_rgb(image: Image.Image, *, grey: bool) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    elif image.mode == "LAB":
        image = ImageCms.applyTransform(image, _lab_to_srgb()) or image
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, or float, scaled to 0-255. Files rarely say their true depth, so it is inferred."""
    values: NDArray[Any] = np.asarray(image, np.float32)
    top = float(values.max(initial=0))
    # Floats in [0, 1] or [0, 255]; integers of 12 bits stored in 16 (scanners, microscopes) or of 16; else the maximum.
    usual = (1, 255, 65535) if image.mode == "F" else (4095, 65535)
    full = next((full for full in usual if top <= full), top)
    return Image.fromarray((values.clip(0, full) * (255 / full)).round().astype(np.uint8))


@cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels (H, W, C) as the PNG file `path`, in one step."""
    with replacing(path) as temporary:
        Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(temporary, format="PNG")
