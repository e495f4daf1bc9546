"""HEIC files, as phones and some cameras write them, through the optional package pillow-heif."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np

from .colour import profile_of_code_points
from .companions import left_of_heic
from .core import (
    Decoded,
    Encoding,
    Refused,
    check_size,
    divided_by_alpha,
    full_range,
    optional_module,
    rounded_to,
    split_alpha,
    with_alpha,
    without_exif_mark,
)
from .photo import Photo, check_sides, encoded_as_before, own_encoding, stored_samples

_LONGEST_SIDE, _LARGEST = 16_384, 142_606_336  # in one piece: what HEVC's level 7.2 allows
_LONGEST_IN_TILES, _TILE, _SMALLEST_TILE = 65_535, 4096, 256  # of a grid, which has at most 256 to a side
_SAVED_BITS = 10  # more than that plays on few devices


def read_heic(file: BinaryIO, max_pixels: int) -> Decoded:
    """The main picture of a HEIC file, 8, 10 or 12 bits, turned upright by the decoder as the file says."""
    heif = optional_module("pillow_heif", "HEIC")
    data = file.read()
    length = len(data)
    opened = heif.open_heif(data, convert_hdr_to_8bit=False)
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
        notes=left_of_heic(data, info, len(opened)),
        encoding=Encoding(None, _subsampling(info), bits, _is_exact(info), length / (width * height)),
    )


def _subsampling(info: dict[str, Any]) -> str | None:
    chroma = str(info.get("chroma", ""))
    return chroma if chroma in ("420", "422", "444") else None


def _is_exact(info: dict[str, Any]) -> bool:
    """Whether colours are stored as they are, without brightness parted from them, as is done for exactness alone."""
    told = info.get("nclx_profile") or {}
    return told.get("matrix_coefficients") == 0 and _subsampling(info) == "444"


def _profile_of_numbers(told: dict[str, Any] | None) -> bytes | None:
    if told is None:
        return None
    return profile_of_code_points(told["color_primaries"], told["transfer_characteristics"])


def _tile(photo: Photo) -> int:
    """The side of the tiles that a picture too large for one piece is stored in, as phones do; 0: one piece."""
    height, width = photo.pixels.shape[:2]
    if max(width, height) <= _LONGEST_SIDE and width * height <= _LARGEST:
        return 0
    if photo.alpha is not None:  # which stands beside a tile, where few programs look for it
        allowed = f"at most {_LONGEST_SIDE} on a side and {_LARGEST:,} of them"
        raise Refused(f"it has {width} x {height} pixels, and HEIC with transparency allows {allowed}")
    check_sides(photo, _LONGEST_IN_TILES, "HEIC")
    return min(_TILE, max(_SMALLEST_TILE, -(-min(width, height) // 64) * 64))


def write_heic(photo: Photo, file: BinaryIO, quality: int | None) -> list[str]:
    """Write `photo` in 8 bits, or in 10 if it has more; at quality 100 these are kept exactly.

    Without a quality, a photo that was HEIC keeps its subsampling and about its size, or stays exact.
    """
    heif = optional_module("pillow_heif", "HEIC")
    tile = _tile(photo)
    colour, profile = stored_samples(photo)
    samples = with_alpha(colour, photo.alpha)
    mode = "L" if samples.ndim == 2 else "RGB" if photo.alpha is None else "RGBA"
    if samples.dtype == np.uint16:
        samples, mode = rounded_to(samples, _SAVED_BITS, 16 - _SAVED_BITS), f"{mode};16"
    options: dict[str, Any] = {"exif": photo.exif, "xmp": photo.xmp, "icc_profile": profile}
    options = {name: value for name, value in options.items() if value}
    height, width = photo.pixels.shape[:2]
    own = own_encoding(photo, "HEIC")

    def encode(tried: int) -> bytes:
        chroma = (own.subsampling if quality is None else None) or ("444" if tried >= 90 else "420")
        # The encoder's own choice takes seven times as long for files a tenth smaller.
        now = {"quality": tried, "chroma": int(chroma), "enc_params": {"preset": "ultrafast"}, "tile_size": tile}
        if tried == 100:
            now |= {"quality": -1, "chroma": 444} | ({} if mode.startswith("L") else {"matrix_coefficients": 0})
        picture = heif.from_bytes(mode, (width, height), np.ascontiguousarray(samples).reshape(-1).view(np.uint8).data)
        encoded = io.BytesIO()
        try:
            picture.save(encoded, **options, **now)
        except RuntimeError:  # x265 opens with no picture that is smaller than its blocks, for one
            raise Refused(f"the HEIC encoder does not take {width} x {height} pixels") from None
        return encoded.getvalue()

    file.write(encoded_as_before(photo, own, quality, encode))
    return (
        [f"HEIC is written with {_SAVED_BITS} bits, of the {own.bits} that it had"] if own.bits > _SAVED_BITS else []
    )
