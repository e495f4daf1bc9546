"""`save_photo`: a `Photo` as a file of any format that can be written, complete or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

from ..files import move_to_new_name
from .avif import write_avif
from .claims import names_editor, saved_xmp, xmp_without_places
from .core import PROGRAM, PhotoError, Refused, one_line
from .credentials import Signer
from .exif import EXIF_LOST, made_true, readable_exif, without_places_in_notes
from .heic import write_heic
from .iptc import without_places
from .jpeg import write_jpeg
from .jxl import write_jxl
from .photo import Photo
from .png import write_png
from .space import is_srgb
from .suffixes import RAW_SUFFIXES
from .tags import exif_without_gps
from .tiff import write_tiff
from .webp import write_webp

_WRITERS: dict[str, Callable[[Photo, BinaryIO, int | None], list[str]]] = {
    ".jpg": write_jpeg,
    ".jpeg": write_jpeg,
    ".jpe": write_jpeg,
    ".jfif": write_jpeg,
    ".png": write_png,
    ".webp": write_webp,
    ".tif": write_tiff,
    ".tiff": write_tiff,
    ".heic": write_heic,
    ".heif": write_heic,
    ".hif": write_heic,
    ".avif": write_avif,
    ".jxl": write_jxl,
}

SAVED_SUFFIXES = tuple(_WRITERS)
"""File name extensions, in lower case, that `save_photo` writes."""


def was_retouched(photo: Photo) -> bool:
    """Whether the photo's metadata says that it was retouched by this package before, see `save_photo`'s `done`."""
    return names_editor(photo.xmp, PROGRAM)


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
    quality: int | None = None,
    source: str | os.PathLike[str] | None = None,
    remove_gps: bool = False,
    done: str | None = None,
    signer: Signer | None = None,
) -> tuple[str, ...]:
    """Encode a photo with its profile, EXIF, IPTC and XMP; the file appears complete or not at all.

    PNG, TIFF and JPEG XL keep 16 bits, HEIC and AVIF 10 of them (AVIF 12 where the photo came from such a file); the
    others round to 8. All keep alpha but JPEG, which lays a transparent photo on white. PNG and TIFF always hold
    exactly the photo's pixels; WebP, HEIC, AVIF and JPEG XL do at quality 100 (in their bits); JPEG never does. A
    photo of one grey channel whose pixels are neutral stays one channel, in JPEG XL where it has no profile.

    Args:
        photo: what to write.
        path: the file; its extension, one of `SAVED_SUFFIXES`, chooses the format.
        overwrite: replace an existing file. A link is replaced itself, what it points to stays.
        quality: 1 to 100, for JPEG, WebP, HEIC, AVIF and JPEG XL; from 90 on, colour keeps its full resolution (in
            JPEG XL always, in WebP never). None = as the photo's own file where it was of the same format (JPEG:
            quality and subsampling; the others: lossless, or about the size, HEIC and AVIF with the subsampling),
            else 95.
        source: a file that is not replaced even with `overwrite`, by whatever name or link: the photo's own.
        remove_gps: leave out where the photo was taken: EXIF's GPS directory, and the place in XMP and IPTC, in
            numbers and in words.
        done: how the photo was retouched, to be noted in XMP's history, as creator tool and as digital source type,
            and in EXIF's software; None = nothing is noted.
        signer: give the file content credentials (C2PA) that tell `done` and `source`, and sign them. Those that the
            source has go on in them, but not with `remove_gps`, as they may tell the place.

    Returns:
        What the format could not keep, a sentence each.

    Raises:
        PhotoError: an unknown extension, an existing file or the source, a missing or unwritable folder, a full disk,
            a photo larger than the format allows, or HEIC and JPEG XL without the optional packages
            pillow-heif and openimageio.
        ValueError: `quality` outside 1 to 100, or a `signer` without a `source`.

    Example:
        >>> from diffretouch import open_photo, save_photo
        >>> photo = open_photo("photo.jpg")
        >>> notes = save_photo(photo, "copy.png")  # what could not be kept
        >>> bool((open_photo("copy.png").pixels == photo.pixels).all())
        True
    """
    name = os.fspath(path)
    if quality is not None and (not isinstance(quality, int) or not 1 <= quality <= 100):
        raise ValueError(f"`quality` has to be a whole number in [1, 100], got {quality!r}")
    if signer is not None and source is None:
        raise ValueError("`source` has to be the photo that was retouched where there is a `signer`, got None")
    notes: list[str] = []
    try:
        extension = os.path.splitext(name)[1].lower()
        if extension not in _WRITERS:
            raise Refused(f"the extension has to be one of {', '.join(SAVED_SUFFIXES)}, got {extension or 'none'}")
        if not overwrite and os.path.lexists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        if source is not None and _same_file(name, source):
            raise Refused("it is the photo's own source")
        photo, more = _with_true_metadata(photo, extension, remove_gps, done)
        notes += more

        def write(file: BinaryIO) -> None:
            if signer is None or source is None:
                notes.extend(_encoded(photo, file, extension, quality))
                return
            with _temporary(name) as temporary, open(temporary, "x+b") as unsigned:
                notes.extend(_encoded(photo, unsigned, extension, quality))
                unsigned.seek(0)
                notes.extend(signer.sign(unsigned, file, name, os.fspath(source), done, history=not remove_gps))

        _write_atomically(name, overwrite, write)
    except FileExistsError:
        raise PhotoError(f"cannot save {name}: it exists already") from None
    except FileNotFoundError as error:
        raise PhotoError(f"cannot save {name}: there is no such folder") from error
    except OSError as error:
        raise PhotoError(f"cannot save {name}: {one_line(error.strerror or error)}") from error
    except Refused as refusal:
        raise PhotoError(f"cannot save {name}: {refusal}") from None
    return tuple(notes)


def _encoded(photo: Photo, file: BinaryIO, extension: str, quality: int | None) -> list[str]:
    try:
        return _WRITERS[extension](photo, file, quality)
    except (MemoryError, OSError, Refused):
        raise
    except Exception as error:  # each encoder has its own families of exceptions, and words for them
        height, width = photo.pixels.shape[:2]
        raise Refused(f"the encoder of {extension} does not take its {width} x {height} pixels") from error


_IPTC_SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff"))
"""Of formats that have a place for IPTC-IIM; in the others it becomes XMP."""


def _with_true_metadata(
    photo: Photo, extension: str, remove_gps: bool, done: str | None
) -> tuple[Photo, tuple[str, ...]]:
    """The photo with metadata that is true of the new file, and what of it the format cannot keep."""
    exif, xmp, iptc = photo.exif, photo.xmp, photo.iptc
    if remove_gps:
        exif = readable_exif(without_places_in_notes(readable_exif(exif_without_gps(exif))))
        xmp, iptc = xmp_without_places(xmp), without_places(iptc)
    records = None if extension in _IPTC_SUFFIXES else iptc
    xmp = saved_xmp(xmp, extension, done, PROGRAM, records)
    exif = made_true(exif, None if done is None else PROGRAM, is_srgb(photo.icc_profile))
    notes: tuple[str, ...] = (EXIF_LOST,) if photo.exif and not exif else ()
    if texts := extension != ".png" and [keyword for keyword, _ in photo.texts]:
        notes += (f"its PNG texts ({', '.join(texts)}) are left out: only PNG holds them",)
    return replace(photo, exif=exif, xmp=xmp, iptc=iptc if records is None else None), notes


def _same_file(one: str, other: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _write_atomically(name: str, overwrite: bool, write: Callable[[BinaryIO], object]) -> None:
    with _temporary(name) as temporary:
        with open(temporary, "x+b") as file:
            write(file)
        if overwrite:
            os.replace(temporary, name)
        else:
            move_to_new_name(temporary, name)


@contextmanager
def _temporary(name: str) -> Iterator[str]:
    """A free name beside a file, at which nothing is left."""
    # Not tempfile: its files are readable by their owner only, and would stay so once renamed.
    temporary = os.path.join(os.path.dirname(name), f".diffretouch-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
