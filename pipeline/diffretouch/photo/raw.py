"""Camera RAW files, rendered neutrally by LibRaw through the optional package rawpy.

Neutral means what the camera saw and nothing that a retouch should decide: its own white balance, no automatic
brightness, no tone curve beyond the colour space's, clipped highlights. The result is Display P3 in 16 bits: wider
than sRGB, and with sRGB's tone curve, so that greys are right even where a viewer ignores profiles.
"""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from .boxes import has_credentials
from .colour import DISPLAY_P3
from .companions import CREDENTIALS_LOST, CREDENTIALS_TAG
from .core import Decoded, Refused, check_size, one_line, optional_module, without_exif_mark
from .iptc import records_of_tiff
from .raw_exif import FEW_KEPT, MOST_BYTES, exif_by_libraw, exif_of_parts, is_made_up, photo_exif
from .tags import XMP_TAG, Tag, TagReader, number, numbers

RAW_SIGNATURES = (
    (b"CR", 8),  # Canon CR2, a TIFF otherwise
    (b"ftypcrx", 4),  # Canon CR3
    (b"HEAPCCDR", 6),  # Canon CRW
    (b"FUJIFILMCCD-RAW", 0),
    (b"IIRO", 0),  # Olympus, as the next two
    (b"IIRS", 0),
    (b"MMOR", 0),
    (b"IIU\0", 0),  # Panasonic and Leica
    (b"\0MRM", 0),  # Minolta
    (b"FOVb", 0),  # Sigma
)
"""What RAW files that are no plain TIFF start with, and where."""

_DNG_VERSION_TAG, _PHOTOMETRIC_TAG, _SUB_DIRECTORIES_TAG = 50706, 262, 330
_MOSAIC, _LINEAR_RAW = 32803, 34892  # DNG 1.6, "PhotometricInterpretation"
_DATA_TAGS = ((273, 279), (324, 325))  # where strips and tiles lie, and how long they are
_COMPRESSION_TAG, _JPEG_XL = 259, 52546  # DNG 1.7
_PANASONIC_DATA_TAG, _PANASONIC_KIND_TAG, _PANASONIC_HUFFMAN = 280, 45, 8
_MOST_DIRECTORIES = 64


def is_tiff_raw(file: BinaryIO) -> bool:
    """Whether a file is a TIFF that holds a sensor's picture: DNG, NEF, ARW, PEF and the like."""
    try:
        reader = TagReader(file)
        if _DNG_VERSION_TAG in reader.directory(reader.first, {}).tags:
            return True
        kinds = [numbers(tags.get(_PHOTOMETRIC_TAG), reader.order) for tags in _directories(reader)]
    except ValueError:
        return False
    return any(kind in ([_MOSAIC], [_LINEAR_RAW]) for kind in kinds)


def _directories(reader: TagReader) -> list[dict[int, Tag]]:
    """Tags of the main directory and of those it names as its subordinates, which hold the pictures of other sizes."""
    main = reader.directory(reader.first, {}).tags
    places = numbers(main.get(_SUB_DIRECTORIES_TAG), reader.order)[:_MOST_DIRECTORIES]
    return [main, *(reader.directory(at, {}).tags for at in places)]


def read_raw(file: BinaryIO, max_pixels: int) -> Decoded:
    """A RAW file's picture as Display P3, 16 bits, upright, with EXIF; XMP and IPTC where it is built like a TIFF.

    Makers' notes are left out: they hold positions in the RAW file and outgrow what a JPEG can hold.
    """
    rawpy = optional_module("rawpy", "camera RAW")
    tags, exif = _tiff_metadata(file)
    exif = exif or exif_of_parts(file)
    notes = [CREDENTIALS_LOST] if CREDENTIALS_TAG in tags or _has_credentials(file) else []
    try:
        # By its name: of a file object, rawpy frees the bytes that LibRaw goes on reading.
        with rawpy.imread(file.name) as raw:
            check_size(raw.sizes.iwidth, raw.sizes.iheight, max_pixels)
            damage = _panasonic_damage(file, raw)
            exif = exif or _preview_exif(rawpy, raw)
            if exif is None or is_made_up(exif):
                exif = exif_by_libraw(file, raw, exif)
                notes += [FEW_KEPT] if exif else []
            samples = raw.postprocess(
                use_camera_wb=True,
                no_auto_bright=True,
                adjust_maximum_thr=0.0,  # else the brightest pixel may become white: brightness by content again
                user_sat=_saturation(raw),
                output_bps=16,
                output_color=rawpy.ColorSpace.P3D65,
                gamma=(2.4, 12.92),  # sRGB's curve
            )
    except rawpy.LibRawFileUnsupportedError:
        raise Refused(f"it is a camera RAW file that LibRaw {_version(rawpy)} cannot read, or damaged") from None
    except rawpy.LibRawError as error:
        raise Refused(f"it is damaged or cut short ({_words(error)})") from None
    is_grey = samples.ndim == 2 or samples.shape[2] == 1
    return Decoded(
        samples.reshape(samples.shape[:2]) if is_grey else np.ascontiguousarray(samples[..., :3]),
        "GRAY" if is_grey else "RGB ",
        icc_profile=None if is_grey else DISPLAY_P3,
        exif=exif,
        xmp=tags[XMP_TAG].data if XMP_TAG in tags else None,
        turned=True,
        damage=damage,
        notes=tuple(notes),
        iptc=records_of_tiff(tags),
    )


def _words(error: Exception) -> str:
    reason = error.args[0] if error.args else ""
    return one_line(reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason)


def _panasonic_damage(file: BinaryIO, raw: Any) -> str | None:
    """Whether a Panasonic file ends before its last pixel, of which LibRaw says nothing.

    All kinds but the eighth take at least 16 bytes for 14 pixels, in blocks of 16 kB (LibRaw, `panasonic_load_raw`).
    """
    file.seek(0)
    if file.read(4) not in (b"IIU\0", b"IIRO"):
        return None
    try:
        reader = TagReader(file)
        tags = reader.directory(reader.first, {}).tags
    except ValueError:
        return None
    at, kind = number(tags.get(_PANASONIC_DATA_TAG), reader.order), number(tags.get(_PANASONIC_KIND_TAG), reader.order)
    if not at or at >= 1 << 31 or kind == _PANASONIC_HUFFMAN:
        return None
    least = raw.sizes.raw_width * raw.sizes.raw_height // 14 * 16
    missing = at + least - reader.size
    return f"{missing:,} of {least:,} bytes of its picture are missing" if missing > 0 else None


def _saturation(raw: Any) -> int | None:
    """Where the first channel clips, by the maker: above it highlights turn pink. None leaves it to LibRaw's table."""
    levels = [level for level in raw.camera_white_level_per_channel or () if level > 0]
    return min(levels, default=None)


def _version(rawpy: Any) -> str:
    return ".".join(map(str, rawpy.libraw_version))


def _has_credentials(file: BinaryIO) -> bool:
    """Whether a CR3, which is built of boxes, has content credentials."""
    file.seek(0)
    start = file.read(MOST_BYTES)
    return start.startswith(b"ftypcrx", 4) and has_credentials(start)


def _tiff_metadata(file: BinaryIO) -> tuple[dict[int, Tag], bytes | None]:
    """The main directory and the EXIF of a RAW file that is built like a TIFF; nothing of others.

    Refused: a picture that reaches beyond the file's end, of which LibRaw would speak on the terminal.
    """
    try:
        reader = TagReader(file)
        main = reader.directory(reader.first, {}).tags
        directories = _directories(reader)
    except ValueError:
        return {}, None
    for tags in directories if is_tiff_raw(file) else ():  # others do not keep to these tags
        _check_data(tags, reader)
        if number(tags.get(_COMPRESSION_TAG), reader.order) == _JPEG_XL:
            raise Refused("its picture is stored as JPEG XL inside of DNG, which cannot be decoded yet")
    return main, photo_exif(reader)


def _check_data(tags: dict[int, Tag], reader: TagReader) -> None:
    for where, length in _DATA_TAGS:
        places, lengths = numbers(tags.get(where), reader.order), numbers(tags.get(length), reader.order)
        if any(at + size > reader.size for at, size in zip(places, lengths, strict=False)):
            raise Refused("it is cut short")


def _preview_exif(rawpy: Any, raw: Any) -> bytes | None:
    """EXIF out of the JPEG inside of a RAW file, which others than TIFF-like ones may have."""
    try:
        preview = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if preview.format != rawpy.ThumbFormat.JPEG:
        return None
    return without_exif_mark(JpegImageFile(io.BytesIO(preview.data)).info.get("exif"))
