"""AVIF files: metadata by Pillow, pixels of 8, 10 or 12 bits by imagecodecs, which Pillow would round to 8."""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from PIL import Image
from PIL.AvifImagePlugin import AvifImageFile

from .colour import profile_of_code_points
from .core import (
    DEFAULT_QUALITY,
    Decoded,
    Encoding,
    Refused,
    check_frames,
    check_size,
    eight_bit,
    full_range,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .photo import Photo, check_sides

_EIGHT_BITS = "AVIF is written with 8 bits, fewer than the photo has; HEIC, TIFF and PNG keep more"
_HEADER_BYTES = 1 << 16  # the boxes that describe the picture stand at the start, in a few hundred bytes


def read_avif(file: BinaryIO, max_pixels: int) -> Decoded:
    """An AVIF file's picture; its turning boxes reach `Decoded.exif` as an orientation, by Pillow."""
    picture = AvifImageFile(file)
    check_size(picture.width, picture.height, max_pixels)
    check_frames(getattr(picture, "n_frames", 1), "frames")
    file.seek(0)
    data = file.read()
    header = data[:_HEADER_BYTES]
    stored = imagecodecs.avif_decode(data)
    samples, alpha = split_alpha(full_range(stored, _bits(header)))
    info = picture.info
    return Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=info.get("icc_profile") or _profile_of_numbers(header),
        exif=without_exif_mark(info.get("exif")),
        xmp=info.get("xmp"),
        encoding=Encoding(bits=_bits(header)),
    )


def _bits(header: bytes) -> int:
    """Bits per sample, by the codec's box (AV1 in ISO media, 2.3.3: after the levels, high bit depth and 12 bits)."""
    at = header.find(b"av1C")
    if at < 0 or at + 7 > len(header):
        raise Refused("it does not say how its picture is stored")
    flags = header[at + 6]
    if not flags & 0x40:
        return 8
    return 12 if flags & 0x20 else 10


def _profile_of_numbers(header: bytes) -> bytes | None:
    at = header.find(b"colrnclx")
    if at < 0 or at + 12 > len(header):
        return None
    return profile_of_code_points(*struct.unpack_from(">HH", header, at + 8))


def write_avif(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write `photo` in 8 bits; close to its pixels at high quality, never exactly."""
    check_sides(photo, 65_535, "AVIF")
    alpha = None if photo.alpha is None else eight_bit(photo.alpha)
    options: dict[str, Any] = {"icc_profile": photo.icc_profile, "exif": photo.exif, "xmp": photo.xmp}
    options = {name: value for name, value in options.items() if value}
    quality = quality or DEFAULT_QUALITY
    options |= {"quality": quality, "subsampling": "4:4:4" if quality >= 90 else "4:2:0"}
    encoded = io.BytesIO()
    Image.fromarray(with_alpha(eight_bit(photo.pixels), alpha)).save(encoded, "AVIF", **options)
    file.write(encoded.getbuffer())
    return [_EIGHT_BITS] if photo.pixels.dtype != np.uint8 else []
