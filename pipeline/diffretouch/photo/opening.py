"""`open_photo`: any photo file as one upright RGB `Photo`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from .avif import read_avif
from .colour import ADOBE_RGB, as_rgb
from .core import MAX_PIXELS, Decoded, PhotoError, Refused, one_line
from .heic import read_heic
from .jpeg import read_jpeg
from .photo import Photo
from .png import PNG_SIGNATURE, read_png
from .raw import RAW_SIGNATURES, RAW_SUFFIXES, is_tiff_raw, read_raw
from .tags import is_adobe_rgb, upright_exif, upright_xmp
from .tiff import read_tiff
from .webp import read_webp

OPENED_SUFFIXES = RAW_SUFFIXES | {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif"}
"""Usual file name extensions, in lower case, of what `open_photo` opens: for choosing files out of a folder only."""


def open_photo(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a JPEG, PNG, WebP, TIFF, HEIC, AVIF or camera RAW file into an upright `Photo` of 8 or 16 bits.

    The content decides the format, not the name. Grey, palette, 1-bit, CMYK and alpha are handled as the package's
    text says; a multi-picture JPEG or HEIC opens its main picture, a TIFF its only full-size page. The size is read
    from the header and checked before anything is decoded. Samples of 2 to 15 bits are stretched to 8 or 16.

    Args:
        path: the file.
        max_pixels: a photo with more pixels (width times height) is refused, undecoded.

    Raises:
        PhotoError: the file is missing, no regular file, not readable, empty, cut short, damaged, of another kind,
            animated or of several pages, too large, has floating-point, signed or 32-bit samples, or needs an
            optional package that is not installed (HEIC: pillow-heif, RAW: rawpy).

    Example:
        >>> from diffretouch import open_photo
        >>> photo = open_photo("photo.jpg")
        >>> photo.format, photo.pixels.shape, photo.pixels.dtype
        ('JPEG', (1080, 1920, 3), dtype('uint8'))
    """
    name = os.fspath(path)
    try:
        with _opened_for_reading(name) as file:
            return _decoded_photo(file, max_pixels)
    except Refused as refusal:
        raise PhotoError(f"cannot open {name}: {refusal}") from None
    except OSError as error:
        raise PhotoError(f"cannot open {name}: {one_line(error.strerror or error)}") from error


def _opened_for_reading(name: str) -> BinaryIO:
    mode = os.stat(name).st_mode
    if stat.S_ISDIR(mode):
        raise Refused("it is a folder")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for ever
        raise Refused("it is not a regular file")
    return open(name, "rb")


def _decoded_photo(file: BinaryIO, max_pixels: int) -> Photo:
    kind, read = _reader_for(file)
    file.seek(0)
    try:
        return _finished(read(file, max_pixels), kind)
    except Refused:
        raise
    except MemoryError:
        raise Refused("there is not enough memory to decode it") from None
    except Exception as error:  # seven decoders, each with its own families of exceptions for bad content
        raise Refused(f"it is damaged or cut short ({one_line(error)})") from error


def _reader_for(file: BinaryIO) -> tuple[str, Callable[[BinaryIO, int], Decoded]]:
    start = file.read(64)
    if not start:
        raise Refused("it is empty")
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG", read_jpeg
    if start.startswith(PNG_SIGNATURE):
        return "PNG", read_png
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP", read_webp
    brands = _brands(start)
    if b"avif" in brands:
        return "AVIF", read_avif
    if brands & _HEIC_BRANDS:
        return "HEIC", read_heic
    if any(start.startswith(signature, at) for signature, at in RAW_SIGNATURES) or is_tiff_raw(file):
        return "RAW", read_raw
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF", read_tiff
    for signature, at, other in _OTHER_KINDS:
        if start.startswith(signature, at):
            raise Refused(f"it is a {other} file; {_KINDS} can be opened")
    raise Refused(f"it is not a photo file; {_KINDS} can be opened")


_KINDS = "JPEG, PNG, WebP, TIFF, HEIC, AVIF and camera RAW"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
_OTHER_KINDS = (
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"8BPS", 0, "Photoshop"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"JXL ", 4, "JPEG XL"),
    (b"ftyp", 4, "video"),
)


def _brands(start: bytes) -> set[bytes]:
    """What a file of the ISO media kind says it is (ISO/IEC 14496-12, 4.3): its main and its compatible brands."""
    if start[4:8] != b"ftyp":
        return set()
    length = int.from_bytes(start[:4], "big")
    return {start[8:12], *(start[at : at + 4] for at in range(16, min(length, len(start)), 4))}


def _finished(decoded: Decoded, kind: str) -> Photo:
    pixels, icc_profile = as_rgb(decoded)
    height, width = decoded.samples.shape[:2]
    orientation, exif = upright_exif(decoded.exif, width, height, decoded.turned)
    if icc_profile is None and decoded.space == "RGB " and is_adobe_rgb(exif):
        icc_profile = ADOBE_RGB
    straight = orientation == 1 and not decoded.turned
    return Photo(
        pixels=_upright(pixels, orientation),
        alpha=None if decoded.alpha is None else _upright(decoded.alpha, orientation),
        icc_profile=icc_profile,
        exif=exif,
        xmp=decoded.xmp if straight else upright_xmp(decoded.xmp),
        dpi=decoded.dpi[::-1] if orientation >= 5 and decoded.dpi else decoded.dpi,
        format=kind,
        grey=decoded.space == "GRAY",
    )


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored samples the way EXIF orientation 1 to 8 asks for; the result is contiguous."""
    turned = samples.swapaxes(0, 1) if orientation >= 5 else samples
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
