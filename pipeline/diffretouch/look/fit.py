"""One look that does to photos what was done to some of them: an `AffineGrid` of one cell, fitted to pairs of pixels.

The grid has no place in the photo (height = width = 1). Its depth runs along luma, to which strong colours add: so it
is a chain of affine colour transforms from shadows to highlights and vivid colours. Tone curves, white balance,
fading, split toning, saturation and black-and-white are such chains, and a few photos determine them also for colours
that they do not have. Along luma alone, saturated colours would share the transforms of greys.

The fit is least squares in units of Delta E 2000: its terms of lightness, chroma and hue (Sharma et al. 2005), made
linear around each pixel's target (`metric`). Pixels that disagree with the rest count less the more they do, clipped
ones little. How far neighbouring transforms may differ is chosen by what predicts held-back pixels best.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..model.modeling_affine_grid import AffineGrid, GuideCurve

DEPTH = 8
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # Rec. 709, of sRGB numbers: nearer to lightness than Rec. 601
_OPPONENTS = np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32)  # red against green, yellow against blue
_OF_OPPONENTS = np.array([0.2, 0.1], np.float32)  # how much of their absolute values adds to luma
_TIES = (1e-1, 1e-2, 1e-3, 1e-4)  # between neighbouring transforms, against a mean squared Delta E
_TO_IDENTITY = 1e-5  # where nothing else says anything
_ITERATIONS = 5
_CLIPPED, _CLIPPED_WEIGHT = 1.5 / 255, 0.05
_LEAST_SPREAD = 0.5  # Delta E: below it is noise of files, and nothing is taken for an outlier
_HUBER, _OUTLIER = 1.345, 10.0  # spreads from which a pixel's weight falls, and at which nothing is left of it

# Linear sRGB -> XYZ over the white of D65.
_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
) / np.array([[0.95047], [1.0], [1.08883]])
_TO_LAB = np.array([[0.0, 116.0, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])


class Error(NamedTuple):
    """Delta E 2000 over pixels: the mean, and what 95% of them stay under."""

    mean: float
    p95: float


@dataclass(frozen=True, eq=False)
class Pixels:
    """Pixels before and after an edit.

    Args:
        before, after: (N, 3) float32 sRGB in [0, 1].
        folds: (N,) int64: pixels with the same number are held back together.
        weights: (N,) float32, of each pixel.
    """

    before: np.ndarray
    after: np.ndarray
    folds: np.ndarray
    weights: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Pixels:
        return Pixels(self.before[chosen], self.after[chosen], self.folds[chosen], self.weights[chosen])


@dataclass(frozen=True, eq=False)
class Fit:
    """A look and what is known of it.

    Attributes:
        look: the look, of one cell.
        held_back: (N,) Delta E 2000 of every pixel to its target, by a look that was fitted without its fold.
        edit: (N,) Delta E 2000 between before and after.
        kept: (N,) bool: pixels that agree with the look; the others are edited locally.
        without: {fold: the look that was fitted without it}.
    """

    look: AffineGrid
    held_back: np.ndarray
    edit: np.ndarray
    kept: np.ndarray
    without: dict[int, AffineGrid]

    @property
    def error(self) -> Error:
        """Of held-back pixels that agree with the look."""
        chosen = self.held_back[self.kept] if self.kept.any() else self.held_back
        return Error(float(chosen.mean()), float(np.quantile(chosen, 0.95)))

    @property
    def unexplained(self) -> float:
        """Which part of the edit the look misses on held-back pixels, 0 to 1."""
        return float(min(1.0, self.held_back.mean() / max(self.edit.mean(), 1e-6)))


def fit_pixels(pixels: Pixels, depth: int = DEPTH) -> Fit:
    """The look nearest to the pixels, robustly.

    Example:
        >>> before = np.random.default_rng(0).random((4000, 3), np.float32)
        >>> ones = np.ones(4000, np.float32)
        >>> fit = fit_pixels(Pixels(before, 0.5 * before + 0.2, np.arange(4000) % 4, ones))
        >>> fit.look, fit.error.mean < 0.1
        (AffineGrid(12x8x1x1, device=cpu), True)
    """
    bins, features = _features(pixels.before, depth)
    wanted = 2 * (pixels.after - pixels.before)
    metrics = metric(pixels.after) / 2  # of the scale [-1, 1]
    clipped = _is_clipped(pixels.before) | _is_clipped(pixels.after)
    trust = pixels.weights * np.where(clipped, _CLIPPED_WEIGHT, 1)
    kept, weights, tie, change = trust > 0, trust, _TIES[0], np.zeros((depth, 4, 3))
    for iteration in range(_ITERATIONS):
        equations = _equations(bins, features, wanted, metrics, weights, pixels.folds, depth)
        if iteration in (0, _ITERATIONS - 1):
            tie = _best_tie(equations, depth)
        change = _solved(equations.sum(), tie, depth)
        apart = _distance(bins, features, wanted, metrics, change)
        agreement = _agreement(apart / _spread(apart if clipped.all() else apart[~clipped]))
        kept, weights = agreement > 0.02, trust * agreement
    held_back, without = np.empty(len(bins), np.float32), {}
    for fold, kept_back in zip(equations.folds, equations.without(), strict=True):
        rows, of_others = pixels.folds == fold, _solved(kept_back, tie, depth)
        made = _applied(bins[rows], features[rows], pixels.before[rows], of_others)
        held_back[rows], without[fold] = delta_e(made, pixels.after[rows]), _look(of_others)
    return Fit(_look(change), held_back, delta_e(pixels.before, pixels.after), kept, without)


def quick_look(before: np.ndarray, after: np.ndarray, tie: float = 1e-2, depth: int = 8) -> AffineGrid:
    """A look from (N, 3) pixels that holds nothing back: for comparing pairs.

    Example:
        >>> before = np.random.default_rng(0).random((500, 3), np.float32)
        >>> look = quick_look(before, 1 - before)
        >>> look.apply(np.full((1, 1, 3), 51, np.uint8)).tolist()
        [[[204, 204, 204]]]
    """
    bins, features = _features(before, depth)
    wanted, metrics = 2 * (after - before), metric(after) / 2
    weights, folds = np.ones(len(bins), np.float32), np.zeros(len(bins), np.int64)
    change = np.zeros((depth, 4, 3))
    for _ in range(3):
        change = _solved(_equations(bins, features, wanted, metrics, weights, folds, depth).sum(), tie, depth)
        apart = _distance(bins, features, wanted, metrics, change)
        weights = _agreement(apart / _spread(apart))
    return _look(change)


def at_strength(look: AffineGrid, strength: float) -> AffineGrid:
    """The look blended with the identity, 0 = no change, 1 = as it is: what `apply` does with `strength`, kept.

    What makes every photo grey, exactly (`AffineGrid.neutral`), still does so weakened: between is the photo in grey.

    Example:
        >>> at_strength(AffineGrid.identity(), 0.5).apply(np.full((1, 1, 3), 51, np.uint8)).tolist()
        [[[51, 51, 51]]]
    """
    change = look.coefficients.clone()
    change[[0, 5, 10]] -= 1
    change *= strength
    change[[0, 5, 10]] += 1
    blended = AffineGrid(change, look.guide)
    return blended.neutral() if look.is_neutral and strength > 0 else blended


def delta_e(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """CIEDE2000 of sRGB colours (N, 3) in [0, 1] -> (N,)."""
    from skimage.color import deltaE_ciede2000, rgb2lab

    return deltaE_ciede2000(rgb2lab(one), rgb2lab(other)).astype(np.float32)


def metric(colours: np.ndarray) -> np.ndarray:
    """(N, 3, 3): what turns a small difference of sRGB numbers around (N, 3) into terms whose norm is Delta E 2000."""
    colours = np.clip(colours, 0.02, 1).astype(np.float64)
    light = ((colours + 0.055) / 1.055) ** 2.4
    light_slope = 2.4 / 1.055 * ((colours + 0.055) / 1.055) ** 1.4
    xyz = np.maximum(light @ _TO_XYZ.T, 216 / 24389)
    lab = np.cbrt(xyz) @ _TO_LAB.T - [16, 0, 0]
    slopes = (_TO_LAB / (3 * np.cbrt(xyz) ** 2)[:, None]) @ (_TO_XYZ * light_slope[:, None])  # (N, 3, 3)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    cosine, sine = (np.where(chroma > 1e-3, lab[:, k] / np.maximum(chroma, 1e-3), 2 - k) for k in (1, 2))
    away = (lab[:, 0] - 50) ** 2
    scales = np.stack([1 + 0.015 * away / np.sqrt(20 + away), 1 + 0.045 * chroma, 1 + 0.015 * chroma], 1)
    turned = np.stack(
        [
            slopes[:, 0],
            cosine[:, None] * slopes[:, 1] + sine[:, None] * slopes[:, 2],
            cosine[:, None] * slopes[:, 2] - sine[:, None] * slopes[:, 1],
        ],
        1,
    )
    return (turned / scales[:, :, None]).astype(np.float32)


def _is_clipped(colours: np.ndarray) -> np.ndarray:
    return np.any((colours < _CLIPPED) | (colours > 1 - _CLIPPED), axis=1)


def _features(before: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The lower of the two transforms of each pixel (N,), and what they are multiplied by (N, 8)."""
    along = before @ _LUMA + np.abs(before @ _OPPONENTS.T) @ _OF_OPPONENTS
    place = np.clip(along * (depth - 1), 0, depth - 1)
    bins = np.minimum(place.astype(np.int64), depth - 2)
    upper = (place - bins)[:, None]
    signed = np.concatenate([2 * before - 1, np.ones_like(upper)], 1)
    return bins, np.concatenate([(1 - upper) * signed, upper * signed], 1).astype(np.float32)


class _Normal(NamedTuple):
    matrix: np.ndarray  # (n, n)
    right: np.ndarray  # (n,)
    size: float  # sum of w |wanted|^2
    weight: float

    def plus(self, other: _Normal, sign: int = 1) -> _Normal:
        return _Normal(
            self.matrix + sign * other.matrix,
            self.right + sign * other.right,
            self.size + sign * other.size,
            self.weight + sign * other.weight,
        )


class _Equations(NamedTuple):
    folds: list[int]
    normals: list[_Normal]

    def sum(self) -> _Normal:
        return functools.reduce(_Normal.plus, self.normals)

    def without(self) -> list[_Normal]:
        """Of all others, for each fold; of itself where it is alone."""
        if len(self.normals) == 1:
            return self.normals
        total = self.sum()
        return [total.plus(one, -1) for one in self.normals]


def _equations(bins, features, wanted, metrics, weights, folds, depth) -> _Equations:
    """Normal equations of each fold; unknowns (depth, 4, 3) are what the transforms differ by from the identity."""
    squares = np.einsum("nki,nkj->nij", metrics, metrics) * weights[:, None, None].astype(np.float32)  # (N, 3, 3)
    pulled = np.einsum("nij,nj->ni", squares, wanted)
    sizes = np.einsum("ni,ni->n", pulled, wanted)
    numbers = list(map(int, np.unique(folds)))
    normals = []
    for fold in numbers:
        in_fold = folds == fold
        matrix, right = np.zeros((depth, 4, 3, depth, 4, 3)), np.zeros((depth, 4, 3))
        for low in np.unique(bins[in_fold]):
            rows = np.flatnonzero(in_fold & (bins == low))
            products = (features[rows, :, None] * features[rows, None, :]).reshape(-1, 64)
            block = (products.T @ squares[rows].reshape(-1, 9)).reshape(2, 4, 2, 4, 3, 3)
            matrix[low : low + 2, :, :, low : low + 2] += block.transpose(0, 1, 4, 2, 3, 5)
            right[low : low + 2] += (features[rows].T @ pulled[rows]).reshape(2, 4, 3)
        count = 12 * depth
        normals.append(
            _Normal(
                matrix.reshape(count, count), right.ravel(), float(sizes[in_fold].sum()), float(weights[in_fold].sum())
            )
        )
    return _Equations(numbers, normals)


@functools.cache
def _prior(depth: int) -> np.ndarray:
    """(12 depth, 12 depth): the squared differences of neighbouring transforms."""
    steps = np.diff(np.eye(depth), axis=0) * (depth - 1)
    return np.kron(steps.T @ steps / (depth - 1), np.eye(12))


def _solved(normal: _Normal, tie: float, depth: int) -> np.ndarray:
    """(depth, 4, 3)."""
    scale = 2500 * normal.weight / 12  # a change of the whole scale is some 50 Delta E
    matrix = normal.matrix + scale * (tie * _prior(depth) + _TO_IDENTITY * np.eye(12 * depth))
    return np.linalg.solve(matrix, normal.right).reshape(depth, 4, 3)


def _best_tie(equations: _Equations, depth: int) -> float:
    """What predicts each fold best from the others."""

    def missed(tie: float) -> float:
        total = 0.0
        for own, others in zip(equations.normals, equations.without(), strict=True):
            change = _solved(others, tie, depth).ravel()
            total += (change @ own.matrix @ change - 2 * change @ own.right + own.size) / max(own.weight, 1e-9)
        return total

    return min(_TIES, key=missed)


def _changes(bins: np.ndarray, features: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(N, 3) on the scale [-1, 1]."""
    pairs = np.concatenate([change[:-1], change[1:]], 1).astype(np.float32)  # (depth - 1, 8, 3)
    out = np.empty((len(bins), 3), np.float32)
    for low in range(len(pairs)):
        rows = np.flatnonzero(bins == low)
        out[rows] = features[rows] @ pairs[low]
    return out


def _distance(bins, features, wanted, metrics, change) -> np.ndarray:
    """(N,): about Delta E 2000 between what the look makes and the target."""
    missing = wanted - _changes(bins, features, change)
    return np.sqrt(np.square(np.einsum("nij,nj->ni", metrics, missing)).sum(1))


def _applied(bins: np.ndarray, features: np.ndarray, before: np.ndarray, change: np.ndarray) -> np.ndarray:
    return np.clip(before + _changes(bins, features, change) / 2, 0, 1)


def _spread(apart: np.ndarray) -> float:
    """A robust standard deviation."""
    return max(_LEAST_SPREAD, 1.4826 * float(np.median(apart)))


def _agreement(spreads: np.ndarray) -> np.ndarray:
    """Huber's weights, which end as Tukey's do: rare colours still pull, other edits do not."""
    huber = np.minimum(1, _HUBER / np.maximum(spreads, _HUBER))
    return (huber * np.square(np.maximum(0, 1 - np.square(spreads / _OUTLIER)))).astype(np.float32)


def _look(change: np.ndarray) -> AffineGrid:
    depth = len(change)
    coefficients = torch.from_numpy(change.transpose(2, 1, 0).reshape(12, depth, 1, 1)).float()
    coefficients[[0, 5, 10]] += 1
    return AffineGrid(coefficients, _guide(depth))


def _guide(depth: int) -> GuideCurve:
    """What `_features` follows, as a curve: |x| = 2 relu(x) - x, so one channel is linear and two have a knot."""
    guide = GuideCurve(num_knots=1)
    linear = _LUMA - _OF_OPPONENTS @ _OPPONENTS  # sums to 1, as colours on the scale [-1, 1] need
    span = (1 - 1 / depth) / 2  # from the middle of the lowest transform to that of the highest
    with torch.no_grad():
        guide.matrix[:] = torch.from_numpy(np.stack([linear, *_OPPONENTS], axis=1))
        guide.thresholds[:] = torch.tensor([[-2.0], [0.0], [0.0]])
        guide.slopes[:] = 3 * span * torch.tensor([[1.0], *([2 * float(share)] for share in _OF_OPPONENTS)])
        guide.bias.fill_(0.5 / depth - span)
    return guide
