"""Photos in other colour spaces than sRGB: how the model sees them, and how an sRGB retouch is applied to them.

A grid is predicted from sRGB and its transforms, guide and offsets are numbers of sRGB. A photo in Display P3, Adobe
RGB, ProPhoto or any other space of a matrix and curves is taken to sRGB in float without clipping: negative values and
values above 1 are colours beyond sRGB's gamut, and the curve goes on below 0 as its mirror image. There the grid's
change is added, and the sum is taken back. What leaves the photo's own gamut is clipped, and nothing else is.

Profiles of tables instead of a matrix, and unsound ones, are taken for sRGB, as programs without colour management do.

Large photos are done by compiled code, fast_gamut.py, where numba is installed; what stands here says what it does.
"""

from __future__ import annotations

import copy
from types import ModuleType
from typing import Any

import numpy as np

from .space import DARKEST, SPAN, STILL, Space, space_of

_BAND_PIXELS = 1 << 16  # temporaries of 1 MB, so that they stay in the cache
_VIEW_SIDE = 768  # half as much again as the square that the published models see

# Smaller photos are done before the compiled code is imported. By size alone, so that results repeat.
_COMPILED_FROM_PIXELS = 1 << 18


def model_view(pixels: np.ndarray, icc_profile: bytes | None) -> np.ndarray:
    """See `Photo.model_view`."""
    space = space_of(icc_profile)
    if space is None:
        return pixels
    factor = max(1, min(pixels.shape[:2]) // _VIEW_SIDE)
    if compiled := _compiled_for(pixels):
        return compiled.model_view(pixels, space, factor, _threads())
    return view_by_numpy(pixels, space, factor)


def view_by_numpy(pixels: np.ndarray, space: Space, factor: int) -> np.ndarray:
    """`(h, w, 3)` uint8 or uint16 -> its sRGB values as uint16, reduced by `factor`, clipped to the gamut."""
    values = space.srgb(_reduced(pixels, factor))
    return (np.clip(values, 0, 1) * np.float32(65_535) + np.float32(0.5)).astype(np.uint16)


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Every `factor` x `factor` pixels as their mean, in the photo's own values; a rest at the far edges is left."""
    if factor == 1:
        return pixels
    height, width = (side // factor for side in pixels.shape[:2])
    total = np.zeros((height, width, 3), np.uint32)
    for down in range(factor):
        for right in range(factor):
            total += pixels[down : height * factor : factor, right : width * factor : factor]
    return ((total + factor**2 // 2) // factor**2).astype(pixels.dtype)


def retouched_pixels(pixels: np.ndarray, icc_profile: bytes | None, grid: Any, strength: float) -> np.ndarray:
    """See `Photo.retouch`."""
    from ..model.modeling_affine_grid import check_strength

    space = space_of(icc_profile)
    if space is None or strength == 0:
        return grid.apply(pixels, strength)
    check_strength(strength)
    compiled = _compiled_for(pixels)
    if compiled and grid.coefficients.device.type == "cpu":
        guide = {name: tensor.numpy() for name, tensor in grid.guide.state_dict().items()}
        return compiled.retouch(pixels, space, grid.coefficients.numpy(), guide, strength, _threads())
    return retouch_by_numpy(pixels, space, grid, strength)


def _compiled_for(pixels: np.ndarray) -> ModuleType | None:
    """fast_gamut.py, if the photo is worth it and numba is installed."""
    if pixels.shape[0] * pixels.shape[1] < _COMPILED_FROM_PIXELS:
        return None
    try:
        from . import fast_gamut
    except ImportError:
        return None
    return fast_gamut


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def retouch_by_numpy(pixels: np.ndarray, space: Space, grid: Any, strength: float) -> np.ndarray:
    """`(h, w, 3)` uint8 or uint16 of a space -> the same retouched, on whatever device the grid is."""
    height, width = pixels.shape[:2]
    wide_grid = _on_wide_scale(grid)
    rows = max(1, _BAND_PIXELS // width)
    result = np.empty_like(pixels)
    for top in range(0, height, rows):
        band = pixels[top : top + rows]
        before = np.clip((space.srgb(band) - DARKEST) * np.float32(1 / SPAN), 0, 1)
        after = wide_grid.apply(before, strength, rows=(top, height))
        changed = np.abs(after - before).max(axis=2, keepdims=True) > STILL * np.float32(1 / SPAN)
        moved = space.pixels(after * np.float32(SPAN) + DARKEST, band.dtype)
        result[top : top + rows] = np.where(changed, moved, band)
    return result


def _on_wide_scale(grid: Any) -> Any:
    """The same retouch for values v that stand for the sRGB value _SPAN v + DARKEST.

    A grid takes and gives values in [0, 1]. With signed = 2 srgb - 1 = _SPAN (2 v - 1) + shift, the transform A, b
    becomes A, (b + (A - 1) shift) / _SPAN, and the guide's mix M, m becomes _SPAN M, m + shift 1 M.
    """
    shift = SPAN + 2 * DARKEST - 1
    guide = copy.deepcopy(grid.guide)
    guide.matrix_bias += shift * guide.matrix.sum(0)
    guide.matrix *= SPAN
    transforms = grid.coefficients.unflatten(0, (3, 4)).clone()  # (3, 4, D, Gh, Gw)
    beside = transforms[:, :3].sum(1) - 1
    transforms[:, 3] = (transforms[:, 3] + shift * beside) / SPAN
    return type(grid)(transforms.flatten(0, 1), guide)
