"""IPTC-IIM records: captions, keywords, credit and copyright as newspapers store them (IIM 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from .tags import Tag

PHOTOSHOP_MARK = b"Photoshop 3.0\0"
IPTC_TAG, _PHOTOSHOP_TAG = 33723, 34377
_RESOURCE = 1028  # of Photoshop's blocks, the records

_PLACES = frozenset((26, 27, 90, 91, 92, 95, 100, 101))
"""Datasets of record 2 that say where a photo was taken: content location, city, sublocation, state, country."""

TWINS = {
    5: ("dc:title", "Alt"),
    10: ("photoshop:Urgency", ""),
    15: ("photoshop:Category", ""),
    20: ("photoshop:SupplementalCategories", "Bag"),
    25: ("dc:subject", "Bag"),
    40: ("photoshop:Instructions", ""),
    55: ("photoshop:DateCreated", ""),
    80: ("dc:creator", "Seq"),
    85: ("photoshop:AuthorsPosition", ""),
    90: ("photoshop:City", ""),
    92: ("Iptc4xmpCore:Location", ""),
    95: ("photoshop:State", ""),
    100: ("Iptc4xmpCore:CountryCode", ""),
    101: ("photoshop:Country", ""),
    103: ("photoshop:TransmissionReference", ""),
    105: ("photoshop:Headline", ""),
    110: ("photoshop:Credit", ""),
    115: ("photoshop:Source", ""),
    116: ("dc:rights", "Alt"),
    120: ("dc:description", "Alt"),
    122: ("photoshop:CaptionWriter", ""),
}
"""XMP property and kind of list of each dataset ("IPTC Photo Metadata", IIM to XMP); "" is a simple text."""


def records_in_photoshop(block: bytes) -> bytes | None:
    """The IPTC records among Photoshop's image resources, which also hold a thumbnail; None if there are none."""
    at = 0
    while block.startswith(b"8BIM", at) and at + 12 <= len(block):
        number, name_length = struct.unpack_from(">HB", block, at + 4)
        size_at = at + 6 + 1 + name_length + (1 + name_length) % 2
        if size_at + 4 > len(block):
            break
        (size,) = struct.unpack_from(">I", block, size_at)
        content = block[size_at + 4 : size_at + 4 + size]
        if number == _RESOURCE and content:
            return content
        at = size_at + 4 + size + size % 2
    return None


def records_of_tiff(tags: dict[int, Tag]) -> bytes | None:
    """The IPTC records of a TIFF, or of a RAW file that is built like one, with this main directory."""
    if IPTC_TAG in tags and tags[IPTC_TAG].data.startswith(b"\x1c"):
        return tags[IPTC_TAG].data
    return records_in_photoshop(tags[_PHOTOSHOP_TAG].data) if _PHOTOSHOP_TAG in tags else None


def photoshop_block(records: bytes) -> bytes:
    """Photoshop's image resources with these records and nothing else."""
    return b"8BIM" + struct.pack(">HHI", _RESOURCE, 0, len(records)) + records + bytes(len(records) % 2)


def datasets(records: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Record, dataset, content and the whole entry, of each; what cannot be read ends them."""
    at = 0
    while at + 5 <= len(records) and records[at] == 0x1C:
        record, dataset, length = struct.unpack_from(">BBH", records, at + 1)
        start = at + 5
        if length & 0x8000:  # the length's own length follows
            size = length & 0x7FFF
            length = int.from_bytes(records[start : start + size], "big")
            start += size
        if start + length > len(records):
            return
        yield record, dataset, records[start : start + length], records[at : start + length]
        at = start + length


def without_places(records: bytes | None) -> bytes | None:
    """The records without those that say where a photo was taken."""
    if records is None:
        return None
    kept = [whole for record, dataset, _, whole in datasets(records) if record != 2 or dataset not in _PLACES]
    return b"".join(kept) or None


def texts(records: bytes) -> dict[int, list[str]]:
    """The texts of record 2 by dataset, in UTF-8 or Latin-1 as the file says or, if it does not, as it can be read."""
    found: dict[int, list[str]] = {}
    for record, dataset, content, _ in datasets(records):
        if record == 2 and dataset in TWINS:
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError:
                text = content.decode("latin-1")
            found.setdefault(dataset, []).append(text)
    return found
