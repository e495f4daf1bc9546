"""Boxes that files are made of: AVIF and HEIC (ISO/IEC 14496-12, items in 23008-12), and JPEG XL (18181-2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MOST_BOXES = 4096  # of one box; real ones have dozens
_CREDENTIALS = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_FULL = 4  # bytes of version and flags, which some kinds of boxes start with


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Kind of every box between two places, and where its content starts and ends; what cannot be read ends them."""
    at, end = start, len(data) if end is None else end
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= end:
            length, head = struct.unpack_from(">Q", data, at + 8)[0], 16
        length = length or end - at
        if length < head or at + length > end:
            return
        yield kind, at + head, at + length
        at += length


def inside(data: bytes, *kinds: bytes) -> bytes:
    """The content of a box by the kinds on the way to it, without version and flags; empty if there is none."""
    start, end = 0, len(data)
    for kind in kinds:
        found = next((place for name, *place in boxes(data, start, end) if name == kind), None)
        if found is None:
            return b""
        start, end = found
        start += _FULL if kind in (b"meta", b"pitm", b"ipma", b"iref") else 0
    return data[start:end]


def brands(data: bytes) -> set[bytes]:
    """What the file says it is: its main and its compatible brands."""
    content = inside(data, b"ftyp")
    return {content[:4], *(content[at : at + 4] for at in range(8, len(content), 4))}


def has_credentials(data: bytes) -> bool:
    """Whether the file has content credentials (C2PA 2.1, A.5)."""
    return any(kind == b"uuid" and data.startswith(_CREDENTIALS, start) for kind, start, _ in boxes(data))


def property_of_picture(data: bytes, wanted: bytes) -> bytes | None:
    """A property of the main picture, such as `clap`, by its kind."""
    properties = inside(data, b"meta", b"iprp", b"ipco")
    named = [(kind, properties[start:end]) for kind, start, end in boxes(properties)]
    try:
        (picture,) = struct.unpack_from(">H", inside(data, b"meta", b"pitm"))
        numbers = _associations(data)[picture]
    except (KeyError, struct.error):
        return None
    return next((named[n - 1][1] for n in numbers if 0 < n <= len(named) and named[n - 1][0] == wanted), None)


def _associations(data: bytes) -> dict[int, list[int]]:
    """Numbers of each item's properties, from 1 (23008-12, 9.3)."""
    table = inside(data, b"meta", b"iprp", b"ipma")
    at = data.find(b"ipma")
    version, wide = data[at + 4], data[at + 7] & 1
    (count,) = struct.unpack_from(">I", table)
    at, found = 4, {}
    for _ in range(min(count, _MOST_BOXES)):
        item, number = struct.unpack_from(">IB" if version else ">HB", table, at)
        at += 5 if version else 3
        layout, mask = (f">{number}H", 0x7FFF) if wide else (f">{number}B", 0x7F)
        found[item] = [value & mask for value in struct.unpack_from(layout, table, at)]
        at += struct.calcsize(layout)
    return found


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def with_boxes(data: bytes, further: list[tuple[bytes, bytes]]) -> bytes:
    """A JPEG XL container with further boxes before its picture (ISO/IEC 18181-2)."""
    at = max(end for kind, _, end in boxes(data) if kind in (b"JXL ", b"ftyp", b"jxll"))
    return data[:at] + b"".join(_box(kind, content) for kind, content in further) + data[at:]


def with_metadata(data: bytes, profile: bytes | None, exif: bytes | None, xmp: bytes | None) -> bytes:
    """An AVIF file as libavif writes it for one picture, which has no metadata yet, with these.

    ValueError: it is laid out in another way.
    """
    whole = {kind: data[start:end] for kind, start, end in boxes(data)}
    parts = {kind: whole[b"meta"][start:end] for kind, start, end in boxes(whole[b"meta"], _FULL)}
    places = parts[b"iloc"]
    if list(whole) != [b"ftyp", b"meta", b"mdat"] or places[:6] != b"\0\0\0\0\x44\0":
        raise ValueError("an AVIF file of an unknown layout")
    (count,) = struct.unpack_from(">H", places, 6)
    items = [(b"Exif", b"Exif\0", b"\0\0\0\0" + exif)] if exif else []
    items += [(b"mime", b"XMP\0application/rdf+xml\0", xmp)] if xmp else []
    numbers = range(count + 1, count + 1 + len(items))
    infos = [
        _box(b"infe", b"\2\0\0\0" + struct.pack(">HH", number, 0) + kind + name)
        for number, (kind, name, _) in zip(numbers, items, strict=True)
    ]
    parts[b"iinf"] = struct.pack(">IH", 0, count + len(items)) + parts[b"iinf"][6:] + b"".join(infos)
    describes = [_box(b"cdsc", struct.pack(">HHH", number, 1, 1)) for number in numbers]
    if describes:
        parts[b"iref"] = parts.get(b"iref", bytes(_FULL)) + b"".join(describes)
    if profile:
        parts[b"iprp"] = _with_profile(parts[b"iprp"], profile)
    parts[b"iloc"] = places + bytes(14 * len(items))  # as long as it will be
    order = sorted(parts, key=[b"hdlr", b"pitm", b"iloc", b"iinf", b"iref", b"iprp"].index)

    def head() -> bytes:
        inner = b"".join(_box(kind, parts[kind]) for kind in order)
        return _box(b"ftyp", whole[b"ftyp"]) + _box(b"meta", bytes(_FULL) + inner)

    moved = len(head()) - data.index(b"mdat") + 4
    at = moved + len(data)
    table = bytearray(places)
    struct.pack_into(">H", table, 6, count + len(items))
    for number in range(count):
        place = 8 + 14 * number
        struct.pack_into(">I", table, place + 6, struct.unpack_from(">I", table, place + 6)[0] + moved)
    for number, (_, _, content) in zip(numbers, items, strict=True):
        table += struct.pack(">HHHII", number, 0, 1, at, len(content))
        at += len(content)
    parts[b"iloc"] = bytes(table)
    return head() + _box(b"mdat", whole[b"mdat"] + b"".join(content for *_, content in items))


def _with_profile(properties: bytes, profile: bytes) -> bytes:
    """The properties with a colour profile as a further one of the first item, which is the picture."""
    parts = {kind: properties[start:end] for kind, start, end in boxes(properties)}
    number = 1 + sum(1 for _ in boxes(parts[b"ipco"]))
    table = bytearray(parts[b"ipma"])
    behind = 11 + table[10]  # version and flags, how many, and of the first: item, how many
    table[10] += 1
    table.insert(behind, number)
    return _box(b"ipco", parts[b"ipco"] + _box(b"colr", b"prof" + profile)) + _box(b"ipma", bytes(table))
