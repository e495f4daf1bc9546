"""What all modules of this room share: what a reader finds, how a file is refused, and work in bands of rows."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ..extras import MissingExtra, require

MAX_PIXELS = 400_000_000
"""Largest photo `open_photo` decodes unless told otherwise: four times 100 MP, 1.2 GB of 8-bit RGB."""

DEFAULT_QUALITY = 95
"""Of formats that lose something, where neither the caller nor the photo's own file says another one."""

MAX_METADATA = 1 << 26
"""Bytes of one tag or one inflated chunk that are read at most; real ones are below 10 MB."""

PROGRAM = "DiffRetouch"
"""What files say that retouched them."""

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced"
"""What a retouch is, in IPTC's words."""

_TYPES = {"jpeg": "jpg jpeg jpe jfif", "png": "png", "webp": "webp", "tiff": "tif tiff", "avif": "avif"}
_TYPES |= {"heic": "heic heif hif", "jxl": "jxl"}
MIME = {f".{suffix}": f"image/{kind}" for kind, suffixes in _TYPES.items() for suffix in suffixes.split()}
"""Media types by the extensions that `save_photo` writes."""

BAND_ROWS = 256
"""Rows worked on at once, so that wider intermediate types stay small."""


# What libraries log about a bad file comes as a PhotoError; without a handler it would be printed as well.
for _library in ("imagecodecs", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())


class PhotoError(ValueError):
    """A photo file that cannot be opened or saved: one sentence that names the file and the reason."""


class Refused(Exception):
    """Why a file cannot be used, told by code that does not know the file's name."""


class Encoding(NamedTuple):
    """How a file stored its picture, for a retouch that is stored like it.

    Attributes:
        quality: of a JPEG, in [1, 100], estimated from its tables.
        subsampling: of colour, "444", "422" or "420".
        bits: per sample.
        lossless: every pixel is stored exactly, by a format that need not do so.
        bytes_per_pixel: of the whole file.
    """

    quality: int | None = None
    subsampling: str | None = None
    bits: int = 8
    lossless: bool = False
    bytes_per_pixel: float | None = None


class Decoded(NamedTuple):
    """What a reader found: samples as stored, `(H, W)` for grey or `(H, W, channels)`, and untouched metadata."""

    samples: np.ndarray
    space: str  # "GRAY" | "RGB " | "CMYK", as ICC profiles name them
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    turned: bool = False  # the decoder has applied the orientation already
    damage: str | None = None  # what is wrong with samples that a decoder filled up
    notes: tuple[str, ...] = ()  # what could not be kept, a sentence each
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    encoding: Encoding = Encoding()


def is_neutral(pixels: np.ndarray) -> bool:
    """Whether the three channels are equal everywhere."""
    bands = (pixels[top : top + BAND_ROWS] for top in range(0, len(pixels), BAND_ROWS))
    return all((band[..., :1] == band[..., 1:]).all() for band in bands)


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse a size out of a header before anything is decoded."""
    if width < 1 or height < 1:
        raise Refused(f"its header gives a size of {width} x {height} pixels")
    if width * height > max_pixels:
        raise Refused(f"it has {width} x {height} pixels, more than the {max_pixels:,} allowed")


def check_frames(frames: int, what: str) -> None:
    """Refuse animations and documents of several pages."""
    if frames > 1:
        raise Refused(f"it has {frames} {what}, and only single pictures can be opened")


def optional_module(name: str, kind: str, extra: str = "raw") -> ModuleType:
    """An optional dependency, or a refusal that says how to install it."""
    try:
        require(kind, extra, [name])
        return importlib.import_module(name)
    except MissingExtra as error:
        raise Refused(one_line(error)) from None
    except ImportError:  # it is there and broken
        raise Refused(f"{kind} needs {name}, which is not installed: pip install 'diffretouch[{extra}]'") from None


def one_line(message: object) -> str:
    """What an exception says, on one line of at most 160 characters."""
    text = " ".join(str(message).split()) or type(message).__name__
    return text if len(text) <= 160 else f"{text[:157]}..."


def sane_dpi(horizontal: float, vertical: float) -> tuple[float, float] | None:
    """The resolution, if it can be one."""
    return (horizontal, vertical) if 1 <= horizontal <= 100_000 and 1 <= vertical <= 100_000 else None


def without_exif_mark(block: bytes | None) -> bytes | None:
    """An EXIF block as it starts with its byte order, out of the forms that files store."""
    return block.removeprefix(b"Exif\0\0") if block else None


def split_alpha(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour `(H, W)` or `(H, W, 3)` and alpha `(H, W)` of grey, grey + alpha, RGB or RGBA samples."""
    if samples.ndim == 2 or samples.shape[2] == 3:
        return samples, None
    colour = samples[..., 0] if samples.shape[2] == 2 else samples[..., :3]
    return np.ascontiguousarray(colour), np.ascontiguousarray(samples[..., -1])


def contiguous(samples: np.ndarray) -> np.ndarray:
    """The samples as C has them: encoders check the strides, of sides of 1 pixel too, where NumPy does not care."""
    return samples.copy() if 1 in samples.shape else np.ascontiguousarray(samples)


def with_alpha(pixels: np.ndarray, alpha: np.ndarray | None) -> np.ndarray:
    """`(H, W, 3)` or, with alpha, `(H, W, 4)`, contiguous."""
    return np.ascontiguousarray(pixels) if alpha is None else np.dstack((pixels, alpha))


def full_range(samples: np.ndarray, bits: int) -> np.ndarray:
    """Samples of 1 to 16 bits stretched to the whole range of uint8 or uint16."""
    if bits in (8, 16):
        return samples
    dtype = np.uint8 if bits < 8 else np.uint16
    top, full = (1 << bits) - 1, int(np.iinfo(dtype).max)
    stretched = (np.arange(top + 1, dtype=np.uint32) * full + top // 2) // top
    return stretched.astype(dtype)[samples.astype(np.uint16)]


def rounded_to(samples: np.ndarray, bits: int, shift: int = 0) -> np.ndarray:
    """uint16 samples rounded to the nearest level of `bits` bits, 8 to 16, which stand `shift` bits up."""
    most = (1 << bits) - 1

    def rounded(top: int, bottom: int) -> np.ndarray:
        return (samples[top:bottom].astype(np.uint32) * most + 32_767) // 65_535 << shift

    return in_bands(rounded, samples.shape, np.uint16)


def divided_by_alpha(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """True colours of premultiplied ones."""
    full = int(np.iinfo(colour.dtype).max)

    def divide(top: int, bottom: int) -> np.ndarray:
        divisor = np.maximum(alpha[top:bottom], 1).astype(np.uint32)
        divisor = divisor if colour.ndim == 2 else divisor[..., None]
        return np.minimum((colour[top:bottom].astype(np.uint32) * full + divisor // 2) // divisor, full)

    return in_bands(divide, colour.shape, colour.dtype)


def eight_bit(samples: np.ndarray) -> np.ndarray:
    """uint8 or uint16 samples rounded to the nearest of 256 levels."""
    if samples.dtype == np.uint8:
        return samples
    # 65535 / 257 is 255 exactly, so this rounds to the nearest of the 256 levels
    return in_bands(lambda top, bottom: (samples[top:bottom].astype(np.uint32) + 128) // 257, samples.shape, np.uint8)


def in_bands(rows: Callable[[int, int], np.ndarray], shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of `shape` filled by `rows(top, bottom)` a band at a time, so that wide intermediates stay small."""
    result = np.empty(shape, dtype=dtype)
    for top in range(0, shape[0], BAND_ROWS):
        bottom = min(top + BAND_ROWS, shape[0])
        result[top:bottom] = rows(top, bottom)
    return result
