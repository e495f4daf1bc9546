"""The TIFF structure, in which TIFF files and EXIF blocks keep their tags, and what a retouch changes in it."""

from __future__ import annotations

import io
import os
import struct
from typing import Any, BinaryIO, NamedTuple

from .core import MAX_METADATA, sane_dpi

XMP_TAG, ICC_TAG = 700, 34675
_WIDTH_TAG, _HEIGHT_TAG, ORIENTATION_TAG = 256, 257, 274
X_RESOLUTION_TAG, Y_RESOLUTION_TAG, RESOLUTION_UNIT_TAG = 282, 283, 296
EXIF_TAG, GPS_TAG, _INTEROPERABILITY_TAG = 34665, 34853, 40965
_EXIF_WIDTH_TAG, _EXIF_HEIGHT_TAG = 40962, 40963
_THUMBNAIL_TAG, _THUMBNAIL_LENGTH_TAG = 513, 514
_INTEROPERABILITY_INDEX_TAG = 1

# The tags of a TIFF's main directory that speak of the photo, not of how this file stores it: names, description,
# make, model, number of the camera, orientation, software, date, artist, computer, ratings, copyright, the five of
# Windows, and EXIF and GPS.
PHOTO_TAGS = frozenset(
    (269, 270, 271, 272, 285, ORIENTATION_TAG, 305, 306, 315, 316, 18246, 18249, 33432, 50735, *range(40091, 40096))
) | {EXIF_TAG, GPS_TAG}

MAP_TAGS = frozenset((33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113))
"""Of GeoTIFF and GDAL: where on earth the picture lies."""

_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
BYTE, SHORT, LONG, RATIONAL, UNDEFINED = 1, 3, 4, 5, 7
_LONG8, _IFD8 = 16, 18  # BigTIFF's only; EXIF has no place for them except as pointers
_NUMBER_FORMATS = {BYTE: "B", SHORT: "H", LONG: "I", 13: "I", _LONG8: "Q", _IFD8: "Q"}

_MOST_TAGS = 4096  # of a directory; real ones are below 200
_MOST_IN_TAGS = 4 * MAX_METADATA

_Children = dict[int, Any]
CHILDREN: _Children = {EXIF_TAG: {_INTEROPERABILITY_TAG: {}}, GPS_TAG: {}}


class Tag(NamedTuple):
    """One tag: type, number of values, their bytes in the block's byte order, where these lie, and a directory.

    What `stays` is pointed to where it lies when a directory is written, instead of being written with it.
    """

    kind: int
    values: int
    data: bytes
    at: int = 0
    children: dict[int, Tag] | None = None
    stays: bool = False


class _Directory(NamedTuple):
    tags: dict[int, Tag]
    entries: dict[int, int]  # where the entry of each tag lies, of unreadable ones too
    next_at: int  # where the pointer to the next directory lies
    next: int


class TagReader:
    """Reads tags out of a TIFF structure: a TIFF or BigTIFF file, or the EXIF block of any other photo.

    A tag that cannot be read is left out, and so are those that together, lying over each other, are larger than any
    photo's. ValueError: the header or a directory cannot be read.
    """

    def __init__(self, source: BinaryIO) -> None:
        self.source = source
        self.size = source.seek(0, os.SEEK_END)
        self.allowed = _MOST_IN_TAGS
        start = self.take(0, 8)
        if start[:2] not in (b"II", b"MM"):
            raise ValueError("EXIF has to start with II or MM")
        self.order = "<" if start[:2] == b"II" else ">"
        version, self.first = struct.unpack(f"{self.order}HI", start[2:])
        self.big = version == 43
        if self.big:
            self.first = self.unpack("Q", 8)[0]

    def take(self, at: int, length: int) -> bytes:
        if at + length > self.size:
            raise ValueError(f"{length} bytes at {at} lie outside of the {self.size} there are")
        self.source.seek(at)
        return self.source.read(length)

    def unpack(self, layout: str, at: int) -> tuple[Any, ...]:
        return struct.unpack(self.order + layout, self.take(at, struct.calcsize(self.order + layout)))

    def directory(self, at: int, children: _Children) -> _Directory:
        """The directory at `at`; `children` names the tags that point to directories, and theirs in turn."""
        count_layout, entry_layout, pointer_layout = ("Q", "HHQ8s", "Q") if self.big else ("H", "HHI4s", "I")
        (count,) = self.unpack(count_layout, at)
        if count > _MOST_TAGS:
            raise ValueError(f"a directory of {count} tags")
        at += struct.calcsize(f"={count_layout}")
        entry_length = struct.calcsize(f"={entry_layout}")
        next_at = at + count * entry_length
        ends_here = next_at + struct.calcsize(f"={pointer_layout}") > self.size  # some writers leave the last zero out
        following = 0 if ends_here else self.unpack(pointer_layout, next_at)[0]
        tags, entries = {}, {}
        for entry_at in range(at, next_at, entry_length):
            code, kind, number, inline = self.unpack(entry_layout, entry_at)
            entries[code] = entry_at
            inline_at = entry_at + entry_length - len(inline)
            try:
                if code in children:
                    tags[code] = self._pointer(Tag(kind, number, inline), children[code])
                elif kind in _TYPE_SIZES:
                    tags[code] = self._tag(kind, number, inline_at, pointer_layout)
            except ValueError:
                continue
        return _Directory(tags, entries, next_at, following)

    def next_directory(self, at: int) -> int:
        """Where the directory after the one at `at` lies; 0 = there is none. Its tags are not read."""
        count_layout, entry_length, pointer_layout = ("Q", 20, "Q") if self.big else ("H", 12, "I")
        (count,) = self.unpack(count_layout, at)
        next_at = at + struct.calcsize(f"={count_layout}") + count * entry_length
        ends_here = next_at + struct.calcsize(f"={pointer_layout}") > self.size
        return 0 if ends_here else self.unpack(pointer_layout, next_at)[0]

    def _tag(self, kind: int, count: int, inline_at: int, pointer_layout: str) -> Tag:
        length = count * _TYPE_SIZES[kind]
        if length > min(MAX_METADATA, self.allowed):
            raise ValueError(f"a tag of {length} bytes")
        self.allowed -= length
        inline = length <= struct.calcsize(f"={pointer_layout}")
        at = inline_at if inline else self.unpack(pointer_layout, inline_at)[0]
        return Tag(kind, count, self.take(at, length), at)

    def _pointer(self, tag: Tag, children: _Children) -> Tag:
        at = number(tag, self.order)
        if at is None:
            raise ValueError("a pointer that is no number")
        return Tag(LONG, 1, b"", children=self.directory(at, children).tags)


def numbers(tag: Tag | None, order: str) -> list[int]:
    """All values of a tag of unsigned whole numbers; none if it is no such tag."""
    if tag is None or tag.kind not in _NUMBER_FORMATS:
        return []
    layout = _NUMBER_FORMATS[tag.kind]
    count = min(tag.values, len(tag.data) // struct.calcsize(f"={layout}"))
    return list(struct.unpack_from(f"{order}{count}{layout}", tag.data))


def number(tag: Tag | None, order: str) -> int | None:
    """The first of these values; None if there is none."""
    return next(iter(numbers(tag, order)), None)


def resolution(tags: dict[int, Tag], order: str) -> tuple[float, float] | None:
    """Pixels per inch, across and down, as a main directory tells them."""
    per_inch = {2: 1.0, 3: 2.54}.get(number(tags.get(RESOLUTION_UNIT_TAG), order) or 2)
    resolutions = [tags.get(code) for code in (X_RESOLUTION_TAG, Y_RESOLUTION_TAG)]
    values = [struct.unpack(f"{order}II", tag.data) for tag in resolutions if tag and len(tag.data) == 8]
    if per_inch is None or len(values) != 2 or not all(below for _, below in values):
        return None
    (x_above, x_below), (y_above, y_below) = values
    return sane_dpi(per_inch * x_above / x_below, per_inch * y_above / y_below)


def directory_bytes(tags: dict[int, Tag], order: str, at: int) -> bytes:
    """A classic TIFF directory and all it points to, as bytes that belong at the even position `at`."""
    entries, tail = [], bytearray()
    tail_at = at + 2 + 12 * len(tags) + 4
    for code, tag in sorted(tags.items()):
        where = tail_at + len(tail)
        data = tag.data if tag.children is None else directory_bytes(tag.children, order, where)
        if tag.stays:
            data = struct.pack(f"{order}I", tag.at)
        elif len(data) > 4 or tag.children is not None:
            tail += data + bytes(len(data) % 2)
            data = struct.pack(f"{order}I", where)
        entries.append(struct.pack(f"{order}HHI4s", code, tag.kind, tag.values, data))
    return struct.pack(f"{order}H", len(tags)) + b"".join(entries) + bytes(4) + bytes(tail)


def exif_block(tags: dict[int, Tag], order: str, staying: Tag | None = None) -> bytes | None:
    """An EXIF block of what a TIFF's main directory says of the photo, behind a tag that `stays` where it is."""
    photo_tags = {code: tag for code, tag in tags.items() if code in PHOTO_TAGS}
    if not photo_tags:
        return None
    first = bytes(staying.at - 8) + staying.data if staying else b""
    first += bytes(len(first) % 2)
    at = 8 + len(first)
    return tiff_start(order, at) + first + directory_bytes(photo_tags, order, at)


def tiff_start(order: str, first: int) -> bytes:
    """The eight bytes a classic TIFF structure starts with; `first` is where its main directory lies."""
    return (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, first)


def upright_exif(block: bytes | None, width: int, height: int, turned: bool = False) -> tuple[int, bytes | None]:
    """Orientation of a photo stored as `width` x `height`, and its EXIF block as it has to be once that is applied.

    The orientation is 1 where the pixels are `turned` already, whatever the block says. The block is changed in
    place, because makers' notes hold positions that a rewritten block would break.
    """
    if not block:
        return 1, None
    try:
        reader = TagReader(io.BytesIO(block))
        main = reader.directory(reader.first, CHILDREN)
    except ValueError:
        return 1, None
    told = number(main.tags.get(ORIENTATION_TAG), reader.order)
    orientation = told if told is not None and 1 <= told <= 8 and not turned else 1
    if orientation >= 5:
        width, height = height, width
    changed = bytearray(block)
    exif = main.tags[EXIF_TAG].children or {} if EXIF_TAG in main.tags else {}
    true_values = {ORIENTATION_TAG: 1, _WIDTH_TAG: width, _HEIGHT_TAG: height}
    _set_numbers(changed, main.tags, reader.order, true_values)
    _set_numbers(changed, exif, reader.order, {_EXIF_WIDTH_TAG: width, _EXIF_HEIGHT_TAG: height})
    _drop_thumbnail(changed, reader, main)
    return orientation, bytes(changed)


def _set_numbers(block: bytearray, tags: dict[int, Tag], order: str, values: dict[int, int]) -> None:
    for code, value in values.items():
        tag = tags.get(code)
        if tag and tag.values == 1 and tag.kind in (SHORT, LONG) and value < 1 << 8 * len(tag.data):
            struct.pack_into(order + _NUMBER_FORMATS[tag.kind], block, tag.at, value)


def _drop_thumbnail(block: bytearray, reader: TagReader, main: _Directory) -> None:
    if not main.next:
        return
    struct.pack_into(f"{reader.order}I", block, main.next_at, 0)
    try:
        tags = reader.directory(main.next, {}).tags
    except ValueError:
        return
    start = number(tags.get(_THUMBNAIL_TAG), reader.order)
    length = number(tags.get(_THUMBNAIL_LENGTH_TAG), reader.order)
    if start is None or length is None or block[start : start + 3] != b"\xff\xd8\xff":
        return
    if start + length >= len(block):
        del block[start:]
    else:
        block[start : start + length] = bytes(length)


def is_adobe_rgb(exif: bytes | None) -> bool:
    """Whether an EXIF block that `upright_exif` returned says Adobe RGB, as cameras do without embedding a profile.

    They write the interoperability index R03 (DCF 2.0, "optional colour space") and the colour space "uncalibrated".
    """
    if exif is None:
        return False
    reader = TagReader(io.BytesIO(exif))
    tags = reader.directory(reader.first, CHILDREN).tags
    for code in (EXIF_TAG, _INTEROPERABILITY_TAG):
        tags = (tags[code].children or {}) if code in tags else {}
    return _INTEROPERABILITY_INDEX_TAG in tags and tags[_INTEROPERABILITY_INDEX_TAG].data.startswith(b"R03")


def exif_without_gps(block: bytes | None) -> bytes | None:
    """An EXIF block that `upright_exif` returned, without its GPS directory and map coordinates.

    Their content is blanked and their entries are taken out, everything else staying at its place. Where the GPS
    directory cannot be read, its content cannot be found either: then the block is written anew without it.
    """
    if block is None:
        return None
    reader = TagReader(io.BytesIO(block))
    main = reader.directory(reader.first, CHILDREN)
    gone = main.entries.keys() & {GPS_TAG, *MAP_TAGS}
    if not gone:
        return block
    kept = {code: tag for code, tag in main.tags.items() if code not in gone}
    if not gone <= main.tags.keys():
        return tiff_start(reader.order, 8) + directory_bytes(kept, reader.order, 8)
    changed = bytearray(block)
    for tag in [part for code in gone for part in (main.tags[code].children or {0: main.tags[code]}).values()]:
        changed[tag.at : tag.at + len(tag.data)] = bytes(len(tag.data))
    places = sorted(at for code, at in main.entries.items() if code not in gone)
    start, end = reader.first + 2, main.next_at + 4
    listed = b"".join(changed[at : at + 12] for at in places) + changed[main.next_at : end]
    changed[start:end] = listed.ljust(len(changed[start:end]), b"\0")
    struct.pack_into(f"{reader.order}H", changed, reader.first, len(places))
    return bytes(changed)
