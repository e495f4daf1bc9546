"""What all modules of this package share: the photo itself, how one is refused, and work in bands of rows."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

MAX_PIXELS = 400_000_000
"""Largest photo `open_photo` decodes unless told otherwise: four times 100 MP, 1.2 GB of 8-bit RGB."""

MAX_METADATA = 1 << 26
"""Bytes of one tag or one inflated chunk that are read at most; real ones are below 10 MB."""

BAND_ROWS = 256
"""Rows worked on at once, so that wider intermediate types stay small."""


class PhotoError(ValueError):
    """A photo file that cannot be opened or saved: one sentence that names the file and the reason."""


class Refused(Exception):
    """Why a file cannot be used, told by code that does not know the file's name."""


@dataclass(frozen=True, eq=False)
class Photo:
    """One photo, upright, with what its file said about it.

    Attributes:
        pixels: `(H, W, 3)` uint8 or uint16, RGB in the colour space of `icc_profile`.
        alpha: `(H, W)` of the same dtype, not premultiplied, 0 is transparent; None when opaque.
        icc_profile: an RGB profile; None means sRGB.
        exif: a TIFF-structured block that starts with its byte order mark, its orientation being 1.
        xmp: an XMP packet.
        dpi: horizontal and vertical pixels per inch.
        format: `"JPEG"`, `"PNG"`, `"WEBP"`, `"TIFF"`, `"HEIC"`, `"AVIF"` or `"RAW"`, told by the file's content;
            None when not from a file.
        grey: the file held one grey channel.

    Raises:
        TypeError: pixels or alpha that are no NumPy array of dtype uint8 or uint16.
        ValueError: pixels or alpha of another shape, or an empty picture.

    Example:
        >>> import numpy as np
        >>> from diffretouch import AffineGrid, Photo
        >>> photo = Photo(np.full((2, 3, 3), 40000, np.uint16))
        >>> photo.retouch(AffineGrid.identity()).pixels.dtype
        dtype('uint16')
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    format: str | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16):
            raise TypeError(f"`pixels` has to be a NumPy array of uint8 or uint16, got {_kind_of(pixels)}")
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ValueError(f"`pixels` has to have the shape (height, width, 3), got {pixels.shape}")
        if alpha is None:
            return
        if not isinstance(alpha, np.ndarray) or alpha.dtype != pixels.dtype:
            raise TypeError(f"`alpha` has to be a NumPy array of {pixels.dtype}, got {_kind_of(alpha)}")
        if alpha.shape != pixels.shape[:2]:
            raise ValueError(f"`alpha` has to have the shape {pixels.shape[:2]}, got {alpha.shape}")

    def with_pixels(self, pixels: np.ndarray) -> Photo:
        """The same photo with other pixels of the same shape and dtype; everything else is shared, not copied.

        Raises:
            TypeError: another dtype than this photo's, or no NumPy array.
            ValueError: another shape than this photo's.
        """
        if not isinstance(pixels, np.ndarray) or pixels.dtype != self.pixels.dtype:
            raise TypeError(f"`pixels` has to be a NumPy array of {self.pixels.dtype}, got {_kind_of(pixels)}")
        if pixels.shape != self.pixels.shape:
            raise ValueError(f"`pixels` has to have the shape {self.pixels.shape}, got {pixels.shape}")
        return replace(self, pixels=pixels)

    def model_view(self) -> np.ndarray:
        """The photo as the model has to see it, in sRGB: what to give a `DiffRetouchPipeline` as `image`.

        Returns:
            `pixels` itself where the photo is sRGB. Else `(h, w, 3)` uint16, clipped to sRGB's gamut and, if large,
            reduced to 768 pixels or a little more on the short side, which is more than the model looks at.
        """
        from .gamut import model_view

        return model_view(self)

    def retouch(self, grid: Any, strength: float = 1.0) -> Photo:
        """This photo retouched at its own size, depth and colour space.

        A grid is predicted from sRGB and speaks of sRGB. A photo in another space is therefore taken to sRGB without
        clipping, moved by what the grid changes there, and taken back, a band of rows at a time: colours that sRGB
        cannot hold stay, and pixels that the grid leaves alone stay bit for bit.

        Args:
            grid: an `AffineGrid`.
            strength: in [0, 2]; 0 returns the photo, 1 the retouch.

        Raises:
            TypeError, ValueError: another strength.
        """
        from .gamut import retouched_pixels

        return self.with_pixels(retouched_pixels(self, grid, strength))


def _kind_of(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


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


def check_sides(photo: Photo, longest: int, kind: str) -> None:
    """Refuse a photo that a format cannot hold."""
    height, width = photo.pixels.shape[:2]
    if max(width, height) > longest:
        raise Refused(f"it has {width} x {height} pixels, and {kind} allows at most {longest} on a side")


def optional_module(name: str, distribution: str, kind: str) -> ModuleType:
    """An optional dependency, or a refusal that says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Refused(f"{kind} files need the package {distribution}: pip install 'diffretouch[raw]'") from None


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
