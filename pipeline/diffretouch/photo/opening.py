"""`open_photo`: any photo file as one upright RGB `Photo`."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from .claims import opened_xmp
from .colour import ADOBE_RGB, as_rgb
from .core import MAX_PIXELS, Decoded, PhotoError, Refused, one_line
from .exif import EXIF_LOST, readable_exif, without_previews
from .isolation import ISOLATED_KINDS, DecoderError, decoder_pool
from .photo import Photo
from .readers import kind_of, reader_of_kind
from .tags import is_adobe_rgb, upright_exif


def open_photo(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS, *, allow_damaged: bool = False) -> Photo:
    """Decode a JPEG, PNG, WebP, TIFF, HEIC, AVIF, JPEG XL or camera RAW file into an upright `Photo` of 8 or 16 bits.

    The content decides the format, not the name. Grey, palette, 1-bit, CMYK and alpha are handled as the package's
    text says; a multi-picture JPEG or HEIC opens its main picture, a TIFF its only full-size page. The size is read
    from the header and checked before anything is decoded. Samples of 2 to 15 bits are stretched to 8 or 16.

    RAW, TIFF, HEIC, AVIF and JPEG XL are decoded in another process with bounds on time and memory, see `isolation`.

    Args:
        path: the file.
        max_pixels: a photo with more pixels (width times height) is refused, undecoded.
        allow_damaged: open a photo of which a part is missing or wrong and was filled up by its decoder; `Photo.notes`
            then says so.

    Raises:
        PhotoError: the file is missing, no regular file, not readable, empty, cut short, damaged, of another kind,
            animated or of several pages, too large, has floating-point, signed or 32-bit samples, or needs an
            optional package that is not installed (HEIC: pillow-heif, JPEG XL: openimageio, RAW: rawpy).

    Example:
        >>> from diffretouch import open_photo
        >>> photo = open_photo("photo.jpg")
        >>> photo.format, photo.pixels.shape, photo.pixels.dtype
        ('JPEG', (1080, 1920, 3), dtype('uint8'))
    """
    name = os.fspath(path)
    try:
        with _opened_for_reading(name) as file:
            kind = kind_of(file)
            return _guarded(lambda: _opened(file, name, kind, max_pixels, allow_damaged))
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


def _opened(file: BinaryIO, name: str, kind: str, max_pixels: int, allow_damaged: bool) -> Photo:
    if kind in ISOLATED_KINDS:
        decoded = decoder_pool().decode(name, kind, max_pixels)
    else:
        file.seek(0)
        decoded = reader_of_kind(kind)(file, max_pixels)
    if decoded.damage and not allow_damaged:
        raise Refused(f"it is damaged: {decoded.damage} (--allow-damaged opens what there is)")
    return _finished(decoded, kind)


def _guarded(work: Callable[[], Photo]) -> Photo:
    try:
        return work()
    except Refused:
        raise
    except MemoryError:
        raise Refused("there is not enough memory to decode it") from None
    except Exception as error:  # each decoder has its own families of exceptions for bad content, and words for it
        raise Refused("it is damaged or cut short") from (None if isinstance(error, DecoderError) else error)


def _finished(decoded: Decoded, kind: str) -> Photo:
    pixels, icc_profile, notes = as_rgb(decoded)
    height, width = decoded.samples.shape[:2]
    orientation, exif = upright_exif(decoded.exif, width, height, decoded.turned)
    exif = readable_exif(without_previews(exif))
    if icc_profile is None and decoded.space == "RGB " and is_adobe_rgb(exif):
        icc_profile = ADOBE_RGB
    xmp = opened_xmp(decoded.xmp, orientation, decoded.turned)
    damage = [f"it is damaged: {decoded.damage}"] if decoded.damage else []
    damage += [EXIF_LOST] if decoded.exif and not exif else []
    return Photo(
        pixels=_upright(pixels, orientation),
        alpha=None if decoded.alpha is None else _upright(decoded.alpha, orientation),
        icc_profile=icc_profile,
        exif=exif,
        xmp=xmp.xmp,
        dpi=decoded.dpi[::-1] if orientation >= 5 and decoded.dpi else decoded.dpi,
        format=kind,
        grey=decoded.space == "GRAY",
        grey_profile=decoded.icc_profile if decoded.space == "GRAY" else None,
        notes=tuple(dict.fromkeys((*damage, *decoded.notes, *notes, *xmp.notes))),
        iptc=decoded.iptc,
        texts=decoded.texts,
        encoding=decoded.encoding,
    )


def _upright(samples: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored samples the way EXIF orientation 1 to 8 asks for; the result is contiguous."""
    turned = samples.swapaxes(0, 1) if orientation >= 5 else samples
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)
