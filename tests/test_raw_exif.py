"""photo/: EXIF of RAW files that are no TIFF is read where it stands; what LibRaw alone tells is said to be that."""

from __future__ import annotations

import io
import os
import struct
import time
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import makers
import pytest
from test_photo_formats import EXIF_IFD, GPS_IFD, MAKE, MODEL, ORIENTATION, PLACE, exif_block, told_by

from diffretouch.photo import open_photo
from diffretouch.photo.raw import _panasonic_damage
from diffretouch.photo.raw_exif import FEW_KEPT, exif_by_libraw, exif_of_parts
from diffretouch.photo.tags import CHILDREN, EXIF_TAG, GPS_TAG, TagReader, directory_bytes, tiff_start

pytest.importorskip("rawpy")


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content) + 8, kind) + content


def cr3(block: bytes) -> bytes:
    """A CR3 with the three directories of this EXIF in blocks of their own, as Canon has them, and no picture."""
    reader = TagReader(io.BytesIO(block))
    main = reader.directory(reader.first, CHILDREN).tags
    parts = {b"CMT2": main.pop(EXIF_TAG).children, b"CMT4": main.pop(GPS_TAG).children, b"CMT1": main}
    blocks = [
        box(name, tiff_start(reader.order, 8) + directory_bytes(tags, reader.order, 8)) for name, tags in parts.items()
    ]
    metadata = box(b"uuid", bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + b"".join(blocks))
    return box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", box(b"mvhd", bytes(100)) + metadata)


def mrw(block: bytes) -> bytes:
    parts = b"".join(
        name + struct.pack(">I", len(content)) + content
        for name, content in ((b"\0PRD", bytes(24)), (b"\0TTW", block), (b"\0RIF", bytes(10)))
    )
    return b"\0MRM" + struct.pack(">I", len(parts)) + parts + bytes(100)


def heap(records: list[tuple[int, bytes]]) -> bytes:
    """A heap of CIFF: contents, their list, and where that begins."""
    body, entries = b"", b""
    for kind, content in records:
        entries += struct.pack("<HII", kind, len(content), len(body))
        body += content
    return body + struct.pack("<H", len(records)) + entries + struct.pack("<I", len(body))


def crw(seconds: int) -> bytes:
    camera = heap([(0x080B, b"Firmware\0"), (0x080A, b"Canon\0Canon EOS D30\0")])
    about = heap([(0x2807, camera), (0x180E, struct.pack("<3I", seconds, 0, 0))])
    return b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + bytes(12) + heap([(0x2005, bytes(50)), (0x300A, about)])


def by_libraw(**told: Any) -> SimpleNamespace:
    """What rawpy tells of a file that LibRaw has opened."""
    nothing = {"iso_speed": 0.0, "shutter_speed": 0.0, "aperture": 0.0, "focal_length": 0.0, "timestamp": None}
    other = SimpleNamespace(**{**nothing, "artist": "", **told})
    return SimpleNamespace(other=other, lens=SimpleNamespace(model=told.pop("lens", "")))


@pytest.mark.parametrize("built", [cr3, mrw])
def test_blocks_that_are_built_like_tiff_give_all_but_the_makers_note(built):
    told = told_by(exif_of_parts(io.BytesIO(built(exif_block(orientation=6)))))
    assert (told[MAKE], told[ORIENTATION], told[GPS_IFD]) == ("Maker", 1, PLACE)
    assert told[EXIF_IFD][0x9003] == "2024:05:06 07:08:09" and 0x927C not in told[EXIF_IFD]


@pytest.mark.parametrize("built", [cr3, mrw])
def test_damaged_blocks_are_left_alone(built):
    whole = built(exif_block())
    for length in range(0, len(whole), 7):
        exif_of_parts(io.BytesIO(whole[:length]))
    for at in range(0, len(whole)):
        exif_of_parts(io.BytesIO(whole[:at] + b"\xff" + whole[at + 1 :]))
    assert exif_of_parts(io.BytesIO(whole[:60])) is None


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_a_crw_has_its_names_and_its_cameras_own_time(monkeypatch, zone):
    monkeypatch.setitem(os.environ, "TZ", zone)
    time.tzset()
    raw = by_libraw(iso_speed=100.0, shutter_speed=0.008000000379979610, aperture=5.6, timestamp=datetime(2001, 1, 1))
    told = told_by(exif_by_libraw(io.BytesIO(crw(1_000_000_000)), raw))
    monkeypatch.undo()
    time.tzset()
    assert (told[MAKE], told[MODEL], told[306], told[ORIENTATION]) == (
        *("Canon", "Canon EOS D30", "2001:09:09 01:46:40"),
        1,
    )
    inside = told[EXIF_IFD]
    assert (inside[36867], inside[34855]) == ("2001:09:09 01:46:40", 100)
    assert inside[33434] == 1 / 125 and inside[33437] == 5.6 and 37386 not in inside


def test_a_damaged_crw_gives_what_libraw_knows():
    whole = crw(1_000_000_000)
    raw = by_libraw(timestamp=datetime(2001, 2, 3, 4, 5, 6), lens="Lens")
    for at in range(26, len(whole)):
        assert exif_by_libraw(io.BytesIO(whole[:at] + b"\xff\xff" + whole[at + 2 :]), raw) is not None
    told = told_by(exif_by_libraw(io.BytesIO(whole[:-4] + b"\xff\xff\xff\x7f"), raw))
    assert told[306] == "2001:02:03 04:05:06" and MAKE not in told
    assert exif_by_libraw(io.BytesIO(b"FOVb" + bytes(60)), by_libraw()) is None


def test_a_raw_without_exif_keeps_what_libraw_tells_and_says_so(tmp_path):
    whole = makers.raf(makers.scene(3, 400, 300))
    at = whole.index(b"Exif\0\0")
    (tmp_path / "a.raf").write_bytes(whole[:at] + b"Nexif" + whole[at + 5 :])
    photo = open_photo(tmp_path / "a.raf")
    assert photo.notes == (FEW_KEPT,)
    told = told_by(photo.exif)
    assert (told[MAKE], told[MODEL], 305 in told) == ("Fujifilm", "INVENTED X1", False)
    assert (told[EXIF_IFD][36867], told[EXIF_IFD][34855]) == ("2026:05:17 18:30:00", 200)


@pytest.mark.parametrize(
    ("tags", "length", "missing"),
    [
        ({280: (4, [512])}, 512 + 160, None),
        ({280: (4, [512])}, 512 + 159, "1 of 160 bytes of its picture are missing"),
        ({280: (4, [512]), 45: (3, [8])}, 512, None),  # of the kind whose length cannot be told
        ({280: (4, [0xFFFF_FFFF])}, 512, None),  # as Panasonic writes where it does not say it
        ({45: (3, [1])}, 512, None),
    ],
)
def test_a_panasonic_picture_is_as_long_as_its_pixels_take_at_least(tags, length, missing):
    file = (b"IIU\0" + makers.tiff_block([tags])[4:]).ljust(length, b"\0")
    raw = SimpleNamespace(sizes=SimpleNamespace(raw_width=20, raw_height=7))
    assert _panasonic_damage(io.BytesIO(file), raw) == missing
    assert _panasonic_damage(io.BytesIO(b"II*\0" + file[4:]), raw) is None
