"""EXIF of RAW files that are no TIFF: Canon's CR3 and CRW, Minolta's MRW, and others by what LibRaw tells of them.

By hand, because what reads all of these (exiv2 and its three bindings) is GPL, and LibRaw tells no camera's name here.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from .boxes import boxes
from .tags import CHILDREN, EXIF_TAG, GPS_TAG, LONG, ORIENTATION_TAG, SHORT, Tag, TagReader, exif_block

MAKER_NOTE_TAG = 0x927C
MOST_BYTES = 1 << 22
"""Of the start of a file in which its metadata lie."""
FEW_KEPT = "of its camera data only make, model, date, exposure, lens and artist are kept"
_MAKE, _MODEL, _DATE, _ARTIST, _ORIENTATION = 271, 272, 306, 315, 274
_EXPOSURE, _F_NUMBER, _ISO, _DATE_TAKEN, _FOCAL_LENGTH, _LENS = 33434, 33437, 34855, 36867, 37386, 42036
_NO_YEAR = 1970
_SHORTEST = 64_000  # parts of a second that exposures are told in
_CRW_MARK, _CRW_NAMES, _CRW_TIME, _CRW_FOLDERS = b"HEAPCCDR", 0x080A, 0x180E, (0x2800, 0x3000)
_MRW_MARK, _MRW_TIFF = b"\0MRM", b"\0TTW"
_CR3_MARK, _CR3_METADATA = b"ftypcrx", bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_MOST_RECORDS, _DEEPEST = 1024, 4


def is_made_up(block: bytes | None) -> bool:
    """Whether an EXIF block is LibRaw's own, without the date that the photo was taken."""
    return block is not None and b"dcraw v9" in block


def exif_of_parts(file: BinaryIO) -> bytes | None:
    """EXIF of a CR3 or an MRW file, which hold it in blocks that are built like TIFF."""
    file.seek(0)
    start = file.read(MOST_BYTES)
    try:
        if start.startswith(_MRW_MARK):
            return photo_exif(TagReader(io.BytesIO(_block_of_mrw(start))))
        if start.startswith(_CR3_MARK, 4):
            return _exif_of_cr3(start)
    except (ValueError, struct.error):
        pass
    return None


def photo_exif(reader: TagReader) -> bytes | None:
    """The EXIF block of a TIFF structure, without the maker's note, and upright, as LibRaw turns pictures."""
    return _upright_block(reader.directory(reader.first, CHILDREN).tags, reader.order)


def _upright_block(main: dict[int, Tag], order: str) -> bytes | None:
    if EXIF_TAG in main:
        exif = {code: tag for code, tag in (main[EXIF_TAG].children or {}).items() if code != MAKER_NOTE_TAG}
        main[EXIF_TAG] = main[EXIF_TAG]._replace(children=exif)
    # there for certain, so that what is made of this photo does not look unturned
    main[ORIENTATION_TAG] = Tag(SHORT, 1, struct.pack(f"{order}H", 1))
    return exif_block(main, order)


def _block_of_mrw(start: bytes) -> bytes:
    """The TIFF structure among blocks of a name and a length."""
    at, end = 8, 8 + int.from_bytes(start[4:8], "big")
    while at + 8 <= min(end, len(start)):
        name, length = struct.unpack_from(">4sI", start, at)
        if name == _MRW_TIFF:
            return start[at + 8 : at + 8 + length]
        at += 8 + length
    return b""


def _exif_of_cr3(start: bytes) -> bytes | None:
    """One block has the main directory, one that of EXIF, one that of GPS."""
    parts: dict[bytes, bytes] = {}
    for kind, at, end in boxes(start):
        for inner, inner_at, inner_end in boxes(start, at, end) if kind == b"moov" else ():
            if inner == b"uuid" and start.startswith(_CR3_METADATA, inner_at):
                parts |= {name: start[a:b] for name, a, b in boxes(start, inner_at + 16, inner_end)}
    readers = {name: TagReader(io.BytesIO(parts[name])) for name in (b"CMT1", b"CMT2", b"CMT4") if name in parts}
    tags = {name: reader.directory(reader.first, {}).tags for name, reader in readers.items()}
    orders = {reader.order for reader in readers.values()}
    if b"CMT1" not in tags or len(orders) > 1:
        return None
    main = tags[b"CMT1"]
    main |= {
        code: Tag(LONG, 1, b"", children=tags[name])
        for code, name in ((EXIF_TAG, b"CMT2"), (GPS_TAG, b"CMT4"))
        if name in tags
    }
    return _upright_block(main, orders.pop())


def exif_by_libraw(file: BinaryIO, raw: Any, made_up: bytes | None = None) -> bytes | None:
    """EXIF of what LibRaw knows of any file, with what a CRW file itself says of its camera and time.

    Elsewhere the camera's names are those of the block that LibRaw makes up for previews without one.
    """
    exif = Image.Exif()
    told, lens, own = raw.other, raw.lens, _told_by_crw(file)
    make, _, model = own.get(_CRW_NAMES, b"").rstrip(b"\0").decode("latin-1").partition("\0")
    if made_up and not model:
        preview = Image.Exif()
        preview.load(made_up)
        make, model = (str(preview.get(code, "")).rstrip("\0") for code in (_MAKE, _MODEL))
    exif.update({code: text for code, text in ((_MAKE, make), (_MODEL, model), (_ARTIST, told.artist)) if text})
    inside: dict[int, Any] = {}
    taken = told.timestamp
    if len(own.get(_CRW_TIME, b"")) >= 4:  # seconds of the camera's clock, which LibRaw takes for universal time
        taken = datetime.fromtimestamp(int.from_bytes(own[_CRW_TIME][:4], "little"), UTC)
    if taken is not None and taken.year > _NO_YEAR:
        exif[_DATE] = inside[_DATE_TAKEN] = f"{taken:%Y:%m:%d %H:%M:%S}"
    for code, value in ((_F_NUMBER, told.aperture), (_FOCAL_LENGTH, told.focal_length)):
        if value > 0:
            inside[code] = round(value, 2)
    if told.shutter_speed > 0:
        parts = Fraction(told.shutter_speed).limit_denominator(_SHORTEST)
        inside[_EXPOSURE] = IFDRational(parts.numerator, parts.denominator)
    if 0 < told.iso_speed < 1 << 16:
        inside[_ISO] = round(told.iso_speed)
    if lens.model:
        inside[_LENS] = lens.model
    if not exif and not inside:
        return None
    exif[_ORIENTATION] = 1
    exif.get_ifd(EXIF_TAG).update(inside)
    return exif.tobytes().removeprefix(b"Exif\0\0")


def _told_by_crw(file: BinaryIO) -> dict[int, bytes]:
    """Names and time out of a CRW file (CIFF 1.0, revision 4); empty for other files, and where it is damaged."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(14)
    if head[:2] != b"II" or head[6:14] != _CRW_MARK:
        return {}
    try:
        return dict(_records(file, int.from_bytes(head[2:6], "little"), size, 0))
    except (OSError, ValueError, struct.error):
        return {}


def _records(file: BinaryIO, start: int, end: int, depth: int) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the wanted records between two places, before whose end stands where their list begins."""
    file.seek(end - 4)
    (at,) = struct.unpack("<I", file.read(4))
    file.seek(start + at)
    (count,) = struct.unpack("<H", file.read(2))
    entries = file.read(10 * min(count, _MOST_RECORDS))
    for kind, length, place in struct.iter_unpack("<HII", entries):
        kind &= 0x3FFF  # without how it is stored: these are all too long to stand in the list
        if kind & 0x3800 in _CRW_FOLDERS and depth < _DEEPEST and start + place + length <= end:
            yield from _records(file, start + place, start + place + length, depth + 1)
        elif kind in (_CRW_NAMES, _CRW_TIME):
            file.seek(start + place)
            yield kind, file.read(min(length, 256))
