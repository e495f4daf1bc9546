"""RGB spaces of a matrix and three curves, read from ICC profiles: the way of levels to sRGB values and back."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .colour import SRGB_PRIMARIES, profile_tags

_LEVELS = np.linspace(0, 1, 65_536)

# What sRGB values are kept for: the primaries of ProPhoto and ACES lie between -1.2 and 1.5.
DARKEST, BRIGHTEST = np.float32(-2), np.float32(3)

SPAN = float(BRIGHTEST - DARKEST)
STILL = np.float32(2.5e-6)  # a sixth of a 16-bit level, and more than the rounding of a grid's transforms

# The way back's table has 128 slots between any light and its double: what lies between two of them is straight to
# two millionths of it. As a float's bits grow with its logarithm, their upper ones are the slot and the rest is the
# place in it. It starts at 2 ** -40, less than the darkest level of any usual curve.
SLOT_BITS = 16
DIMMEST = np.float32(2.0**-40)

_FIRST_SLOT, _LAST_SLOT = (int(np.float32(light).view(np.int32)) >> SLOT_BITS for light in (DIMMEST, 1))


class Space(NamedTuple):
    """An RGB space of a matrix and three curves.

    Attributes:
        light: (3, 65536) float32, linear light of every 16-bit level per channel.
        level: (3, slots) float32 in [0, 1], the level of the linear light at which each slot starts.
        to_srgb: (3, 3) float32, its linear light as sRGB's, for rows of pixels from the left.
        from_srgb: (3, 3) float32, the way back.
    """

    light: np.ndarray
    level: np.ndarray
    to_srgb: np.ndarray
    from_srgb: np.ndarray

    def srgb(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or uint16 `(h, w, 3)` -> float32 sRGB values, unbounded, the curve mirrored below 0."""
        step = 257 if pixels.dtype == np.uint8 else 1
        light = np.empty(pixels.shape, np.float32)
        for channel in range(3):
            light[..., channel] = np.ascontiguousarray(self.light[channel, ::step])[pixels[..., channel]]
        return _srgb_curve(light @ self.to_srgb)

    def pixels(self, srgb: np.ndarray, dtype: Any) -> np.ndarray:
        """Unbounded sRGB values -> rounded levels of this space, clipped to its gamut."""
        bits = np.clip(_srgb_light(srgb) @ self.from_srgb, DIMMEST, 1).view(np.int32)
        slots = (bits >> SLOT_BITS) - _FIRST_SLOT
        places = (bits & (1 << SLOT_BITS) - 1) * np.float32(2.0**-SLOT_BITS)
        top = np.float32(np.iinfo(dtype).max)
        result = np.empty(srgb.shape, dtype)
        for channel in range(3):
            slot, place = slots[..., channel], places[..., channel]
            low = self.level[channel][slot]
            between = low + place * (self.level[channel][slot + 1] - low)
            result[..., channel] = between * top + np.float32(0.5)
        return result


def _srgb_curve(light: np.ndarray) -> np.ndarray:
    """Linear light to sRGB values (IEC 61966-2-1), odd: a negative amount of light is the negative of its amount."""
    amount = np.abs(light)
    values = np.power(amount, np.float32(1 / 2.4))
    values *= np.float32(1.055)
    values -= np.float32(0.055)
    np.multiply(amount, np.float32(12.92), out=values, where=amount <= np.float32(0.0031308))
    return np.copysign(values, light, out=values)


def _srgb_light(values: np.ndarray) -> np.ndarray:
    """The inverse of `_srgb_curve`."""
    amount = np.abs(values)
    light = amount + np.float32(0.055)
    light *= np.float32(1 / 1.055)
    np.power(light, np.float32(2.4), out=light)
    np.multiply(amount, np.float32(1 / 12.92), out=light, where=amount <= np.float32(0.04045))
    return np.copysign(light, values, out=light)


@lru_cache(maxsize=16)
def space_of(profile: bytes | None) -> Space | None:
    """The space of a profile; None where pixels are taken as sRGB: no profile, sRGB's own, or an unusable one."""
    if profile is None:
        return None
    try:
        tags = profile_tags(profile)
        primaries = np.array([_xyz(tags[channel + b"XYZ"]) for channel in (b"r", b"g", b"b")])
        curves = [_curve(tags[channel + b"TRC"]) for channel in (b"r", b"g", b"b")]
        to_srgb = primaries @ np.linalg.inv(np.array(SRGB_PRIMARIES))
        from_srgb = np.linalg.inv(to_srgb)
    except (KeyError, ValueError, ZeroDivisionError, struct.error, np.linalg.LinAlgError):
        return None
    light = np.stack(curves)
    if not _is_sound(light, to_srgb, from_srgb) or _is_srgb(light, to_srgb):
        return None
    slots = np.arange(_FIRST_SLOT, _LAST_SLOT + 2, dtype=np.int32) << SLOT_BITS  # one more, for white's other end
    starts = np.where(slots > slots[0], slots.view(np.float32), 0)  # the first has all that is darker as well
    level = np.stack([np.interp(starts, curve, _LEVELS) for curve in light])
    return Space(*(array.astype(np.float32) for array in (light, level, to_srgb, from_srgb)))


def is_srgb(profile: bytes | None) -> bool:
    """Whether pixels of that profile are taken as sRGB."""
    return space_of(profile) is None


def _xyz(tag: bytes) -> tuple[float, ...]:
    if tag[:4] != b"XYZ ":
        raise ValueError("a primary of another kind")
    return tuple(value / 65536 for value in struct.unpack_from(">3i", tag, 8))


def _curve(tag: bytes) -> np.ndarray:
    """Linear light of all 16-bit levels by a tone curve (ICC.1:2010, 10.5 `curv` and 10.15 `para`), never falling."""
    if tag[:4] == b"curv":
        (count,) = struct.unpack_from(">I", tag, 8)
        if count <= 1:
            gamma = struct.unpack_from(">H", tag, 12)[0] / 256 if count else 1.0
            return _LEVELS**gamma
        points = np.frombuffer(tag, ">u2", count, 12) / 65_535
        return np.maximum.accumulate(np.interp(_LEVELS, np.linspace(0, 1, count), points))
    if tag[:4] != b"para":
        raise ValueError("a curve of another kind")
    return np.maximum.accumulate(np.clip(_parametric(tag), 0, 1))


def _parametric(tag: bytes) -> np.ndarray:
    """(a x + b) ** g + e from d on and c x + f below it, of which the first four kinds leave parts out."""
    (kind,) = struct.unpack_from(">H", tag, 8)
    if kind > 4:
        raise ValueError("a curve of another kind")
    given = [value / 65536 for value in struct.unpack_from(f">{(1, 3, 4, 5, 7)[kind]}i", tag, 12)]
    g, a, b, c, d, e, f = given + [0.0] * (7 - len(given))
    if kind == 0:
        a = 1.0
    if kind in (1, 2):
        c, d, e, f = 0.0, -b / a, c, c
    with np.errstate(all="ignore"):  # absurd numbers make an unsound curve, which is told by its values
        return np.where(d <= _LEVELS, np.maximum(a * _LEVELS + b, 0) ** g + e, c * _LEVELS + f)


def _is_sound(light: np.ndarray, to_srgb: np.ndarray, from_srgb: np.ndarray) -> bool:
    """Whether there is a way back: curves from dark to bright, and a matrix whose inverse does not blow noise up."""
    curves = (light[:, -1] - light[:, 0] > 0.5).all()
    return bool(curves and np.abs(to_srgb).max() < 20 and np.abs(from_srgb).max() < 20)


def _is_srgb(light: np.ndarray, to_srgb: np.ndarray) -> bool:
    """Whether the difference to sRGB is less than one of 255 levels, as that of the many variants of its profile."""
    values = _srgb_curve(light.astype(np.float32))
    return bool(np.abs(to_srgb - np.eye(3)).max() < 0.005 and np.abs(values - _LEVELS).max() < 1 / 255)
