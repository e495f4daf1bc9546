"""Which pairs training leaves out: those of another style, also where a fit to all hides them, and no others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diffretouch.training.same_style import same_style

COUNT, FOLDS = 60, 8


def pairs(seed: int, count: int = COUNT) -> tuple[np.ndarray, np.ndarray]:
    """Traits of photos (N, 6), and a style's change of each (N, 3): of large changes more is left to chance."""
    rng = np.random.default_rng(seed)
    photos = np.concatenate([rng.standard_normal((count, 5)), np.ones((count, 1))], 1)
    changes = photos @ (2 * rng.standard_normal((6, 3)))
    chance = 0.3 * np.sqrt(np.linalg.norm(changes, axis=1, keepdims=True) + 1)
    return photos, changes + chance * rng.standard_normal(changes.shape)


def held_back_of(photos: np.ndarray, changes: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares without the fold of each pair."""

    def held_back(chosen: np.ndarray) -> np.ndarray:
        errors, folds = np.zeros(len(photos)), np.arange(len(photos)) % FOLDS
        for fold in range(FOLDS):
            others, own = chosen & (folds != fold), folds == fold
            rule = np.linalg.lstsq(photos[others], changes[others], rcond=None)[0]
            errors[own] = np.linalg.norm(photos[own] @ rule - changes[own], axis=1)
        return errors

    return held_back


def edits_of(changes: np.ndarray) -> np.ndarray:
    return np.linalg.norm(changes, axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_another_style_are_left_out_although_a_fit_to_all_hides_them(seed) -> None:
    photos, changes = pairs(seed)
    wrong = np.arange(COUNT) % 5 == 4
    changes[wrong] = [6, -4, 3]
    held_back = held_back_of(photos, changes)
    hidden = held_back(np.ones(COUNT, bool))
    assert (hidden[wrong] < 2 * np.median(hidden)).any()
    kept = same_style(held_back, edits_of(changes))
    assert kept[wrong].mean() < 0.1 and kept[~wrong].mean() > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_all_stay_where_the_others_are_served_no_better_without_the_worst(seed) -> None:
    photos, changes = pairs(seed)
    held_back = held_back_of(photos, changes)

    def with_a_hard_one(chosen: np.ndarray) -> np.ndarray:
        errors = held_back(chosen)
        errors[7] = 50.0  # whatever it was fitted to
        return errors

    assert same_style(with_a_hard_one, edits_of(changes)).all()


def test_among_few_pairs_nobody_can_say_which_is_wrong() -> None:
    photos, changes = pairs(0, 7)
    changes[3] = 40
    assert same_style(held_back_of(photos, changes), edits_of(changes)).all()
