"""Which reader decodes a file: its first bytes say so, never its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from .avif import read_avif
from .core import Decoded, Refused
from .heic import read_heic
from .jpeg import read_jpeg
from .jxl import read_jxl
from .png import PNG_SIGNATURE, read_png
from .raw import RAW_SIGNATURES, is_tiff_raw, read_raw
from .tiff import read_tiff
from .webp import read_webp


def reader_of_kind(kind: str) -> Callable[[BinaryIO, int], Decoded]:
    """What decodes files of a `Photo.format`."""
    return _READERS[kind]


_READERS: dict[str, Callable[[BinaryIO, int], Decoded]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WEBP": read_webp,
    "AVIF": read_avif,
    "HEIC": read_heic,
    "JXL": read_jxl,
    "RAW": read_raw,
    "TIFF": read_tiff,
}


def kind_of(file: BinaryIO) -> str:
    """What `Photo.format` a file is of. Refused: of none that can be opened, by its name."""
    start = file.read(64)
    if not start:
        raise Refused("it is empty")
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start.startswith(PNG_SIGNATURE):
        return "PNG"
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return "WEBP"
    if start.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):  # bare, or in a container
        return "JXL"
    brands = _brands(start)
    if b"avif" in brands:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        return "HEIC"
    if any(start.startswith(signature, at) for signature, at in RAW_SIGNATURES) or is_tiff_raw(file):
        return "RAW"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    for signature, at, other in _OTHER_KINDS:
        if start.startswith(signature, at):
            raise Refused(f"it is a {other} file; {_KINDS} can be opened")
    raise Refused(f"it is not a photo file; {_KINDS} can be opened")


_KINDS = "JPEG, PNG, WebP, TIFF, HEIC, AVIF, JPEG XL and camera RAW"
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"}
_OTHER_KINDS = (
    (b"GIF8", 0, "GIF"),
    (b"BM", 0, "BMP"),
    (b"8BPS", 0, "Photoshop"),
    (b"ftyp", 4, "video"),
)


def _brands(start: bytes) -> set[bytes]:
    """What a file of the ISO media kind says it is (ISO/IEC 14496-12, 4.3): its main and its compatible brands."""
    if start[4:8] != b"ftyp":
        return set()
    length = int.from_bytes(start[:4], "big")
    return {start[8:12], *(start[at : at + 4] for at in range(16, min(length, len(start)), 4))}
