"""The photo itself: pixels, and what its file said about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import gamut
from .core import DEFAULT_QUALITY, Encoding, Refused, contiguous, is_neutral


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
        format: `"JPEG"`, `"PNG"`, `"WEBP"`, `"TIFF"`, `"HEIC"`, `"AVIF"`, `"JXL"` or `"RAW"`, told by the file's
            content; None when not from a file.
        grey: the file held one grey channel.
        grey_profile: the profile of that channel, as it was.
        notes: what the file lost or lacks now that it is open, a sentence each without its name.
        iptc: IPTC-IIM records.
        texts: (keyword, text) of a PNG.
        encoding: how the file stored its picture; None when not from a file.

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
    grey_profile: bytes | None = None
    notes: tuple[str, ...] = ()
    iptc: bytes | None = None
    texts: tuple[tuple[str, str], ...] = ()
    encoding: Encoding | None = None

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
        return gamut.model_view(self.pixels, self.icc_profile)

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
        return self.with_pixels(gamut.retouched_pixels(self.pixels, self.icc_profile, grid, strength))


def _kind_of(value: object) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else type(value).__name__


def own_encoding(photo: Photo, kind: str) -> Encoding:
    """How the photo's file stored its picture, if it was of the format that is written now."""
    return photo.encoding or Encoding() if photo.format == kind else Encoding()


_ABOUT = (0.9, 1.6)  # as large: fast encoders need half as much again for the same quality


def encoded_as_before(photo: Photo, own: Encoding, quality: int | None, encode: Callable[[int], bytes]) -> bytes:
    """What `encode` makes at a quality; without one, about as large as the photo's own file, or exact as that was.

    The first try is right for what phones and cameras write; finer ones follow for files that were finer.
    """
    if quality is not None or own.lossless or own.bytes_per_pixel is None:
        return encode(quality or (100 if own.lossless else DEFAULT_QUALITY))
    least, most = (share * own.bytes_per_pixel * photo.pixels[..., 0].size for share in _ABOUT)
    encoded = encode(80)
    if len(encoded) > most:
        return encode(65)
    for finer in (90, DEFAULT_QUALITY):
        if len(encoded) >= least or len(better := encode(finer)) > most:
            break
        encoded = better
    return encoded


def stored_samples(photo: Photo) -> tuple[np.ndarray, bytes | None]:
    """Samples and profile as they are written: `(H, W)` if the file held one channel and the retouch kept it neutral.

    Else `(H, W, 3)`, contiguous. Alpha is not in them.
    """
    pixels = photo.pixels
    if photo.grey and photo.alpha is None and is_neutral(pixels):
        return contiguous(pixels[..., 0]), photo.grey_profile
    return contiguous(pixels), photo.icc_profile


def check_sides(photo: Photo, longest: int, kind: str) -> None:
    """Refuse a photo that a format cannot hold."""
    height, width = photo.pixels.shape[:2]
    if max(width, height) > longest:
        raise Refused(f"it has {width} x {height} pixels, and {kind} allows at most {longest} on a side")
