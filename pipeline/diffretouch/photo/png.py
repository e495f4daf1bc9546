"""PNG files, in 8 and 16 bits: Pillow would give 16-bit RGB as 8 bit."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import imagecodecs

from .core import (
    MAX_METADATA,
    Decoded,
    Refused,
    check_frames,
    check_size,
    sane_dpi,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .photo import Photo

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_LENGTH = 33  # signature and IHDR chunk, which is always first
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_METRES_PER_INCH = 0.0254


def read_png(file: BinaryIO, max_pixels: int) -> Decoded:
    picture, chunks = _png_parts(file.read())
    if not picture.startswith(b"IHDR", 12):
        raise Refused("it does not start with its header")
    width, height = struct.unpack_from(">II", picture, 16)
    check_size(width, height, max_pixels)
    if b"acTL" in chunks:
        check_frames(struct.unpack_from(">I", chunks[b"acTL"])[0], "frames")
    samples, alpha = split_alpha(imagecodecs.png_decode(picture))  # Pillow would give 16-bit RGB as 8 bit
    return Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=_png_icc_profile(chunks.get(b"iCCP")),
        exif=without_exif_mark(chunks.get(b"eXIf")),
        xmp=_png_xmp(chunks.get(_XMP_KEYWORD)),
        dpi=_png_dpi(chunks.get(b"pHYs")),
    )


def _png_parts(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The chunks that make up the pixels, as a file, and the content of those that describe them, XMP by its keyword.

    They are parted because the decoder prints its opinion of doubtful profiles and the like on the terminal.
    """
    picture, described = [PNG_SIGNATURE], {}
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length + 12
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            picture.append(data[at:end])
        elif kind in (b"acTL", b"iCCP", b"eXIf", b"pHYs"):
            described[kind] = data[at + 8 : end - 4]
        elif kind == b"iTXt" and data.startswith(_XMP_KEYWORD + b"\0", at + 8):
            described[_XMP_KEYWORD] = data[at + 8 : end - 4]
        at = end
    return b"".join(picture), described


def _png_icc_profile(chunk: bytes | None) -> bytes | None:
    if chunk is None:
        return None
    return _inflated(chunk.partition(b"\0")[2][1:])


def _png_xmp(chunk: bytes | None) -> bytes | None:
    if chunk is None:
        return None
    content = chunk[len(_XMP_KEYWORD) + 1 :]
    text = content[2:].split(b"\0", 2)[-1]
    return _inflated(text) if content[:1] == b"\1" else text


def _png_dpi(chunk: bytes | None) -> tuple[float, float] | None:
    if chunk is None or len(chunk) != 9 or chunk[8] != 1:
        return None
    horizontal, vertical = struct.unpack_from(">II", chunk)
    return sane_dpi(horizontal * _METRES_PER_INCH, vertical * _METRES_PER_INCH)


def _inflated(data: bytes) -> bytes | None:
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, MAX_METADATA)
    except zlib.error:
        return None
    return content if inflater.eof else None


def write_png(photo: Photo, file: BinaryIO, quality: int) -> None:
    # Difference to the left neighbour and run lengths: three times faster than the usual search, and photos come out
    # as small, because noise leaves no longer repeats to find.
    encoded = imagecodecs.png_encode(
        with_alpha(photo.pixels, photo.alpha),
        imagecodecs.PNG.COMPRESSION.SPEED,
        strategy=imagecodecs.PNG.STRATEGY.RLE,
        filter=imagecodecs.PNG.FILTER.SUB,
    )
    file.write(encoded[:_PNG_HEADER_LENGTH])
    if photo.icc_profile:
        file.write(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(photo.icc_profile)))
    if photo.dpi:
        per_metre = [round(value / _METRES_PER_INCH) for value in photo.dpi]
        file.write(_png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if photo.exif:
        file.write(_png_chunk(b"eXIf", photo.exif))
    if photo.xmp:
        file.write(_png_chunk(b"iTXt", _XMP_KEYWORD + bytes(5) + photo.xmp))
    file.write(memoryview(encoded)[_PNG_HEADER_LENGTH:])


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
