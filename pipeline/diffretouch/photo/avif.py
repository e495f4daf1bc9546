"""AVIF files of 8, 10 or 12 bits: metadata is read by Pillow, pixels go through imagecodecs, as Pillow rounds to 8."""

from __future__ import annotations

import os
import struct
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL.AvifImagePlugin import AvifImageFile

from .boxes import property_of_picture, with_metadata
from .colour import profile_of_code_points
from .companions import left_of_avif
from .core import (
    Decoded,
    Encoding,
    Refused,
    check_frames,
    check_size,
    full_range,
    rounded_to,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .photo import Photo, check_sides, encoded_as_before, own_encoding, stored_samples

_HEADER_BYTES = 1 << 16  # the boxes that describe the picture stand at the start, in a few hundred bytes
_SAVED_BITS = 10  # where the photo was no AVIF of 12, which few devices show
_SPEED = 6  # the encoder's own default; slower ones take minutes


def read_avif(file: BinaryIO, max_pixels: int) -> Decoded:
    """An AVIF file's picture; its turning boxes reach `Decoded.exif` as an orientation, by Pillow."""
    picture = AvifImageFile(file)
    check_size(picture.width, picture.height, max_pixels)
    check_frames(getattr(picture, "n_frames", 1), "frames")
    file.seek(0)
    data = file.read()
    encoding = _encoding(data[:_HEADER_BYTES])
    encoding = encoding._replace(bytes_per_pixel=len(data) / (picture.width * picture.height))
    stored = _clean(imagecodecs.avif_decode(data), property_of_picture(data, b"clap"))
    samples, alpha = split_alpha(full_range(stored, encoding.bits))
    info = picture.info
    return Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=info.get("icc_profile") or _profile_of_numbers(data[:_HEADER_BYTES]),
        exif=without_exif_mark(info.get("exif")),
        xmp=info.get("xmp"),
        encoding=encoding,
        notes=left_of_avif(data),
    )


def _encoding(header: bytes) -> Encoding:
    """Depth and subsampling, by the codec's box (AV1 in ISO media, 2.3.3)."""
    at = header.find(b"av1C")
    if at < 0 or at + 7 > len(header):
        raise Refused("it does not say how its picture is stored")
    flags = header[at + 6]  # after the levels: high bit depth, 12 bits, one channel, halved across, halved down
    bits = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
    subsampling = {0: "444", 8: "422", 12: "420"}.get(flags & 12)
    numbers = header.find(b"colrnclx")
    # without brightness parted from the colours, as is done for exactness alone
    exact = numbers >= 0 and header[numbers + 12 : numbers + 14] == b"\0\0" and subsampling == "444"
    return Encoding(subsampling=subsampling, bits=bits, lossless=exact)


def _clean(samples: np.ndarray, aperture: bytes | None) -> np.ndarray:
    """The part of the stored picture that is to be seen (14496-12, 12.1.4.2); all of it where none is named."""
    if aperture is None or len(aperture) < 32:
        return samples
    numbers = struct.unpack_from(">IIIIiIiI", aperture)
    if 0 in numbers[1::2]:
        return samples
    width, height, right, down = (above / below for above, below in zip(numbers[::2], numbers[1::2], strict=True))
    left, top = (samples.shape[1] - width) / 2 + right, (samples.shape[0] - height) / 2 + down
    seen = samples[max(round(top), 0) : round(top + height), max(round(left), 0) : round(left + width)]
    return seen if seen.size else samples


def _profile_of_numbers(header: bytes) -> bytes | None:
    at = header.find(b"colrnclx")
    if at < 0 or at + 12 > len(header):
        return None
    return profile_of_code_points(*struct.unpack_from(">HH", header, at + 8))


def write_avif(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write `photo` in 8 bits, or in 10 if it has more, or in 12 if it was AVIF of 12; at quality 100 exactly these.

    Without a quality, a photo that was AVIF keeps its subsampling and about its size, or stays exact.
    """
    check_sides(photo, 65_535, "AVIF")
    own = own_encoding(photo, "AVIF")
    subsampling = own.subsampling if quality is None else None
    colour, profile = stored_samples(photo)
    samples = with_alpha(colour, photo.alpha)
    bits = 8 if samples.dtype == np.uint8 else max(_SAVED_BITS, own.bits)
    samples = rounded_to(samples, bits) if bits > 8 else samples

    def encode(tried: int) -> bytes:
        chosen = "400" if samples.ndim == 2 else subsampling or ("444" if tried >= 90 else "420")
        return bytes(
            imagecodecs.avif_encode(
                samples,
                tried,
                speed=_SPEED,
                bitspersample=bits,
                pixelformat=f"yuv{chosen}",  # as every imagecodecs calls it; the newest knows no bare numbers
                matrix=0 if tried == 100 and samples.ndim == 3 else None,  # the colours as they are, for exactness
                numthreads=os.cpu_count(),
            )
        )

    encoded = encoded_as_before(photo, own, quality, encode)
    file.write(with_metadata(encoded, profile, photo.exif, photo.xmp))
    return []
