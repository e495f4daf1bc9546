"""HEIC files, as phones and some cameras write them, through the optional package pillow-heif."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from .colour import profile_of_code_points
from .core import (
    Decoded,
    check_size,
    divided_by_alpha,
    full_range,
    in_bands,
    optional_module,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .photo import Photo, check_sides

_SAVED_BITS = 10  # more than that plays on few devices


def read_heic(file: BinaryIO, max_pixels: int) -> Decoded:
    """The main picture of a HEIC file, 8, 10 or 12 bits, turned upright by the decoder as the file says."""
    heif = optional_module("pillow_heif", "HEIC")
    opened = heif.open_heif(file.read(), convert_hdr_to_8bit=False)
    picture = opened[opened.primary_index]
    width, height = picture.size
    check_size(width, height, max_pixels)
    info = picture.info
    profile = info.get("icc_profile") or _profile_of_numbers(info.get("nclx_profile"))
    bits = info["bit_depth"]
    stored = np.array(picture)  # decodes; 16-bit samples hold theirs in the upper bits
    samples, alpha = split_alpha(stored if bits == 8 else full_range(stored >> (16 - bits), bits))
    if alpha is not None and picture.premultiplied_alpha:
        samples = divided_by_alpha(samples, alpha)
    return Decoded(
        samples,
        "GRAY" if samples.ndim == 2 else "RGB ",
        alpha,
        icc_profile=profile,
        exif=without_exif_mark(info.get("exif")),
        xmp=info.get("xmp"),
        turned=True,
    )


def _profile_of_numbers(told: dict[str, Any] | None) -> bytes | None:
    if told is None:
        return None
    return profile_of_code_points(told["color_primaries"], told["transfer_characteristics"])


def write_heic(photo: Photo, file: BinaryIO, quality: int) -> None:
    """Write `photo` in 8 bits, or in 10 if it has more; at quality 100 these are kept exactly."""
    heif = optional_module("pillow_heif", "HEIC")
    check_sides(photo, 8_192, "HEIC")
    samples = with_alpha(photo.pixels, photo.alpha)
    mode = "RGB" if photo.alpha is None else "RGBA"
    if samples.dtype == np.uint16:
        samples, mode = _rounded(samples), f"{mode};16"
    options: dict[str, Any] = {"exif": photo.exif, "xmp": photo.xmp, "icc_profile": photo.icc_profile}
    options = {name: value for name, value in options.items() if value}
    # The encoder's own choice takes seven times as long for files a tenth smaller.
    options |= {"quality": quality, "chroma": 444 if quality >= 90 else 420, "enc_params": {"preset": "ultrafast"}}
    if quality == 100:
        options |= {"quality": -1, "matrix_coefficients": 0}  # lossless, and RGB as it is
    height, width = photo.pixels.shape[:2]
    picture = heif.from_bytes(mode, (width, height), samples.data)
    encoded = io.BytesIO()
    picture.save(encoded, **options)
    file.write(encoded.getbuffer())


def _rounded(samples: np.ndarray) -> np.ndarray:
    """uint16 samples rounded to `_SAVED_BITS` bits, which stand in the upper bits as the encoder wants them."""
    most = (1 << _SAVED_BITS) - 1

    def rounded(top: int, bottom: int) -> np.ndarray:
        return (samples[top:bottom].astype(np.uint32) * most + 32_767) // 65_535 << (16 - _SAVED_BITS)

    return in_bands(rounded, samples.shape, np.uint16)
