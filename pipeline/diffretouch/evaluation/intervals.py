"""Means and ratios of means over photos, each with its 95% percentile bootstrap interval (Efron & Tibshirani 1993).

A figure is {"mean": float, "interval": [low, high] or None}, ready for JSON; None where one photo leaves nothing to
draw from, or a ratio's denominator is not certain to be positive.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SAMPLES = 2000

Figure = dict[str, Any]
Values = Sequence[float] | np.ndarray  # one per photo


def resamples(count: int, seed: int) -> np.ndarray:
    """`SAMPLES` draws of `count` photos with replacement, (SAMPLES, count) indices.

    One set for everything that is compared: then intervals of differences are those of paired differences.
    """
    return np.random.default_rng(seed).integers(count, size=(SAMPLES, count))


def mean_figure(values: Values, samples: np.ndarray) -> Figure:
    """The mean of one value per photo."""
    array = np.asarray(values, dtype=np.float64)
    interval = _interval(array[samples].mean(1)) if len(array) > 1 else None
    return {"mean": float(array.mean()), "interval": interval}


def difference_figure(values: Values, others: Values, samples: np.ndarray) -> Figure:
    """The mean of the paired differences, `values` less `others`."""
    return mean_figure(np.asarray(values, dtype=np.float64) - np.asarray(others), samples)


def ratio_figure(values: Values, units: Values, samples: np.ndarray) -> Figure | None:
    """The mean of `values` in units of the mean of `units`; None where that is not positive."""
    above, below = np.asarray(values, dtype=np.float64), np.asarray(units, dtype=np.float64)
    if below.mean() <= 0:
        return None
    totals = below[samples].sum(1)
    certain = len(above) > 1 and bool((totals > 0).all())
    interval = _interval(above[samples].sum(1) / totals) if certain else None
    return {"mean": float(above.mean() / below.mean()), "interval": interval}


def _interval(resampled: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.percentile(resampled, (2.5, 97.5))]
