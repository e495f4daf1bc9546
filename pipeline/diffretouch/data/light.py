"""Linear light, sRGB and CIELAB of pictures, np (H, W, 3) with sRGB primaries."""

from __future__ import annotations

import warnings

import numpy as np
from skimage.color import lab2rgb, rgb2lab


def roll_off_highlights(light: np.ndarray, knee: float = 0.75) -> np.ndarray:
    """Compress linear light above `knee` smoothly into [knee, 1], as film does, instead of clipping it."""
    over = np.maximum(light - knee, 0)
    return np.minimum(light, knee) + (1 - knee) * (1 - np.exp(-over / (1 - knee)))


def to_linear(photo: np.ndarray) -> np.ndarray:
    """uint8 sRGB -> float32 linear light in [0, 1] (IEC 61966-2-1)."""
    return to_linear_light(np.arange(256, dtype=np.float32) / 255)[photo]


def to_linear_light(picture: np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> float32 linear light in [0, 1]."""
    return np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4).astype(np.float32)


def to_srgb(light: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1] -> sRGB values in [0, 1]."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def lab_of(light: np.ndarray) -> np.ndarray:
    """Linear light (H, W, 3) in [0, 1] -> CIELAB (D65), float32."""
    return rgb2lab(to_srgb(light)).astype(np.float32)


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """CIELAB (D65) -> sRGB in [0, 1]; colours outside the gamut are clipped."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB", category=UserWarning)
        return lab2rgb(lab)


def quantise(picture: np.ndarray) -> np.ndarray:
    """Float picture -> uint8, clipped and rounded."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
