"""Guide, slice, affine, blend and rounding in one compiled pass over a photo: what `AffineGrid.apply` runs on CPUs.

`AffineGrid` travels with models and knows nothing of this package. It finds `apply_numpy` through the package's entry
point (`COMPILED_APPLY` in modeling_affine_grid.py), in the installed class and in remote code alike, and does the same
with torch operations where the package or numba is missing. Importing this module imports numba, so nothing else does.

How it is fast: a row of the photo is cut into runs that stay between two neighbouring columns of the grid. Inside a
run every coefficient is linear in x, so a run needs no coordinates: per bin of the grid's depth that the run's guide
reaches, 24 numbers in registers, weighted per pixel by the hat max(0, 1 - |z - bin|). All loops over pixels are simple
enough for the compiler to make vector instructions of them, which is why all planes lie in one buffer at constant
distances: with separate arrays it has to suspect that they overlap.

`python benchmarks/apply.py` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np

_RUN_PIXELS = 512  # the buffer of a run, eight planes, stays in the fastest cache
_BAND_PIXELS = 1 << 15  # per task of a thread: small enough that copies of odd arrays stay small on many cores

_RED, _GREEN, _BLUE, _GUIDE, _OUT_RED, _OUT_GREEN, _OUT_BLUE, _MIXED = (np.uint64(_RUN_PIXELS * k) for k in range(8))
_ZERO, _ONE = np.float32(0), np.float32(1)
_KNOTS_AT_ONCE = 4


class _Look(NamedTuple):
    """A grid and its guide on the scale of the photo's own numbers, strength included."""

    change: np.ndarray  # (Gh, Gw, D, 12): what the transforms add to the pixel, per output channel 3 factors, 1 offset
    matrix: np.ndarray  # (3, 3)
    matrix_bias: np.ndarray  # (3,)
    thresholds: np.ndarray  # (3, K), K a multiple of _KNOTS_AT_ONCE
    slopes: np.ndarray  # (3, K), times the depth
    start: np.float32  # the guide's constant part, in bins
    top: np.float32  # white
    rounding: np.float32  # added before the fraction is dropped: a half for whole numbers, nothing for floats


class _Rows(NamedTuple):
    """Row i of the photo lies at start + i * step between the grid's rows."""

    start: float
    step: float


class _Runs(NamedTuple):
    """Stretches of a photo's columns that lie between the same two columns of the grid."""

    first: np.ndarray  # (N + 1,) int64: the first pixel of each, and at the end the number of pixels
    left: np.ndarray  # (N,) int64: the grid's column before it
    right: np.ndarray  # (N,) int64: the column after it, the same one beyond the outermost centres
    place: np.ndarray  # (N,) float32: of its first pixel between the two, 0 to 1
    step: np.float32  # from pixel to pixel


def apply_numpy(
    photo: np.ndarray,
    coefficients: np.ndarray,
    guide: Mapping[str, np.ndarray],
    strength: float,
    threads: int = 1,
    out: np.ndarray | None = None,
    rows: tuple[int, int] | None = None,
) -> np.ndarray:
    """Retouch a photo; equals `AffineGrid.apply_tiled` within rounding, and an identity grid changes no bit.

    Memory beyond `photo` and `out` does not grow with the photo: buffers of some 20 kB per thread, and 1 MB per
    thread for arrays that are not C-contiguous or of another float type than float32.

    Args:
        photo: (H, W, 3) uint8, uint16 or float in [0, 1], any strides; computed in float32.
        coefficients: (12, D, Gh, Gw) float32, identity = channels 0, 5 and 10 equal to one.
        guide: the parameters of a `GuideCurve` by name.
        strength: 0 = the photo, 1 = the retouch.
        threads: most threads to work on.
        out: array like `photo` to write to. Made where not given.
        rows: which row of the whole picture comes first, and how many that has, where `photo` is a band of it.

    Returns:
        `out`.
    """
    if out is None:
        out = np.empty_like(photo)
    height, width, _ = photo.shape
    top_row, whole_height = rows or (0, height)
    white = np.iinfo(photo.dtype).max if photo.dtype.kind == "u" else None
    kind = photo.dtype if white else np.dtype(np.float32)
    look = _look(coefficients, guide, strength, white)
    places = _rows(whole_height, coefficients.shape[2])
    runs = _runs(width, coefficients.shape[3])
    per_band = max(1, _BAND_PIXELS // width)
    direct = out.flags.c_contiguous and out.flags.aligned and out.dtype == kind

    def retouch(first: int) -> None:
        band = slice(first, min(height, first + per_band))
        source = np.require(photo[band], kind, ["C", "ALIGNED"]).reshape(-1, 3 * width)
        source.flags.writeable = False  # else a photo that is read-only would be compiled for once more
        target = out[band].reshape(-1, 3 * width) if direct else np.empty(source.shape, kind)
        _retouch(source, target, top_row + first, look, places, runs)
        if not direct:
            out[band] = target.reshape(-1, width, 3)

    firsts = range(0, height, per_band)
    if threads == 1 or len(firsts) == 1:
        for first in firsts:
            retouch(first)
    else:
        # Threads of our own, not numba's: its parallel loops end the process when two threads enter one at a time.
        with ThreadPoolExecutor(min(threads, len(firsts))) as pool:
            list(pool.map(retouch, firsts))
    return out


def _look(coefficients: np.ndarray, guide: Mapping[str, np.ndarray], strength: float, white: int | None) -> _Look:
    """Move the photo's scale, the strength and the mean over channels into the numbers of grid and guide.

    The method's transform A, b works on 2 p / white - 1. What it adds to p, blended by s, is s (A - 1) p +
    s white / 2 (b - (A - 1) 1), which is nothing at all for the identity, whatever the rounding.
    """
    top = white or 1
    depth = coefficients.shape[1]
    change = coefficients.astype(np.float64).reshape(3, 4, *coefficients.shape[1:])
    change[range(3), range(3)] -= 1
    change[:, 3] = (change[:, 3] - change[:, :3].sum(1)) * (top / 2)
    parameters = {name: value.astype(np.float64) for name, value in guide.items()}
    matrix, padding = parameters["matrix"], -parameters["slopes"].shape[1] % _KNOTS_AT_ONCE
    return _Look(
        change=_float32((strength * change).reshape(12, *coefficients.shape[1:]).transpose(2, 3, 1, 0)),
        matrix=_float32(matrix * (2 / top)),
        matrix_bias=_float32(parameters["matrix_bias"] - matrix.sum(0)),
        thresholds=_float32(np.pad(parameters["thresholds"], ((0, 0), (0, padding)))),
        slopes=_float32(np.pad(parameters["slopes"] * (depth / 3), ((0, 0), (0, padding)))),
        start=np.float32(parameters["bias"] * depth - 0.5),
        top=np.float32(top),
        rounding=np.float32(0.5 if white else 0),
    )


def _float32(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32)


def _rows(length: int, cells: int) -> _Rows:
    """Where `slice_affine_grid` reads: cell centres at whole numbers, the photo's border half a cell outside."""
    return _Rows(-0.5, cells / (length - 1)) if length > 1 else _Rows(cells / 2 - 0.5, 1.0)


def _runs(width: int, cells: int) -> _Runs:
    start, step = _rows(width, cells)
    enters = np.ceil((np.arange(cells) - start) / step).clip(0, width).astype(np.int64)  # first pixel past each centre
    bounds = np.unique([0, *enters, width])
    first = np.concatenate(
        [*(np.arange(a, b, _RUN_PIXELS) for a, b in zip(bounds[:-1], bounds[1:], strict=True)), [width]]
    )
    cell = np.searchsorted(enters, first[:-1], side="right") - 1
    return _Runs(
        first=first,
        left=cell.clip(0),
        right=(cell + 1).clip(0, cells - 1),
        place=(start + first[:-1] * step - cell).astype(np.float32),
        step=np.float32(step),
    )


# Fused multiply-add is all of "fast maths": the rest would let the compiler assume that no number is infinite.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
_compiled = numba.njit(**_OPTIONS)


@_compiled
def _load(pixels, first, count, planes):
    """Pixels `first`, ... of a row (3 W,) to the planes of red, green and blue, twice: to read, and to add to."""
    start = np.uint64(3 * first)
    for j in range(np.uint64(count)):
        red = np.float32(pixels[start + np.uint64(3) * j])
        green = np.float32(pixels[start + np.uint64(3) * j + np.uint64(1)])
        blue = np.float32(pixels[start + np.uint64(3) * j + np.uint64(2)])
        planes[_RED + j] = red
        planes[_GREEN + j] = green
        planes[_BLUE + j] = blue
        planes[_OUT_RED + j] = red
        planes[_OUT_GREEN + j] = green
        planes[_OUT_BLUE + j] = blue


@_compiled
def _find_bins(planes, count, look, depth):
    """Fill the guide's plane with positions among the bins, in [0, depth - 1]; returns the first and last bin used."""
    pixels = range(np.uint64(count))
    for j in pixels:
        planes[_GUIDE + j] = look.start
    for channel in range(3):
        red, green, blue = look.matrix[0, channel], look.matrix[1, channel], look.matrix[2, channel]
        bias = look.matrix_bias[channel]
        for j in pixels:
            planes[_MIXED + j] = planes[_RED + j] * red + planes[_GREEN + j] * green + planes[_BLUE + j] * blue + bias
        for k in range(0, look.thresholds.shape[1], _KNOTS_AT_ONCE):
            t0, t1, t2, t3 = look.thresholds[channel, k : k + 4]
            s0, s1, s2, s3 = look.slopes[channel, k : k + 4]
            for j in pixels:
                mixed = planes[_MIXED + j]
                planes[_GUIDE + j] += (
                    _relu(mixed - t0) * s0 + _relu(mixed - t1) * s1 + _relu(mixed - t2) * s2 + _relu(mixed - t3) * s3
                )
    top = np.float32(depth - 1)
    low, high = np.int32(depth - 1), np.int32(0)
    for j in pixels:
        place = _clamp(planes[_GUIDE + j], top)
        planes[_GUIDE + j] = place
        low = min(low, np.int32(place))
        high = max(high, np.int32(place))
    return low, min(high + 1, depth - 1)


@_compiled
def _relu(value):
    return value if value > _ZERO else _ZERO


@_compiled
def _clamp(value, top):
    """To [0, top], NaN to 0."""
    value = value if value > _ZERO else _ZERO
    return value if value < top else top


@_compiled
def _add_change(planes, count, bin_, place, step, at, per_step):
    """Add one bin's share of the change: transforms `at` + t * `per_step`, (12,) each, t = place, place + step, ..."""
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11 = at
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11 = per_step
    for j in range(np.uint64(count)):
        weight = _relu(_ONE - abs(planes[_GUIDE + j] - bin_))
        t = place + np.float32(np.int32(j)) * step
        red, green, blue = planes[_RED + j], planes[_GREEN + j], planes[_BLUE + j]
        planes[_OUT_RED + j] += weight * (
            (a0 + t * b0) * red + (a1 + t * b1) * green + (a2 + t * b2) * blue + (a3 + t * b3)
        )
        planes[_OUT_GREEN + j] += weight * (
            (a4 + t * b4) * red + (a5 + t * b5) * green + (a6 + t * b6) * blue + (a7 + t * b7)
        )
        planes[_OUT_BLUE + j] += weight * (
            (a8 + t * b8) * red + (a9 + t * b9) * green + (a10 + t * b10) * blue + (a11 + t * b11)
        )


@_compiled
def _add_changes(planes, count, look, y, runs, run, at, per_step):
    """Add what the grid changes in one run, `y` rows down the grid; `at`, `per_step` (12,) are there to be used."""
    grid_height, _, depth, _ = look.change.shape
    above = int(y)
    below = min(above + 1, grid_height - 1)
    down = np.float32(y - above)
    left, right = runs.left[run], runs.right[run]
    low, high = _find_bins(planes, count, look, depth)
    for bin_ in range(low, high + 1):
        for k in range(12):
            a = look.change[above, left, bin_, k]
            b = look.change[above, right, bin_, k]
            a += down * (look.change[below, left, bin_, k] - a)
            b += down * (look.change[below, right, bin_, k] - b)
            at[k], per_step[k] = a, b - a
        _add_change(planes, count, np.float32(bin_), runs.place[run], runs.step, at, per_step)


@_compiled
def _store(planes, count, top, rounding, pixels, first):
    start = np.uint64(3 * first)
    for j in range(np.uint64(count)):
        pixels[start + np.uint64(3) * j] = _clamp(planes[_OUT_RED + j], top) + rounding
        pixels[start + np.uint64(3) * j + np.uint64(1)] = _clamp(planes[_OUT_GREEN + j], top) + rounding
        pixels[start + np.uint64(3) * j + np.uint64(2)] = _clamp(planes[_OUT_BLUE + j], top) + rounding


def _retouch_rows(photo, out, first_row, look, rows, runs):
    """Rows `first_row`, ... of a photo, (h, 3 W) in and out."""
    planes = np.empty(8 * _RUN_PIXELS, np.float32)
    at, per_step = np.empty(12, np.float32), np.empty(12, np.float32)
    for i in range(photo.shape[0]):
        y = min(max(rows.start + (first_row + i) * rows.step, 0.0), look.change.shape[0] - 1.0)
        for run in range(runs.left.shape[0]):
            first = runs.first[run]
            count = runs.first[run + 1] - first
            _load(photo[i], first, count, planes)
            _add_changes(planes, count, look, y, runs, run, at, per_step)
            _store(planes, count, look.top, look.rounding, out[i], first)


def _kept(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled once per kind of photo and installation: numba keeps the code beside this file or in a cache folder."""
    try:
        return numba.njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # there is no folder that can be written
        return _compiled(function)


def _ready(kept: Callable[..., None], unkept: Callable[..., None]) -> Callable[..., None]:
    """The kept code of a function, or the same compiled anew where keeping it goes wrong."""

    def run(*arguments: Any) -> None:
        try:
            kept(*arguments)
        except Exception:  # whatever a full disk or a damaged file raises: the code itself raises nothing
            unkept(*arguments)

    return run


_retouch_kept = _kept(_retouch_rows)
_retouch = _ready(_retouch_kept, _compiled(_retouch_rows))
