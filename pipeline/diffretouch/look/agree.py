"""Which of several pairs tell of the same edit: what `fit_look` leaves out, or turns round, before it fits.

A few pairs are tried as the rule, each with a look of its own; the rule is the one that most others follow best. Then
each pair is judged by the look of the half that follows it best, forwards and, because folders do get swapped,
backwards. Sound as long as more than half of the pairs tell of one edit.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np

from .fit import delta_e, quick_look

Sample = tuple[np.ndarray, np.ndarray]  # before, after: each (N, 3) float32 sRGB in [0, 1]

_LEAST = 3  # pairs; of two that contradict each other nobody can say which is wrong
_CANDIDATES = 12
_SAMPLE = 300  # pixels of each pair
_FURTHER = 3.0  # times the median error of all pairs, and
_LEAST_FURTHER = 2.5  # Delta E, from which a pair is another edit
_BETTER = 0.6  # a pair is swapped whose error falls to this part of itself when it is turned round


class Verdict(Enum):
    """What a pair is to the others."""

    AGREES = "tells of the same edit"
    SWAPPED = "tells of the same edit when before and after change places"
    CONTRADICTS = "tells of another edit"


def verdicts(samples: Sequence[Sample]) -> list[Verdict]:
    """Judge each pair by the others; all agree where there are fewer than three.

    Example:
        >>> colours = [np.random.default_rng(n).random((200, 3), np.float32) for n in range(4)]
        >>> pairs = [(c, 0.5 * c) for c in colours[:3]] + [(0.5 * colours[3], colours[3])]
        >>> [verdict.name for verdict in verdicts(pairs)]
        ['AGREES', 'AGREES', 'AGREES', 'SWAPPED']
    """
    if len(samples) < _LEAST:
        return [Verdict.AGREES] * len(samples)
    thin = [_thinned(sample) for sample in samples]
    tried = np.unique(np.linspace(0, len(thin) - 1, _CANDIDATES).astype(int))
    errors = [_errors([thin[number]], thin) for number in tried]  # each (pairs, 2): forwards, backwards
    # Forwards, or two folders that are swapped as a whole would be as good a rule.
    rule = min(errors, key=lambda error: np.median(error[:, 0]))
    followers = np.argsort(rule[:, 0])[: len(thin) // 2 + 1]
    errors = [_errors([thin[number] for number in followers], thin)]
    forwards, backwards = errors[0].T
    limit = max(_LEAST_FURTHER, _FURTHER * float(np.median(forwards)))
    swapped = (backwards < _BETTER * forwards) & (backwards <= limit) & (forwards > _LEAST_FURTHER)
    return [
        Verdict.SWAPPED if turned else Verdict.CONTRADICTS if apart > limit else Verdict.AGREES
        for turned, apart in zip(swapped, forwards, strict=True)
    ]


def _thinned(sample: Sample) -> Sample:
    step = max(1, len(sample[0]) // _SAMPLE)
    return sample[0][::step], sample[1][::step]


def _errors(chosen: Sequence[Sample], samples: Sequence[Sample]) -> np.ndarray:
    """(pairs, 2): median Delta E of each pair to the look of the chosen ones, as it came and turned round."""
    before, after = (np.concatenate(side) for side in zip(*chosen, strict=True))
    look = quick_look(before, after)
    both = [np.concatenate(side) for side in zip(*samples, strict=True)]
    ends = np.cumsum([len(before) for before, _ in samples])[:-1]
    columns = []
    for source, target in (both, both[::-1]):
        apart = delta_e(look.apply(source[None])[0], target)
        columns.append([float(np.median(part)) for part in np.split(apart, ends)])
    return np.array(columns).T
