"""The way of a wide-gamut photo to sRGB, through a grid and back, in one compiled pass: photo/gamut.py on CPUs.

photo/gamut.py does the same with numpy, in small photos and where numba is missing. Importing this module imports
numba, so nothing else does. A run of pixels (see fast_apply.py) stays in its planes all the way: a table makes linear
light of the photo's levels, a matrix and sRGB's curve make of that what the grid works on, the curve's inverse and
the inverse matrix lead back, and a table gives the levels. The powers in both curves are polynomials of the mantissa
and of the exponent's fraction, without branches, so that the compiler makes vector instructions of them.

What numba keeps of this file holds functions of fast_apply.py and numbers of photo/space.py, whose changes it does not
see: after editing those files, touch this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..look.fast_apply import (
    _BAND_PIXELS,
    _BLUE,
    _GREEN,
    _MIXED,
    _OUT_BLUE,
    _OUT_GREEN,
    _OUT_RED,
    _RED,
    _RUN_PIXELS,
    _add_changes,
    _clamp,
    _compiled,
    _kept,
    _look,
    _ready,
    _rows,
    _runs,
)
from .space import BRIGHTEST, DARKEST, DIMMEST, SLOT_BITS, STILL, Space

_HALF, _ONE = np.float32(0.5), np.float32(1)
_UINT16_TOP = np.float32(65_535)

# The bits of a float32: the exponent, biased, and 23 of the mantissa.
_MANTISSA_BITS, _MANTISSA, _BIAS, _BITS_OF_ONE = (np.int32(number) for number in (23, (1 << 23) - 1, 127, 127 << 23))
_SLOT_BITS, _SLOT_PLACE = np.int32(SLOT_BITS), np.int32((1 << SLOT_BITS) - 1)
_SLOT_SIZE, _FIRST_SLOT = np.float32(2.0**-SLOT_BITS), np.int32(DIMMEST.view(np.int32) >> SLOT_BITS)


def _polynomial(function: Callable[[np.ndarray], np.ndarray], start: float) -> tuple[np.float32, ...]:
    """Coefficients of u = x - start - 1 / 2 that give `function` in [start, start + 1], to 3e-7 of its value."""
    points = np.polynomial.Chebyshev.interpolate(lambda u: function(u + start + 0.5), 6, (-0.5, 0.5))
    return tuple(np.float32(number) for number in points.convert(kind=np.polynomial.Polynomial, domain=(-1, 1)).coef)


_TO_CURVE, _TO_LIGHT = np.float32(1 / 2.4), np.float32(2.4)
_MANTISSA_TO_CURVE = _polynomial(lambda mantissa: mantissa ** (1 / 2.4), 1)
_MANTISSA_TO_LIGHT = _polynomial(lambda mantissa: mantissa**2.4, 1)
_POWER_OF_TWO = _polynomial(np.exp2, 0)


def retouch(
    photo: np.ndarray,
    space: Space,
    coefficients: np.ndarray,
    guide: Mapping[str, np.ndarray],
    strength: float,
    threads: int,
) -> np.ndarray:
    """What `retouch_by_numpy` of photo/gamut.py does, within one of 255 levels or eight of 65535.

    Beyond that are only levels next to black where bright light of the other channels cancels out: by less than a
    millionth of white's light, which is the rounding of float32 in either.

    Memory beyond the result does not grow with the photo, see `apply_numpy` of fast_apply.py.

    Args:
        photo: (H, W, 3) uint8 or uint16 of that space, any strides.
        space: the photo's.
        coefficients: (12, D, Gh, Gw) float32.
        guide: the parameters of a `GuideCurve` by name.
        strength: 0 = the photo, 1 = the retouch.
        threads: most threads to work on.

    Returns:
        Such a photo.
    """
    height, width, _ = photo.shape
    out = np.empty(photo.shape, photo.dtype)
    tables = _tables(space, photo.dtype)
    look = _look(coefficients, guide, strength, None)
    places, runs = _rows(height, coefficients.shape[2]), _runs(width, coefficients.shape[3])

    def retouch_band(first: int, last: int) -> None:
        _retouch_rows(_plain(photo[first:last]), _flat(out[first:last]), first, look, places, runs, tables)

    _in_bands(retouch_band, height, width, threads)
    return out


def model_view(photo: np.ndarray, space: Space, factor: int, threads: int) -> np.ndarray:
    """What `view_by_numpy` of photo/gamut.py does, within two of 65535 levels.

    Args:
        photo: (H, W, 3) uint8 or uint16 of that space, any strides.
        space: the photo's.
        factor: how many pixels of a side become one.
        threads: most threads to work on.

    Returns:
        (H // factor, W // factor, 3) uint16 sRGB.
    """
    height, width = (side // factor for side in photo.shape[:2])
    out = np.empty((height, width, 3), np.uint16)
    tables = _tables(space, photo.dtype)

    def view_band(first: int, last: int) -> None:
        _view_rows(_plain(photo[first * factor : last * factor]), _flat(out[first:last]), factor, tables)

    _in_bands(view_band, height, width, threads)
    return out


def _tables(space: Space, dtype: np.dtype) -> Space:
    """With light for the levels of that dtype only."""
    return space._replace(light=np.ascontiguousarray(space.light[:, ::257])) if dtype == np.uint8 else space


def _plain(band: np.ndarray) -> np.ndarray:
    """(h, W, 3) -> contiguous (h, 3 W); never writable, else code would be compiled for both kinds."""
    flat = _flat(np.require(band, requirements=["C", "ALIGNED"]))
    flat.flags.writeable = False
    return flat


def _flat(band: np.ndarray) -> np.ndarray:
    return band.reshape(len(band), -1)


def _in_bands(work: Callable[[int, int], None], height: int, width: int, threads: int) -> None:
    """`work` for the first and last + 1 row of every band, on threads of our own, see fast_apply.py."""
    rows = max(1, _BAND_PIXELS // width)
    firsts = range(0, height, rows)
    with ThreadPoolExecutor(min(threads, len(firsts))) as pool:
        list(pool.map(lambda first: work(first, min(height, first + rows)), firsts))


@_compiled
def _polynomial_at(numbers, u):
    a, b, c, d, e, f, g = numbers
    return a + u * (b + u * (c + u * (d + u * (e + u * (f + u * g)))))


@_compiled
def _power(value, exponent, mantissas):
    """`value` ** `exponent` for 2 ** -40 < value < 2 ** 40, where `mantissas` is that of mantissas; else any number.

    (2 ** e m) ** p is m ** p times 2 ** (e p), and the latter 2 to a whole number times 2 to a fraction.
    """
    bits = np.float32(value).view(np.int32)
    mantissa = np.int32((bits & _MANTISSA) | _BITS_OF_ONE).view(np.float32)
    binary = np.float32(np.int32(np.int32(bits >> _MANTISSA_BITS) - _BIAS)) * exponent
    whole = np.int32(np.int32(binary + np.float32(512)) - np.int32(512))  # downwards below 0 too
    scale = np.int32((whole + _BIAS) << _MANTISSA_BITS).view(np.float32)
    fraction = binary - np.float32(whole)
    power = _polynomial_at(mantissas, mantissa - np.float32(1.5)) * _polynomial_at(_POWER_OF_TWO, fraction - _HALF)
    return power * scale


@_compiled
def _srgb_value(light):
    """What `_srgb_curve` of photo/space.py gives, within [DARKEST, BRIGHTEST]."""
    amount = abs(light)
    curved = np.float32(1.055) * _power(amount, _TO_CURVE, _MANTISSA_TO_CURVE) - np.float32(0.055)
    value = np.float32(12.92) * amount if amount <= np.float32(0.0031308) else curved
    return _within_bounds(value if light >= 0 else -value)


@_compiled
def _srgb_light(value):
    """What `_srgb_light` of photo/space.py gives."""
    amount = abs(value)
    curved = _power(amount * np.float32(1 / 1.055) + np.float32(0.055 / 1.055), _TO_LIGHT, _MANTISSA_TO_LIGHT)
    light = amount * np.float32(1 / 12.92) if amount <= np.float32(0.04045) else curved
    return light if value >= 0 else -light


@_compiled
def _within_bounds(value):
    value = value if value > DARKEST else DARKEST
    return value if value < BRIGHTEST else BRIGHTEST


@_compiled
def _to_srgb(planes, count, matrix):
    """Turn linear light of the photo's space in the planes of red, green and blue into sRGB values."""
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = matrix[0], matrix[1], matrix[2]
    for j in range(np.uint64(count)):
        red, green, blue = planes[_RED + j], planes[_GREEN + j], planes[_BLUE + j]
        planes[_RED + j] = _srgb_value(red * m00 + green * m10 + blue * m20)
        planes[_GREEN + j] = _srgb_value(red * m01 + green * m11 + blue * m21)
        planes[_BLUE + j] = _srgb_value(red * m02 + green * m12 + blue * m22)


@_compiled
def _load(pixels, first, count, planes, tables):
    """sRGB values of pixels `first`, ... of a row (3 W,), twice: to read, and to add to."""
    start = np.uint64(3 * first)
    for j in range(np.uint64(count)):
        planes[_RED + j] = tables.light[np.uint64(0), pixels[start + np.uint64(3) * j]]
        planes[_GREEN + j] = tables.light[np.uint64(1), pixels[start + np.uint64(3) * j + np.uint64(1)]]
        planes[_BLUE + j] = tables.light[np.uint64(2), pixels[start + np.uint64(3) * j + np.uint64(2)]]
    _to_srgb(planes, count, tables.to_srgb)
    for j in range(np.uint64(count)):
        planes[_OUT_RED + j] = planes[_RED + j]
        planes[_OUT_GREEN + j] = planes[_GREEN + j]
        planes[_OUT_BLUE + j] = planes[_BLUE + j]


@_compiled
def _to_light(planes, count, matrix):
    """Turn the sRGB values to write into linear light of the photo's space, in [DIMMEST, 1], where they were changed.

    How far they were changed goes to the plane that the guide needs no more.
    """
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = matrix[0], matrix[1], matrix[2]
    for j in range(np.uint64(count)):
        red = _within_bounds(planes[_OUT_RED + j])
        green = _within_bounds(planes[_OUT_GREEN + j])
        blue = _within_bounds(planes[_OUT_BLUE + j])
        more = max(abs(red - planes[_RED + j]), abs(green - planes[_GREEN + j]))
        planes[_MIXED + j] = max(more, abs(blue - planes[_BLUE + j]))
        red, green, blue = _srgb_light(red), _srgb_light(green), _srgb_light(blue)
        planes[_OUT_RED + j] = _shown(red * m00 + green * m10 + blue * m20)
        planes[_OUT_GREEN + j] = _shown(red * m01 + green * m11 + blue * m21)
        planes[_OUT_BLUE + j] = _shown(red * m02 + green * m12 + blue * m22)


@_compiled
def _shown(light):
    light = light if light > DIMMEST else DIMMEST
    return light if light < _ONE else _ONE


@_compiled
def _level(light, levels):
    """A level in [0, 1] by the table of one channel; see photo/space.py for its slots."""
    bits = np.float32(light).view(np.int32)
    slot = np.uint64(np.int32(bits >> _SLOT_BITS) - _FIRST_SLOT)
    low = levels[slot]
    return low + np.float32(np.int32(bits & _SLOT_PLACE)) * _SLOT_SIZE * (levels[slot + np.uint64(1)] - low)


@_compiled
def _store(planes, count, tables, top, pixels, out, first):
    """Levels of the light in the planes; the photo's own, untouched, where nothing was changed."""
    start = np.uint64(3 * first)
    for j in range(np.uint64(count)):
        red = start + np.uint64(3) * j
        green, blue = red + np.uint64(1), red + np.uint64(2)
        if planes[_MIXED + j] > STILL:
            out[red] = _level(planes[_OUT_RED + j], tables.level[0]) * top + _HALF
            out[green] = _level(planes[_OUT_GREEN + j], tables.level[1]) * top + _HALF
            out[blue] = _level(planes[_OUT_BLUE + j], tables.level[2]) * top + _HALF
        else:
            out[red], out[green], out[blue] = pixels[red], pixels[green], pixels[blue]


def _retouch_all(photo, out, first_row, look, rows, runs, tables):
    """Rows `first_row`, ... of a photo, (h, 3 W) in and out; between `_load` and `_store` as in fast_apply.py."""
    top = np.float32(255 if tables.light.shape[1] == 256 else 65_535)
    planes = np.empty(8 * _RUN_PIXELS, np.float32)
    at, per_step = np.empty(12, np.float32), np.empty(12, np.float32)
    for i in range(photo.shape[0]):
        y = min(max(rows.start + (first_row + i) * rows.step, 0.0), look.change.shape[0] - 1.0)
        for run in range(runs.left.shape[0]):
            first = runs.first[run]
            count = runs.first[run + 1] - first
            _load(photo[i], first, count, planes, tables)
            _add_changes(planes, count, look, y, runs, run, at, per_step)
            _to_light(planes, count, tables.from_srgb)
            _store(planes, count, tables, top, photo[i], out[i], first)


def _view_all(photo, out, factor, tables):
    """Rows of a photo, (h factor, 3 w factor) or a little wider, as their reduced sRGB values (h, 3 w)."""
    width = out.shape[1] // 3
    planes = np.empty(8 * _RUN_PIXELS, np.float32)
    sums = np.empty(3 * width * factor, np.uint32)
    pixels = np.empty(out.shape[1], photo.dtype)
    for i in range(out.shape[0]):
        _reduce(photo[i * factor : (i + 1) * factor], sums, pixels)
        for first in range(0, width, _RUN_PIXELS):
            count = min(_RUN_PIXELS, width - first)
            _load(pixels, first, count, planes, tables)
            start = np.uint64(3 * first)
            for j in range(np.uint64(count)):
                red = start + np.uint64(3) * j
                out[i, red] = _clamp(planes[_RED + j], _ONE) * _UINT16_TOP + _HALF
                out[i, red + np.uint64(1)] = _clamp(planes[_GREEN + j], _ONE) * _UINT16_TOP + _HALF
                out[i, red + np.uint64(2)] = _clamp(planes[_BLUE + j], _ONE) * _UINT16_TOP + _HALF


@_compiled
def _reduce(rows, sums, pixels):
    """The mean of every square of pixels, rounded, in one row (3 w,); `sums` (3 w factor,) is there to be used."""
    factor = rows.shape[0]
    area = np.uint32(factor * factor)
    sums[:] = 0
    for row in rows:
        for k in range(sums.shape[0]):
            sums[k] += row[k]
    for j in range(pixels.shape[0] // 3):
        for channel in range(3):
            total = area // np.uint32(2)
            for right in range(factor):
                total += sums[3 * (j * factor + right) + channel]
            pixels[3 * j + channel] = total // area


_retouch_rows = _ready(_kept(_retouch_all), _compiled(_retouch_all))
_view_rows = _ready(_kept(_view_all), _compiled(_view_all))
