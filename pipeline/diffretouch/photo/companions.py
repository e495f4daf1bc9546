"""What a file brings along with its picture and a retouch leaves behind: gain maps, videos, depth maps, mattes.

None of it would fit a retouch or could be written again, so it goes together with all claims to it (`claims`), and
that is said. A gain map too: a gentle retouch would suit it, but it would have to be turned and encoded anew, without
what else its file tells, and described in two ways (Adobe's and ISO's), for one format of seven.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from typing import Any

from .boxes import boxes, brands, has_credentials
from .exif import end_of_jpeg
from .tags import TagReader

GAIN_MAP_LOST = "its gain map is left out: the result is of standard range, not HDR"
VIDEO_LOST = "the video of this motion photo is left out"
DEPTH_LOST = "its depth map is left out"
MATTES_LOST = "its portrait mattes are left out"
CREDENTIALS_LOST = "its content credentials (C2PA) do not fit the retouch and are left out"

CREDENTIALS_TAG = 0xCD41
"""Of a TIFF or a RAW file built like one, where it holds content credentials (C2PA 2.1, A.3.4)."""

_PICTURES_MARK, _PICTURES_TAG = b"MPF\0", 0xB002  # CIPA DC-007, 5.2.3
_KIND, _THUMBNAIL, _GAIN_MAP = 0xFFFFFF, 0x01, 0x05  # of its entries; the kind's first byte
_ISO_GAIN_MAP = b"urn:iso:std:iso:ts:21496:-1"  # ISO 21496-1
_GAIN_MAPS = (b"http://ns.adobe.com/hdr-gain-map/", b"photo:2020:aux:hdrgainmap")  # in its XMP
_VIDEO_MARK = b"MotionPhoto_Data"  # Samsung's, before the video
_VIDEO_BRANDS = (b"mp4", b"iso", b"qt ", b"avc", b"M4V", b"3gp", b"MSNV")  # how those of videos start


def left_of_jpeg(data: bytes, segments: Iterable[tuple[str, bytes]]) -> tuple[str, ...]:
    """What is left out of a JPEG with these segments, a sentence each."""
    segments = list(segments)
    notes = [CREDENTIALS_LOST] if any(name == "APP11" and b"jumb" in part[:64] for name, part in segments) else []
    further, gain_maps = _further_pictures(
        next((part for _, part in segments if part.startswith(_PICTURES_MARK)), b"")
    )
    behind = data[end_of_jpeg(data, 0) :]
    told = any(part.startswith(_ISO_GAIN_MAP) for _, part in segments) or any(mark in behind for mark in _GAIN_MAPS)
    if told and not gain_maps:
        further, gain_maps = max(further - 1, 0), 1
    if gain_maps:
        notes.append(GAIN_MAP_LOST)
    if _holds_a_video(behind):
        notes.append(VIDEO_LOST)
    return (*notes, *_pictures_lost(further))


def _holds_a_video(data: bytes) -> bool:
    at = data.find(b"ftyp")
    while at >= 0:
        if data.startswith(_VIDEO_BRANDS, at + 4):
            return True
        at = data.find(b"ftyp", at + 4)
    return _VIDEO_MARK in data


def _further_pictures(block: bytes) -> tuple[int, int]:
    """How many pictures a file holds behind its first, thumbnails not counted: of any kind, and gain maps."""
    try:
        reader = TagReader(io.BytesIO(block.removeprefix(_PICTURES_MARK)))
        entries = reader.directory(reader.first, {}).tags[_PICTURES_TAG].data
        numbers = struct.unpack(f"{reader.order}{len(entries) // 4}I", entries[: len(entries) // 4 * 4])
    except (KeyError, ValueError):
        return 0, 0
    kinds = [(number & _KIND) >> 16 for number in numbers[4::4]]  # an entry is 16 bytes, the first is the main picture
    gain_maps = kinds.count(_GAIN_MAP)
    return len(kinds) - kinds.count(_THUMBNAIL) - gain_maps, gain_maps


def left_of_heic(data: bytes, info: dict[str, Any], pictures: int) -> tuple[str, ...]:
    """What is left out of a HEIC with so many pictures, of which the main one has this `info` by pillow-heif."""
    kinds = " ".join(map(str, info.get("aux") or {}))
    notes = [CREDENTIALS_LOST] if has_credentials(data) else []
    notes += [GAIN_MAP_LOST] if "hdrgainmap" in kinds or b"tmap" in brands(data) else []
    if info.get("depth_images") or "depth" in kinds:
        notes.append(DEPTH_LOST)
    if "matte" in kinds:
        notes.append(MATTES_LOST)
    if any(kind == b"mpvd" for kind, *_ in boxes(data)):
        notes.append(VIDEO_LOST)
    return (*notes, *_pictures_lost(pictures - 1))


def left_of_avif(data: bytes) -> tuple[str, ...]:
    """What is left out of an AVIF."""
    notes = [CREDENTIALS_LOST] if has_credentials(data) else []
    return (*notes, GAIN_MAP_LOST) if b"tmap" in brands(data) else tuple(notes)


def _pictures_lost(count: int) -> tuple[str, ...]:
    if count < 1:
        return ()
    return (f"{count} further pictures of its file are left out" if count > 1 else "a second picture is left out",)
