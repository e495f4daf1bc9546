"""JPEG XL files of up to 16 bits, through the optional package OpenImageIO; metadata are boxes around its picture.

OpenImageIO and not imagecodecs, which is there already: that neither reads nor writes colour profiles.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import imagecodecs
import numpy as np

from .boxes import boxes, with_boxes
from .colour import DISPLAY_P3, profile_of_code_points
from .companions import CREDENTIALS_LOST, GAIN_MAP_LOST
from .core import (
    MAX_METADATA,
    Decoded,
    Encoding,
    Refused,
    check_size,
    contiguous,
    divided_by_alpha,
    eight_bit,
    is_neutral,
    optional_module,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .jxl_header import MOST_BYTES, Header, read_header
from .photo import Photo, encoded_as_before, own_encoding, stored_samples

_CODESTREAM = b"\xff\x0a"
_PICTURE_KINDS = (b"jxlc", b"jxlp")  # whole, or in parts that start with their number
_KEPT_KINDS = (b"Exif", b"xml ", b"jumb")
_LEAST_BYTES = 128  # of files that OpenImageIO looks at
_MOST_BITS = 16
_LINEAR, _SRGB_CURVE, _PQ, _HLG = 8, 13, 16, 18
_P3_NUMBERS = (12, _SRGB_CURVE, 0, 1)
_EFFORT = 3  # of 9: half as large again in a tenth of the time of the encoder's own choice, where nothing is lost
_PROFILE_CHANGED = (
    "its colour profile of tables cannot be kept; the result is in sRGB, and colours beyond it are clipped"
)
_PROFILE_LOST = "its colour profile is damaged and left out"


def read_jxl(file: BinaryIO, max_pixels: int) -> Decoded:
    """A JPEG XL file's picture, turned upright by the decoder."""
    oiio = optional_module("OpenImageIO", "JPEG XL", "jxl")
    data = file.read()
    found = list(boxes(data)) if not data.startswith(_CODESTREAM) else []
    header = read_header(_start_of_codestream(data, found))
    check_size(header.width, header.height, max_pixels)
    _check_kind(header)
    stored, told = _decoded(oiio, file.name, data, "uint8" if header.bits <= 8 else "uint16")
    numbers = told.getattribute("CICP")
    changed = header.converted and header.has_profile and numbers is not None and numbers[1] == _LINEAR
    if changed:  # without a colour engine, the decoder knows no way to a profile of tables
        stored, numbers = _in_srgb(oiio, data, found, header), None
    profile = None if changed else _profile(numbers, told.getattribute("ICCProfile"))
    samples, alpha = split_alpha(stored[..., 0] if stored.shape[2] == 1 else stored)
    if alpha is not None and header.channels[0].premultiplied:
        samples = divided_by_alpha(samples, alpha)
    metadata = dict(_metadata(data, found[::-1]))  # the first of a kind counts
    kinds = {kind for kind, *_ in found}
    return Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=profile,
        exif=_exif(metadata.get(b"Exif", b"")),
        xmp=metadata.get(b"xml "),
        turned=True,
        notes=tuple(_left(changed, kinds, metadata)),
        encoding=Encoding(
            bits=header.bits,
            lossless=not header.converted and b"jbrd" not in kinds,
            bytes_per_pixel=len(data) / (header.width * header.height),
        ),
    )


def _decoded(oiio: Any, name: str | None, data: bytes, dtype: str) -> tuple[np.ndarray, Any]:
    """Samples `(H, W, channels)` of data that lie at `name`, or nowhere yet, and what the decoder says of them."""
    with tempfile.TemporaryDirectory(prefix="diffretouch-") as folder:
        if name is None or len(data) < _LEAST_BYTES:
            name = os.path.join(folder, "picture.jxl")
            with open(name, "wb") as padded:
                padding = bytes(_LEAST_BYTES)  # more than there has to be does no harm
                padded.write(
                    data + padding if data.startswith(_CODESTREAM) else with_boxes(data, [(b"free", padding)])
                )
        picture = oiio.ImageInput.open(name)
        if picture is None:
            raise Refused("it is damaged or cut short")
        return picture.read_image(dtype), picture.spec()


def _in_srgb(oiio: Any, data: bytes, found: list[tuple[bytes, int, int]], header: Header) -> np.ndarray:
    """Samples of a picture that the decoder gives as linear sRGB.

    Of 8 bits, the dark would have few levels. The codec's own colours have no depth, its header only says which one is
    wanted: so 12 bits are asked for, which the decoder fills up to 16.
    """
    start = next((at + (4 if kind == b"jxlp" else 0) for kind, at, _ in found if kind in _PICTURE_KINDS), 0)
    if header.depth_at is not None:
        byte, bit = divmod(header.depth_at + 1, 8)  # of two bits, 0 stands for 8 and 2 for 12
        wanted = bytes([data[start + byte] | 1 << bit])
        data = data[: start + byte] + wanted + data[start + byte + 1 :]
    stored, _ = _decoded(oiio, None, data, "uint16")
    light = np.arange(65_536) / 65_535
    curve = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    colours = stored.shape[2] - len(header.channels)
    stored[..., :colours] = np.round(curve * 65_535).astype(np.uint16)[stored[..., :colours]]
    return eight_bit(stored) if header.bits <= 8 else stored


def _start_of_codestream(data: bytes, found: list[tuple[bytes, int, int]]) -> bytes:
    if not found:
        return data[:MOST_BYTES]
    start = b""
    for kind, at, end in found:
        if kind in _PICTURE_KINDS and len(start) < MOST_BYTES:
            start += data[at + (4 if kind == b"jxlp" else 0) : min(end, at + MOST_BYTES)]
    return start


def _check_kind(header: Header) -> None:
    """Refuse animations, and samples and channels that no photo has."""
    if header.animated:
        raise Refused("it is an animation, and only single pictures can be opened")
    if header.is_float or header.bits > _MOST_BITS:
        kind = "floating-point numbers" if header.is_float else "numbers"
        allowed = f"whole numbers of 1 to {_MOST_BITS} bits"
        raise Refused(f"its samples are {kind} of {header.bits} bits, and only {allowed} can be opened")
    if len(header.channels) > 1 or any(not channel.is_alpha for channel in header.channels):
        raise Refused("it has channels beside its colours, and only grey or RGB with one alpha can be opened")


def _profile(numbers: tuple[int, ...] | None, profile: np.ndarray | None) -> bytes | None:
    """The colours' profile: by numbers where these say it all, else as the decoder gives it. Refused: HDR curves."""
    if numbers is not None and numbers[1] in (_SRGB_CURVE, _PQ, _HLG):
        return profile_of_code_points(numbers[0], numbers[1])
    return None if profile is None else np.asarray(profile, np.uint8).tobytes()


def _metadata(data: bytes, found: list[tuple[bytes, int, int]]) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of the boxes that describe the picture, compressed or not."""
    for kind, at, end in found:
        content = data[at:end]
        if kind == b"brob" and content[:4] in _KEPT_KINDS:
            with contextlib.suppress(imagecodecs.BrotliError):  # damaged, or larger than any real one
                yield content[:4], bytes(imagecodecs.brotli_decode(content[4:], out=MAX_METADATA))
        elif kind in _KEPT_KINDS:
            yield kind, content


def _exif(content: bytes) -> bytes | None:
    """The block behind the number that says how far it lies behind that."""
    return without_exif_mark(content[4 + int.from_bytes(content[:4], "big") :])


def _left(changed: bool, kinds: set[bytes], metadata: dict[bytes, bytes]) -> Iterator[str]:
    if changed:
        yield _PROFILE_CHANGED
    if b"jhgm" in kinds:
        yield GAIN_MAP_LOST
    if b"c2pa" in metadata.get(b"jumb", b""):
        yield CREDENTIALS_LOST


def write_jxl(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write all of `photo` but the resolution, at quality 100 exactly.

    Without a quality, a photo that was JPEG XL stays exact, or about as large as it was.
    """
    oiio = optional_module("OpenImageIO", "JPEG XL", "jxl")
    notes: list[str] = []

    def encode(tried: int) -> bytes:
        samples, profile = _samples(photo, tried < 100)
        encoded = _encoded(oiio, samples, profile, tried)
        if encoded is None and profile:
            encoded, notes[:] = _encoded(oiio, samples, None, tried), [_PROFILE_LOST]
        if encoded is None:
            raise ValueError("not to be encoded")
        return encoded

    encoded = encoded_as_before(photo, own_encoding(photo, "JXL"), quality, encode)
    further = [(b"Exif", bytes(4) + photo.exif)] if photo.exif else []
    further += [(b"xml ", photo.xmp)] if photo.xmp else []
    file.write(with_boxes(encoded, further))
    return notes


def _samples(photo: Photo, lossy: bool) -> tuple[np.ndarray, bytes | None]:
    """`(H, W, 1 | 3 | 4)` and their profile."""
    colour, profile = stored_samples(photo)
    if colour.ndim == 2 and profile:  # decoders know no way to most profiles of one channel
        colour, profile = contiguous(photo.pixels), photo.icc_profile
    elif colour.ndim == 3 and lossy and photo.alpha is None and profile is None and is_neutral(colour):
        colour = contiguous(colour[..., 0])  # else it would be a level off neutral here and there
    return with_alpha(colour if colour.ndim == 3 else colour[..., None], photo.alpha), profile


def _encoded(oiio: Any, samples: np.ndarray, profile: bytes | None, quality: int) -> bytes | None:
    """A container with the picture and nothing else; None if the encoder fails."""
    height, width, channels = samples.shape
    spec = oiio.ImageSpec(width, height, channels, str(samples.dtype))
    spec.attribute("compression", f"jpegxl:{quality}")  # 100 is exact
    spec.attribute("jpegxl:effort", _EFFORT)
    for kind in ("exif", "xmp"):  # its own would tell of nothing but the picture
        spec.attribute(f"jpegxl:{kind}_box", 0)
    if profile == DISPLAY_P3:
        spec.attribute("CICP", oiio.TypeDesc("int[4]"), _P3_NUMBERS)
    elif profile:
        spec.attribute("ICCProfile", oiio.TypeDesc(f"uint8[{len(profile)}]"), np.frombuffer(profile, np.uint8))
    with tempfile.TemporaryDirectory(prefix="diffretouch-") as folder:
        path = os.path.join(folder, "picture.jxl")
        output = oiio.ImageOutput.create("jpegxl")
        done = output.open(path, spec) and output.write_image(samples)
        if not (output.close() and done):
            return None
        with open(path, "rb") as written:
            return written.read()
