"""`save_photo`: a `Photo` as a file of any format that can be written, complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from ..files import move_to_new_name
from .avif import write_avif
from .core import PhotoError, Refused, one_line
from .heic import write_heic
from .jpeg import write_jpeg
from .photo import Photo
from .png import write_png
from .raw import RAW_SUFFIXES
from .tags import exif_without_gps, xmp_without_gps
from .tiff import write_tiff
from .webp import write_webp

_WRITERS: dict[str, Callable[[Photo, BinaryIO, int], None]] = {
    ".jpg": write_jpeg,
    ".jpeg": write_jpeg,
    ".png": write_png,
    ".webp": write_webp,
    ".tif": write_tiff,
    ".tiff": write_tiff,
    ".heic": write_heic,
    ".heif": write_heic,
    ".avif": write_avif,
}

SAVED_SUFFIXES = tuple(_WRITERS)
"""File name extensions, in lower case, that `save_photo` writes."""


def saved_suffix(source: str | os.PathLike[str]) -> str:
    """The extension a retouch of the file `source` gets when nobody chose one, by the name alone.

    The source's own where it can be written; `.tif` for camera RAW, whose 16 bits nothing smaller holds; else `.jpg`.
    """
    suffix = os.path.splitext(os.fspath(source))[1]
    if suffix.lower() in _WRITERS:
        return suffix
    return ".tif" if suffix.lower() in RAW_SUFFIXES else ".jpg"


def save_photo(
    photo: Photo,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    quality: int = 95,
    source: str | os.PathLike[str] | None = None,
    remove_gps: bool = False,
) -> None:
    """Encode a photo with its profile, EXIF and XMP; the file appears complete or not at all.

    PNG and TIFF keep 16 bits, HEIC 10 of them; the others round to 8. All keep alpha but JPEG, which lays a
    transparent photo on white. PNG and TIFF always hold exactly the photo's pixels; WebP and HEIC do at quality 100
    (HEIC to 10 bits); JPEG and AVIF never do. EXIF or XMP beyond the 64 kB that a JPEG can hold is left out with a
    warning.

    Args:
        photo: what to write.
        path: the file; its extension, one of `SAVED_SUFFIXES`, chooses the format.
        overwrite: replace an existing file. A link is replaced itself, what it points to stays.
        quality: 1 to 100, for JPEG, WebP, HEIC and AVIF. From 90 on, colour keeps its full resolution (not in WebP).
        source: a file that is not replaced even with `overwrite`, by whatever name or link: the photo's own.
        remove_gps: leave out where the photo was taken: EXIF's GPS directory and XMP's GPS properties.

    Raises:
        PhotoError: an unknown extension, an existing file or the source, a missing or unwritable folder, a full disk,
            a photo larger than the format allows, or HEIC without the optional package pillow-heif.
        ValueError: `quality` outside 1 to 100.

    Example:
        >>> from diffretouch import open_photo, save_photo
        >>> photo = open_photo("photo.jpg")
        >>> save_photo(photo, "copy.png")
        >>> bool((open_photo("copy.png").pixels == photo.pixels).all())
        True
    """
    name = os.fspath(path)
    if not isinstance(quality, int) or not 1 <= quality <= 100:
        raise ValueError(f"`quality` has to be a whole number in [1, 100], got {quality!r}")
    if remove_gps:
        photo = replace(photo, exif=exif_without_gps(photo.exif), xmp=xmp_without_gps(photo.xmp))
    try:
        extension = os.path.splitext(name)[1].lower()
        if extension not in _WRITERS:
            raise Refused(f"the extension has to be one of {', '.join(SAVED_SUFFIXES)}, got {extension or 'none'}")
        if not overwrite and os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if source is not None and _same_file(name, source):
            raise Refused("it is the photo's own source")
        _write_atomically(name, overwrite, lambda file: _WRITERS[extension](photo, file, quality))
    except FileExistsError:
        raise PhotoError(f"cannot save {name}: it exists already") from None
    except FileNotFoundError as error:
        raise PhotoError(f"cannot save {name}: there is no such folder") from error
    except OSError as error:
        raise PhotoError(f"cannot save {name}: {one_line(error.strerror or error)}") from error
    except Refused as refusal:
        raise PhotoError(f"cannot save {name}: {refusal}") from None


def _same_file(one: str, other: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _write_atomically(name: str, overwrite: bool, write: Callable[[BinaryIO], None]) -> None:
    # Not tempfile: its files are readable by their owner only, and would stay so once renamed.
    temporary = os.path.join(os.path.dirname(name), f".diffretouch-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "x+b") as file:
            write(file)
        if overwrite:
            os.replace(temporary, name)
        else:
            move_to_new_name(temporary, name)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
