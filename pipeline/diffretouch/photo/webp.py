"""WebP files: 8 bits, with alpha, lossless at quality 100."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

import imagecodecs
from PIL import Image

from .companions import CREDENTIALS_LOST
from .core import (
    Decoded,
    Encoding,
    Refused,
    check_frames,
    check_size,
    eight_bit,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .photo import Photo, check_sides, encoded_as_before, own_encoding


def read_webp(file: BinaryIO, max_pixels: int) -> Decoded:
    check_size(*_webp_size(file.read(32)), max_pixels)
    file.seek(0)
    data = file.read()
    chunks = list(_webp_chunks(data))
    check_frames(sum(kind == b"ANMF" for kind, _ in chunks), "frames")
    metadata = {kind: content for kind, content in chunks if content}
    samples, alpha = split_alpha(imagecodecs.webp_decode(data))
    return Decoded(
        samples,
        "RGB ",
        alpha,
        icc_profile=metadata.get(b"ICCP"),
        exif=without_exif_mark(metadata.get(b"EXIF")),
        xmp=metadata.get(b"XMP "),
        notes=(CREDENTIALS_LOST,) if any(kind == b"C2PA" for kind, _ in chunks) else (),
        encoding=Encoding(
            lossless=any(kind == b"VP8L" for kind, _ in chunks),
            bytes_per_pixel=len(data) / (samples.shape[0] * samples.shape[1]),
        ),
    )


def _webp_size(start: bytes) -> tuple[int, int]:
    """Width and height out of a WebP file's first 32 bytes, for each of the three kinds of first chunk."""
    kind = start[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(start[24:27], "little"), 1 + int.from_bytes(start[27:30], "little")
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", start, 21)[0]
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", start, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise Refused("it is a WebP file without a picture")


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name of every chunk, with its content if it holds metadata."""
    at = 12
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, at)
        wanted = kind in (b"ICCP", b"EXIF", b"XMP ")
        yield kind, data[at + 8 : at + 8 + length] if wanted else b""
        at += 8 + length + length % 2


def write_webp(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write `photo` in 8 bits; without a quality, exactly where its own file was, else about as large as that."""
    check_sides(photo, 16_383, "WebP")
    alpha = None if photo.alpha is None else eight_bit(photo.alpha)
    options: dict[str, Any] = {"icc_profile": photo.icc_profile, "exif": photo.exif, "xmp": photo.xmp}
    options = {name: value for name, value in options.items() if value}
    picture = Image.fromarray(with_alpha(eight_bit(photo.pixels), alpha))

    def encode(tried: int) -> bytes:
        encoded = io.BytesIO()
        how = {"lossless": True, "exact": True, "quality": 50} if tried == 100 else {"quality": tried}
        picture.save(encoded, "WEBP", **options, **how)
        return encoded.getvalue()

    file.write(encoded_as_before(photo, own_encoding(photo, "WEBP"), quality, encode))
    return []
