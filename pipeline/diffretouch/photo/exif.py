"""What a retouch changes in an EXIF block beside the orientation: previews, size, software, colour space.

Blocks are changed in place where that can be done, because makers' notes hold positions that a rewritten one breaks.
"""

from __future__ import annotations

import io
import re
import struct

from .tags import (
    CHILDREN,
    EXIF_TAG,
    SHORT,
    Tag,
    TagReader,
    directory_bytes,
    exif_block,
    number,
    resolution,
    tiff_start,
)

EXIF_LOST = "its EXIF is damaged and is left out"
MAKER_NOTE_TAG = 0x927C
_SOFTWARE_TAG, _COLOUR_SPACE_TAG = 305, 0xA001
_UNCALIBRATED = 0xFFFF
_MOVABLE_NOTES = (b"Nikon\0\2", b"FUJIFILM", b"OLYMPUS\0", b"OM SYSTEM\0", b"PENTAX \0", b"Apple iOS\0")
"""How notes start whose positions are counted from their own beginning."""
_PLACES_IN_NOTES = (
    # Panasonic: location, country to landmark, city
    (re.compile(rb"Panasonic\x00{3}"), 0, frozenset((0x67, 0x69, 0x6B, 0x6D, 0x6F, 0x80))),
    # Nikon: location, height
    (re.compile(rb"Nikon\x00\x02"), 10, frozenset((0x39, 0xC3))),
    # Samsung
    (re.compile(rb"(?=..(\x01\0\x07\0\x04\0{3}|\0\x01\0\x07\0{3}\x04)0100)", re.S), 0, frozenset((0x30, 0x31))),
)
"""How notes start that name a place, where their own TIFF structure lies (0: they use the block's), and the tags."""
_FARTHEST_NOTE = 1 << 16  # where it would lie in a block that is zeros up to there
_LARGE = 1024  # bytes: what is no number and no name
_JPEG_START = re.compile(rb"\xff\xd8\xff[\xc0-\xfe]")
_SMALLEST_PREVIEW = 128


def exif_of_tiff(tags: dict[int, Tag], order: str) -> tuple[bytes | None, tuple[str, ...]]:
    """The EXIF block of a TIFF with this main directory, and what could not be taken into it.

    Most makers' notes hold positions in the file, so they have to stay where they are.
    """
    inside = dict(tags[EXIF_TAG].children or {}) if EXIF_TAG in tags else {}
    note = inside.get(MAKER_NOTE_TAG)
    if note is None or len(note.data) <= 4 or note.data.startswith(_MOVABLE_NOTES):
        return exif_block(tags, order), ()
    stays = 8 <= note.at <= _FARTHEST_NOTE
    inside[MAKER_NOTE_TAG] = note._replace(stays=True)
    if not stays:
        del inside[MAKER_NOTE_TAG]
    block = exif_block({**tags, EXIF_TAG: tags[EXIF_TAG]._replace(children=inside)}, order, note if stays else None)
    return block, () if stays else ("its maker's note, which cannot be moved, is left out",)


def readable_exif(block: bytes | None) -> bytes | None:
    """The block, or None where its main directory cannot be read: what is blanked may lie over the structure."""
    if not block:
        return None
    try:
        reader = TagReader(io.BytesIO(block))
        reader.directory(reader.first, {})
    except ValueError:
        return None
    return block


def without_previews(block: bytes | None) -> bytes | None:
    """A block in which no JPEG of the old picture is left: its bytes are zeros, and so is any length that names it."""
    if not block:
        return block
    changed: bytearray | None = None
    at = 0
    while found := _JPEG_START.search(block, at):
        end = end_of_jpeg(block, found.start())
        at = max(end, found.end())
        length = end - found.start()
        if length < _SMALLEST_PREVIEW:
            continue
        changed = changed if changed is not None else bytearray(block)
        changed[found.start() : end] = bytes(length)
        for order in "<>":  # a maker's note may have another order than the block it is in
            for stored in (length, length + length % 2):
                entry, empty = (struct.pack(f"{order}HII", 4, 1, value) for value in (stored, 0))
                changed = changed.replace(entry, empty)
    return block if changed is None else bytes(changed)


def end_of_jpeg(block: bytes, start: int) -> int:
    """Where the JPEG that starts at `start` ends, its own previews skipped; the block's end if it never does."""
    at = start + 2
    while at + 4 <= len(block) and block[at] == 0xFF and block[at + 1] != 0xDA:
        at += 2 + struct.unpack_from(">H", block, at + 2)[0]
    end = block.find(b"\xff\xd9", at)
    return len(block) if end < 0 else end + 2


def shortened(block: bytes, most: int) -> tuple[bytes | None, str | None]:
    """A block of at most `most` bytes: the maker's note goes first, then the largest tags; and a word on it."""
    if len(block) <= most:
        return block, None
    said = f"EXIF of {len(block):,} bytes is too long for the {most:,} that JPEG holds"
    try:
        reader = TagReader(io.BytesIO(block))
        main = reader.directory(reader.first, CHILDREN).tags
    except ValueError:
        return None, f"{said} and is left out"
    inside = dict(main[EXIF_TAG].children or {}) if EXIF_TAG in main else {}
    inside.pop(MAKER_NOTE_TAG, None)
    large = sorted(
        ((len(tag.data), tags is main, code) for tags in (main, inside) for code, tag in tags.items()), reverse=True
    )
    while True:
        if EXIF_TAG in main:
            main[EXIF_TAG] = main[EXIF_TAG]._replace(children=inside)
        result = tiff_start(reader.order, 8) + directory_bytes(main, reader.order, 8)
        if len(result) <= most:
            return result, f"{said}: the maker's note and what else is large in it are left out"
        if not large or large[0][0] < _LARGE:
            return None, f"{said} and is left out"
        _, in_main, code = large.pop(0)
        (main if in_main else inside).pop(code, None)


def without_places_in_notes(block: bytes | None) -> bytes | None:
    """A block whose maker's note, if it can name a place in words, does not: these tags are zeros."""
    if block is None:
        return None
    reader = TagReader(io.BytesIO(block))
    main = reader.directory(reader.first, CHILDREN).tags
    note = (main[EXIF_TAG].children or {}).get(MAKER_NOTE_TAG) if EXIF_TAG in main else None
    changed = bytearray(block)
    for start, own, codes in _PLACES_IN_NOTES:
        head = start.match(note.data) if note else None
        if note is None or head is None:
            continue
        try:
            inner = TagReader(io.BytesIO(note.data[own:])) if own else reader
            tags = inner.directory(inner.first if own else note.at + head.end(), {}).tags
        except ValueError:
            continue
        for code in codes & tags.keys():
            at, length = tags[code].at, len(tags[code].data)
            if own or not note.at <= at < note.at + len(note.data):  # counted from the note, as some of Samsung's are
                at += note.at + own
            if at + length <= note.at + len(note.data):
                changed[at : at + length] = bytes(length)
    return bytes(changed)


def exif_resolution(block: bytes | None) -> tuple[float, float] | None:
    """Pixels per inch, if the block tells them."""
    if not block:
        return None
    try:
        reader = TagReader(io.BytesIO(block))
        return resolution(reader.directory(reader.first, {}).tags, reader.order)
    except ValueError:
        return None


def made_true(block: bytes | None, software: str | None, is_srgb: bool) -> bytes | None:
    """A block whose software is `software`, where it named another one, and whose colour space is the profile's."""
    if block is None:
        return None
    try:
        reader = TagReader(io.BytesIO(block))
        main = reader.directory(reader.first, CHILDREN)
    except ValueError:
        return block
    changed = bytearray(block)
    exif = main.tags[EXIF_TAG].children or {} if EXIF_TAG in main.tags else {}
    colour = exif.get(_COLOUR_SPACE_TAG)
    if colour and colour.kind == SHORT and number(colour, reader.order) == 1 and not is_srgb:
        struct.pack_into(f"{reader.order}H", changed, colour.at, _UNCALIBRATED)
    if software is not None and _SOFTWARE_TAG in main.tags:
        _set_text(changed, main.entries[_SOFTWARE_TAG], software, reader.order)
    return bytes(changed)


def _set_text(block: bytearray, entry: int, text: str, order: str) -> None:
    """Give a tag of text another one, behind the block's end."""
    data = text.encode("ascii", "replace") + b"\0"
    block += bytes(len(block) % 2)
    struct.pack_into(f"{order}HII", block, entry + 2, 2, len(data), len(block))
    block += data
