"""PNG files, in 8 and 16 bits: Pillow would give 16-bit RGB as 8 bit."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

import imagecodecs

from .colour import profile_of_chromaticities, profile_of_code_points
from .companions import CREDENTIALS_LOST
from .core import (
    MAX_METADATA,
    Decoded,
    Encoding,
    Refused,
    check_frames,
    check_size,
    sane_dpi,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .iptc import PHOTOSHOP_MARK, records_in_photoshop
from .photo import Photo, stored_samples

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_LENGTH = 33  # signature and IHDR chunk, which is always first
_XMP_KEYWORD = b"XML:com.adobe.xmp"
_METRES_PER_INCH = 0.0254
_DESCRIBING = (b"acTL", b"caBX", b"cHRM", b"cICP", b"eXIf", b"gAMA", b"iCCP", b"pHYs", b"sRGB")
_MOST_TEXTS = 1000
_RAW_PROFILE = "Raw profile type "
_PROFILE_NAMES = {"exif": "exif", "app1": "exif", "xmp": "xmp", "iptc": "iptc", "8bim": "iptc"}
_XMP_MARK = b"http://ns.adobe.com/xap/1.0/\0"


def read_png(file: BinaryIO, max_pixels: int) -> Decoded:
    picture, chunks = _png_parts(file.read())
    if not picture.startswith(b"IHDR", 12):
        raise Refused("it does not start with its header")
    width, height = struct.unpack_from(">II", picture, 16)
    check_size(width, height, max_pixels)
    if b"acTL" in chunks.by_kind:
        check_frames(struct.unpack_from(">I", chunks.by_kind[b"acTL"])[0], "frames")
    samples, alpha = split_alpha(imagecodecs.png_decode(picture))  # Pillow would give 16-bit RGB as 8 bit
    texts, profiles = _png_texts(chunks.texts)
    return Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=_png_colours(chunks.by_kind),
        exif=without_exif_mark(chunks.by_kind.get(b"eXIf")) or without_exif_mark(profiles.get("exif")),
        xmp=_png_xmp(chunks.by_kind.get(_XMP_KEYWORD)) or profiles.get("xmp"),
        dpi=_png_dpi(chunks.by_kind.get(b"pHYs")),
        notes=(CREDENTIALS_LOST,) if b"caBX" in chunks.by_kind else (),
        iptc=_png_iptc(profiles.get("iptc")),
        texts=texts,
        encoding=Encoding(bits=samples.dtype.itemsize * 8, lossless=True),
    )


class _Chunks(NamedTuple):
    by_kind: dict[bytes, bytes]
    texts: list[tuple[bytes, bytes]]  # kind and content


def _png_parts(data: bytes) -> tuple[bytes, _Chunks]:
    """The chunks that make up the pixels, as a file, and the content of those that describe them, XMP by its keyword.

    They are parted because the decoder prints its opinion of doubtful profiles and the like on the terminal.
    """
    picture, chunks = [PNG_SIGNATURE], _Chunks({}, [])
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + length + 12
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            picture.append(data[at:end])
        elif kind in _DESCRIBING:
            chunks.by_kind[kind] = data[at + 8 : end - 4]
        elif kind == b"iTXt" and data.startswith(_XMP_KEYWORD + b"\0", at + 8):
            chunks.by_kind[_XMP_KEYWORD] = data[at + 8 : end - 4]
        elif kind in (b"tEXt", b"zTXt", b"iTXt") and len(chunks.texts) < _MOST_TEXTS:
            chunks.texts.append((kind, data[at + 8 : end - 4]))
        at = end
    return b"".join(picture), chunks


def _png_colours(chunks: dict[bytes, bytes]) -> bytes | None:
    """The profile of a file's colours, by the chunk that goes first: cICP, iCCP, sRGB, then cHRM and gAMA.

    Refused: HDR curves (PNG, third edition, 4.3 and 11.3.2).
    """
    told = chunks.get(b"cICP", b"")
    if len(told) == 4:
        return profile_of_code_points(told[0], told[1])
    if b"iCCP" in chunks:
        return _png_icc_profile(chunks[b"iCCP"])
    if b"sRGB" in chunks:
        return None
    gamma = chunks.get(b"gAMA", b"")
    exponent = 100_000 / struct.unpack(">I", gamma)[0] if len(gamma) == 4 and any(gamma) else None
    if exponent is not None and not 0.2 <= exponent <= 10:
        exponent = None
    points = chunks.get(b"cHRM", b"")
    whole = tuple(value / 100_000 for value in struct.unpack(">8I", points)) if len(points) == 32 else None
    return profile_of_chromaticities(whole, exponent)


def _png_texts(chunks: list[tuple[bytes, bytes]]) -> tuple[tuple[tuple[str, str], ...], dict[str, bytes]]:
    """Keywords and texts, and metadata of other formats that ImageMagick and exiv2 write as text: exif, xmp, iptc."""
    texts: list[tuple[str, str]] = []
    profiles: dict[str, bytes] = {}
    for kind, content in chunks:
        keyword, _, rest = content.partition(b"\0")
        text: bytes | None = rest
        if kind == b"zTXt":
            text = _inflated(rest[1:])
        elif kind == b"iTXt":
            text = rest[2:].split(b"\0", 2)[-1]
            text = _inflated(text) if rest[:1] == b"\1" else text
        if text is None:
            continue
        name = keyword.decode("latin-1")
        if name.startswith(_RAW_PROFILE):
            profile = _raw_profile(text)
            meant = _PROFILE_NAMES.get(name.removeprefix(_RAW_PROFILE).strip().lower())
            if meant == "exif" and profile and profile.startswith(_XMP_MARK):
                meant, profile = "xmp", profile.removeprefix(_XMP_MARK)
            if meant and profile:
                profiles.setdefault(meant, profile)
        else:
            texts.append((name, text.decode("utf-8" if kind == b"iTXt" else "latin-1", "replace")))
    return tuple(texts), profiles


def _raw_profile(text: bytes) -> bytes | None:
    """What stands as hexadecimal text behind a line with a name and one with a length."""
    try:
        _, _, length, digits = text.split(b"\n", 3)
        content = bytes.fromhex(digits.decode("ascii"))
    except (ValueError, UnicodeDecodeError):
        return None
    return content if length.strip().isdigit() and len(content) == int(length) else None


def _png_iptc(profile: bytes | None) -> bytes | None:
    if profile is None:
        return None
    return profile if profile.startswith(b"\x1c") else records_in_photoshop(profile.removeprefix(PHOTOSHOP_MARK))


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


def write_png(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write all of `photo`, whatever the quality."""
    samples, profile = stored_samples(photo)
    # Difference to the left neighbour and run lengths: three times faster than the usual search, and photos come out
    # as small, because noise leaves no longer repeats to find.
    encoded = imagecodecs.png_encode(
        with_alpha(samples, photo.alpha),
        imagecodecs.PNG.COMPRESSION.SPEED,
        strategy=imagecodecs.PNG.STRATEGY.RLE,
        filter=imagecodecs.PNG.FILTER.SUB,
    )
    file.write(encoded[:_PNG_HEADER_LENGTH])
    if profile:
        file.write(_png_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile)))
    if photo.dpi:
        per_metre = [round(value / _METRES_PER_INCH) for value in photo.dpi]
        file.write(_png_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if photo.exif:
        file.write(_png_chunk(b"eXIf", photo.exif))
    if photo.xmp:
        file.write(_png_chunk(b"iTXt", _XMP_KEYWORD + bytes(5) + photo.xmp))
    for keyword, text in photo.texts:
        file.write(_png_chunk(b"iTXt", keyword.encode("latin-1", "replace") + bytes(5) + text.encode()))
    file.write(memoryview(encoded)[_PNG_HEADER_LENGTH:])
    return []


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
