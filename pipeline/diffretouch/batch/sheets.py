"""Pictures side by side, for looking at: comparisons and labelled contact sheets of sliders and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from ..attributes import ATTRIBUTES
from ..photo import Photo

Retouch = Callable[[Mapping[str, float], int], np.ndarray]
"""Gives a photo's retouch at the size of a sheet's cell, (h, w, 3) uint8: called with sliders and a seed."""

POSITIONS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""Where `sliders_sheet` puts each slider."""

_CAPTION_HEIGHT = 26
_LONGEST_SIDE = 65_500  # of a JPEG


def reduced(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A photo (H, W, 3), uint8 or uint16, as (h, w, 3) uint8 of at most `width` x `height`; never enlarged."""
    picture = PIL.Image.fromarray(pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8))
    scale = min(1.0, width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return np.asarray(picture.resize(size, PIL.Image.Resampling.BICUBIC, reducing_gap=2.0))


def captioned(picture: np.ndarray, caption: str) -> np.ndarray:
    """The picture (h, w, 3) with its caption on a white strip above it."""
    strip = PIL.Image.new("RGB", (picture.shape[1], _CAPTION_HEIGHT), "white")
    font = PIL.ImageFont.load_default(size=15)
    PIL.ImageDraw.Draw(strip).text((6, 4), caption, fill="black", font=font)
    return np.concatenate([np.asarray(strip), picture])


def sheet(rows: Sequence[Sequence[np.ndarray]], gap: int = 0) -> np.ndarray:
    """Rows of pictures (h, w, 3) uint8, of one height within a row, on white with `gap` pixels between them.

    Raises:
        ValueError: if the sheet would be larger than a JPEG can be.
    """
    bands = [_row(pictures, gap) for pictures in rows]
    width = max(band.shape[1] for band in bands)
    parts: list[np.ndarray] = []
    for band in bands:
        padded = np.full((band.shape[0] + gap, width, 3), 255, dtype=np.uint8)
        padded[: band.shape[0], : band.shape[1]] = band
        parts.append(padded)
    whole = np.concatenate(parts)[: -gap or None]
    if max(whole.shape) > _LONGEST_SIDE:
        raise ValueError(
            f"a sheet has to be at most {_LONGEST_SIDE} pixels on a side, got {whole.shape[1]} x {whole.shape[0]}."
        )
    return whole


def _row(pictures: Sequence[np.ndarray], gap: int) -> np.ndarray:
    space = np.full((pictures[0].shape[0], gap, 3), 255, dtype=np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, space)][:-1], axis=1)


def sliders_sheet(retouch: Retouch, seed: int = 0, positions: Sequence[float] = POSITIONS) -> np.ndarray:
    """One photo, a row per slider, a column per position: (h, w, 3) uint8."""
    return sheet(
        [[captioned(retouch({name: at}, seed), f"{name} {at:+g}") for at in positions] for name in ATTRIBUTES]
    )


def seeds_row(
    retouch: Retouch, photo: np.ndarray, name: str, seeds: Sequence[int], sliders: Mapping[str, float] | None = None
) -> list[np.ndarray]:
    """The cells of one row: the photo at its cell's size (h, w, 3) uint8 and one retouch per seed."""
    cells = [captioned(retouch(sliders or {}, seed), f"{name}: seed {seed}") for seed in seeds]
    return [captioned(photo, f"{name}: input"), *cells]


def cell(photo: Photo, width: int) -> Photo:
    """A photo at the size of a sheet's cell, 8 bits, in its own colour space."""
    return Photo(reduced(photo.pixels, width, 2 * width), icc_profile=photo.icc_profile)


def retouch_with(pipe: Any, photo: Photo, shown: Photo, strength: float = 1.0, **call: Any) -> Retouch:
    """Retouches `shown` as `photo`, of which it is the `cell`; `call` goes to the `DiffRetouchPipeline`."""
    import torch

    view = photo.model_view()

    def retouch(sliders: Mapping[str, float], seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        (grid,) = pipe(view, **sliders, generator=generator, output_type="grid", **call).grids
        return shown.retouch(grid, strength).pixels

    return retouch
