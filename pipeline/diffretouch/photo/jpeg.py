"""JPEG files: 8 bits, grey, RGB and CMYK.

Pillow reads the header; the pixels go straight between libjpeg-turbo and NumPy, which takes a quarter of the time that
Pillow's pictures of four bytes a pixel take to read, and half to write.
"""

from __future__ import annotations

import struct
import warnings
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from .core import Decoded, Refused, check_size, eight_bit, in_bands, sane_dpi, without_exif_mark
from .photo import Photo, check_sides

_EXIF_MARK, _XMP_MARK, _ICC_MARK = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0"
_LONGEST_SEGMENT = 65_533  # its length takes two bytes and counts them


def read_jpeg(file: BinaryIO, max_pixels: int) -> Decoded:
    """The first picture of a JPEG file."""
    # The plugin's own class: `Image.open` would apply its own size limits and give multi-picture files other classes.
    picture = JpegImageFile(file)
    check_size(picture.width, picture.height, max_pixels)
    info = picture.info
    space = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}[picture.mode]
    if space == "CMYK":
        samples = np.asarray(picture)  # turned the right way up, which Adobe's inks are not
    else:
        scan = file.tell()  # Pillow reads no further than to the start of the pixels
        file.seek(0)
        data = file.read()
        if data.find(b"\xff\xd9", scan) < 0:  # libjpeg would fill up with grey
            raise Refused("it is cut short")
        samples = imagecodecs.jpeg8_decode(data)
    return Decoded(
        samples,
        space,
        icc_profile=info.get("icc_profile"),
        exif=without_exif_mark(info.get("exif")),
        xmp=info.get("xmp"),
        dpi=sane_dpi(*map(float, info["dpi"])) if "dpi" in info else None,
    )


def write_jpeg(photo: Photo, file: BinaryIO, quality: int) -> None:
    """Write `photo` in 8 bits, laid on white where it is transparent."""
    check_sides(photo, 65_500, "JPEG")
    pixels = eight_bit(photo.pixels)
    if photo.alpha is not None:
        pixels = _on_white(pixels, eight_bit(photo.alpha))
    subsampling = "444" if quality >= 90 else "420"
    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), quality, subsampling=subsampling)
    file.write(encoded[:2])  # the start, after which metadata has its place
    file.write(_segment(0xE0, b"JFIF\0\1\1" + _density(photo) + bytes(2)))
    if photo.exif:
        file.write(_fitting("EXIF", 0xE1, _EXIF_MARK + photo.exif))
    if photo.xmp:
        file.write(_fitting("XMP", 0xE1, _XMP_MARK + photo.xmp))
    for part in _profile_parts(photo.icc_profile or b""):
        file.write(_segment(0xE2, part))
    own_header = 4 + struct.unpack_from(">H", encoded, 4)[0]  # libjpeg's own JFIF segment, written above
    file.write(memoryview(encoded)[own_header:])


def _density(photo: Photo) -> bytes:
    if photo.dpi is None or max(photo.dpi) >= 65_535.5:
        return struct.pack(">BHH", 0, 1, 1)  # square pixels of no known size
    return struct.pack(">BHH", 1, *(round(value) for value in photo.dpi))


def _segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def _fitting(kind: str, code: int, content: bytes) -> bytes:
    if len(content) <= _LONGEST_SEGMENT:
        return _segment(code, content)
    longest = f"{_LONGEST_SEGMENT:,}"
    warnings.warn(f"{kind} of {len(content):,} bytes is left out: a JPEG holds at most {longest}", stacklevel=5)
    return b""


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
