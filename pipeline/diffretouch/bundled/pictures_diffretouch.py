"""Photos of any kind as tensors and arrays, the view that the model sees of them, and pictures given back.

This file travels with every model on the Hub, so it imports nothing of the package.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

_ROWS = 64  # of a photo converted at once, so that the intermediate result stays in the cache
_GREY = 1.5 / 255  # channels that agree to within the rounding of their view


def planes(photo: Any) -> torch.Tensor:
    """A photo as a (1, 3, H, W) view in its own type."""
    if isinstance(photo, PIL.Image.Image):
        photo = np.array(photo if photo.mode == "RGB" else photo.convert("RGB"))
    if isinstance(photo, np.ndarray):
        # Torch cannot hold mirrored views, and warns of read-only ones.
        is_plain = photo.flags.writeable and min(photo.strides) >= 0
        photo = torch.from_numpy(photo if is_plain else photo.copy()).permute(2, 0, 1)
    return photo[None]


def model_view(photo: torch.Tensor, size: int) -> torch.Tensor:
    """A photo (1, 3, H, W) squashed to the antialiased square that the model sees: (1, 3, size, size) in [0, 1]."""
    if not photo.is_floating_point() and min(photo.shape[2:]) >= 2 * size:
        # 40 times faster than in floats; the same but for the rounding of each pixel of the view to 8 bits.
        return _squashed(_as_8_bit(photo), size).float() / 255
    # One channel at a time: a whole float copy of a large photo would dominate peak memory.
    top = 1 if photo.is_floating_point() else torch.iinfo(photo.dtype).max
    return torch.cat([_squashed(channel[:, None].float() / top, size) for channel in photo.unbind(1)], dim=1)


def _squashed(pixels: torch.Tensor, size: int) -> torch.Tensor:
    if pixels.shape[-2:] == (size, size):
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


def _as_8_bit(photo: torch.Tensor) -> torch.Tensor:
    """(1, 3, H, W) of 8 or 16 bits rounded to 8, pixel by pixel in memory."""
    if photo.dtype == torch.uint8:
        return photo
    pixels = photo[0].permute(1, 2, 0).numpy()
    rounded = np.empty(pixels.shape, np.uint8)
    for first in range(0, len(pixels), _ROWS):
        band = pixels[first : first + _ROWS]
        # value / 257 without leaving 16 bits: (value - value / 256 + 128) / 256.
        steps = band >> 8
        np.subtract(band, steps, out=steps)
        steps += 128
        steps >>= 8
        rounded[first : first + _ROWS] = steps
    return torch.from_numpy(rounded).permute(2, 0, 1)[None]


def as_float(photo: Any) -> np.ndarray:
    """A photo as np (H, W, 3) float32 in [0, 1]."""
    if isinstance(photo, torch.Tensor):
        return photo.float().permute(1, 2, 0).cpu().numpy()
    if isinstance(photo, PIL.Image.Image):
        photo = np.asarray(photo.convert("RGB"))
    top = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else 1
    return photo.astype(np.float32) / np.float32(top)


def as_output(picture: np.ndarray, output_type: str) -> Any:
    if output_type == "np":
        return picture
    if output_type == "pt":
        return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))
    return PIL.Image.fromarray(np.round(picture * 255).astype(np.uint8))


def is_grey(view: torch.Tensor) -> bool:
    """Whether a view (3, S, S) in [0, 1] shows no colour: its channels agree to within rounding."""
    return bool((view.amax(0) - view.amin(0)).max() < _GREY)
