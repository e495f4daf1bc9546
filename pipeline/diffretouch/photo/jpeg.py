"""JPEG files: 8 bits, grey, RGB and CMYK.

Pillow reads the header; the pixels go straight between libjpeg-turbo and NumPy, which takes a quarter of the time that
Pillow's pictures of four bytes a pixel take to read, and half to write.
"""

from __future__ import annotations

import hashlib
import re
import struct
from typing import BinaryIO

import imagecodecs
import numpy as np
import simplejpeg
from PIL.JpegImagePlugin import JpegImageFile

from .companions import left_of_jpeg
from .core import (
    DEFAULT_QUALITY,
    MAX_METADATA,
    Decoded,
    Encoding,
    Refused,
    check_size,
    eight_bit,
    in_bands,
    sane_dpi,
    without_exif_mark,
)
from .exif import exif_resolution, shortened
from .iptc import PHOTOSHOP_MARK, photoshop_block, records_in_photoshop
from .photo import Photo, check_sides, own_encoding, stored_samples
from .xmp import Packet

_EXIF_MARK, _XMP_MARK, _ICC_MARK = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_EXTENSION_MARK, _EXTENSION_PART = b"http://ns.adobe.com/xmp/extension/\0", 65_000
_EXTENDED = re.compile(rb"HasExtendedXMP[^<>]*?(?:=\s*[\"']|>\s*)([0-9A-Fa-f]{32})")
_MOST_SCANS = 500  # progressive files have about ten; every one goes over the whole picture
_DAMAGE = ("Corrupt JPEG data", "Premature end")  # how libjpeg's warnings of lost pixels start
_HARMLESS = "bad ICC marker"
_MOST_STRAY_BYTES = 64  # some cameras fill up a little; more of them are pixels that found no place
_LONGEST_SEGMENT = 65_533  # its length takes two bytes and counts them


class _Header(JpegImageFile):
    """Without the resolution in EXIF, which Pillow reads with warnings on the terminal where it is damaged."""

    def _read_dpi_from_exif(self) -> None:
        pass


def _header(file: BinaryIO) -> JpegImageFile:
    # The plugin's own class: `Image.open` would apply its own size limits and give multi-picture files other classes.
    try:
        return _Header(file)
    except SyntaxError as error:
        if bits := re.search(r"(\d+)-bit layers", str(error)):
            raise Refused(f"its samples have {bits[1]} bits, and JPEG of 8 bits alone can be opened") from None
        raise


def read_jpeg(file: BinaryIO, max_pixels: int) -> Decoded:
    """The first picture of a JPEG file."""
    picture = _header(file)
    check_size(picture.width, picture.height, max_pixels)
    info = picture.info
    space = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}[picture.mode]
    file.seek(0)
    data = file.read()
    if data.count(b"\xff\xda") > _MOST_SCANS:
        raise Refused(f"its picture is stored in more than {_MOST_SCANS} passes")
    samples, damage = _samples(data, space)
    if space == "CMYK":
        file.seek(0)
        samples = np.asarray(JpegImageFile(file))  # turned the right way up, which Adobe's inks are not
    segments = [(name, content) for name, content in picture.applist if isinstance(content, bytes)]
    exif = without_exif_mark(info.get("exif"))
    photoshop = b"".join(part.removeprefix(PHOTOSHOP_MARK) for _, part in segments if part.startswith(PHOTOSHOP_MARK))
    return Decoded(
        samples,
        space,
        icc_profile=info.get("icc_profile"),
        exif=exif,
        xmp=_with_extension(info.get("xmp"), [part for _, part in segments if part.startswith(_EXTENSION_MARK)]),
        dpi=sane_dpi(*map(float, info["dpi"])) if "dpi" in info else exif_resolution(exif),
        damage=damage,
        notes=left_of_jpeg(data, segments),
        iptc=records_in_photoshop(photoshop),
        encoding=_encoding(picture, len(data)),
    )


def _with_extension(packet: bytes | None, parts: list[bytes]) -> bytes | None:
    """A packet together with what its extension segments hold (XMP 3, 1.1.3.1)."""
    digest = _EXTENDED.search(packet or b"")
    if packet is None or digest is None or not parts:
        return packet
    start = len(_EXTENSION_MARK)
    found: dict[int, bytes] = {}
    for part in parts:
        if part[start : start + 32].upper() == digest[1].upper() and len(part) >= start + 40:
            found[struct.unpack_from(">I", part, start + 36)[0]] = part[start + 40 :]
    extension = b"".join(found[at] for at in sorted(found))
    if not extension or len(extension) > MAX_METADATA:
        return packet
    try:
        whole = Packet(packet)
        whole.merge(Packet(extension))
    except ValueError:
        return packet
    whole.drop_names("xmpNote:HasExtendedXMP")
    return bytes(whole)


def _encoding(picture: JpegImageFile, length: int) -> Encoding:
    """Quality by the table of brightness, as libjpeg would have scaled it, and subsampling by the first component."""
    quality = None
    table = picture.quantization.get(0)
    if table is not None and len(table) == 64:
        scale = 100 * sum(table) / sum(_STANDARD_TABLE)
        quality = round((200 - scale) / 2 if scale <= 100 else 5000 / scale)
        quality = min(max(quality, 1), 100)
    subsampling = None
    if len(picture.layer) == 3:
        across, down = picture.layer[0][1], picture.layer[0][2]
        subsampling = {(1, 1): "444", (2, 1): "422", (2, 2): "420"}.get((across, down))
    return Encoding(quality, subsampling, 8, False, length / (picture.width * picture.height))


# ITU-T T.81, table K.1
_STANDARD_TABLE: tuple[int, ...] = (
    16,
    11,
    10,
    16,
    24,
    40,
    51,
    61,
    12,
    12,
    14,
    19,
    26,
    58,
    60,
    55,
    14,
    13,
    16,
    24,
    40,
    57,
    69,
    56,
)
_STANDARD_TABLE += (14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92)
_STANDARD_TABLE += (49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)


def _samples(data: bytes, space: str) -> tuple[np.ndarray, str | None]:
    """`(H, W)` or `(H, W, channels)` uint8, and what libjpeg filled up, of which it only warns."""
    wanted = {"GRAY": "GRAY", "RGB ": "RGB", "CMYK": "CMYK"}[space]

    def decoded(strict: bool) -> np.ndarray:
        samples = simplejpeg.decode_jpeg(data, wanted, fastdct=False, fastupsample=False, strict=strict)
        return samples[..., 0] if space == "GRAY" else samples

    try:
        return decoded(strict=True), None
    except ValueError as error:
        warning = str(error)
    try:
        samples = decoded(strict=False)
    except ValueError:  # it goes past doubtful pixels, but not past a doubtful header
        samples = imagecodecs.jpeg8_decode(data)
    stray = re.search(r"(\d+) extraneous bytes before marker", warning)
    harmless = _HARMLESS in warning or (stray and int(stray[1]) <= _MOST_STRAY_BYTES)
    if harmless or not warning.startswith(_DAMAGE):
        return samples, None
    return samples, "a part of its picture is missing or wrong"


def write_jpeg(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write `photo` in 8 bits, laid on white where it is transparent; what does not fit is said."""
    check_sides(photo, 65_500, "JPEG")
    samples, profile = stored_samples(photo)
    samples = eight_bit(samples)
    if photo.alpha is not None:
        samples = _on_white(samples, eight_bit(photo.alpha))
    own = own_encoding(photo, "JPEG")
    subsampling = (own.subsampling if quality is None else None) or None
    quality = quality or own.quality or DEFAULT_QUALITY
    subsampling = subsampling or ("444" if quality >= 90 else "420")
    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(samples), quality, subsampling=subsampling)
    notes: list[str] = []
    file.write(encoded[:2])  # the start, after which metadata has its place
    file.write(_segment(0xE0, b"JFIF\0\1\1" + _density(photo) + bytes(2)))
    if photo.exif:
        exif, note = shortened(photo.exif, _LONGEST_SEGMENT - len(_EXIF_MARK))
        notes += [note] if note else []
        file.write(_segment(0xE1, _EXIF_MARK + exif) if exif else b"")
    if photo.xmp:
        file.write(_xmp_segments(photo.xmp, notes))
    if photo.iptc:
        block = PHOTOSHOP_MARK + photoshop_block(photo.iptc)
        if len(block) <= _LONGEST_SEGMENT:
            file.write(_segment(0xED, block))
        else:
            notes.append(f"IPTC of {len(photo.iptc):,} bytes is left out: JPEG holds at most 64 kB of it")
    for part in _profile_parts(profile or b""):
        file.write(_segment(0xE2, part))
    own_header = 4 + struct.unpack_from(">H", encoded, 4)[0]  # libjpeg's own JFIF segment, written above
    file.write(memoryview(encoded)[own_header:])
    return notes


def _xmp_segments(xmp: bytes, notes: list[str]) -> bytes:
    """The packet, its largest properties in extension segments where it is too long for one (XMP 3, 1.1.3.1)."""
    longest = _LONGEST_SEGMENT - len(_XMP_MARK)
    if len(xmp) <= longest:
        return _segment(0xE1, _XMP_MARK + xmp)
    try:
        main = Packet(xmp)
        extension = main.split(longest - 200)
        if extension is None or len(bytes(main)) > longest - 200:
            raise ValueError
    except ValueError:
        notes.append(f"XMP of {len(xmp):,} bytes is left out: a JPEG holds at most 64 kB in one piece")
        return b""
    behind = bytes(extension)
    behind = behind[behind.index(b"<x:xmpmeta") : behind.rindex(b"<?xpacket")]
    digest = hashlib.md5(behind, usedforsecurity=False).hexdigest().upper()
    main.put("xmpNote:HasExtendedXMP", digest)
    segments = _segment(0xE1, _XMP_MARK + bytes(main))
    for at in range(0, len(behind), _EXTENSION_PART):
        head = _EXTENSION_MARK + digest.encode() + struct.pack(">II", len(behind), at)
        segments += _segment(0xE1, head + behind[at : at + _EXTENSION_PART])
    return segments


def _density(photo: Photo) -> bytes:
    if photo.dpi is None or max(photo.dpi) >= 65_535.5:
        return struct.pack(">BHH", 0, 1, 1)  # square pixels of no known size
    return struct.pack(">BHH", 1, *(round(value) for value in photo.dpi))


def _segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def _profile_parts(profile: bytes) -> list[bytes]:
    """A profile as the numbered parts it is stored in (ICC.1:2010, B.4); none if it needs more than 255."""
    longest = _LONGEST_SEGMENT - len(_ICC_MARK) - 2
    parts = [profile[at : at + longest] for at in range(0, len(profile), longest)]
    if len(parts) > 255:
        return []
    return [_ICC_MARK + bytes([index, len(parts)]) + part for index, part in enumerate(parts, start=1)]


def _on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """8-bit pixels laid on white, blended in the stored values as picture viewers do."""

    def blend(top: int, bottom: int) -> np.ndarray:
        weight = alpha[top:bottom, :, None].astype(np.uint32)
        return (pixels[top:bottom] * weight + 255 * (255 - weight) + 127) // 255

    return in_bands(blend, pixels.shape, np.uint8)
