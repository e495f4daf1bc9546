"""Harm, counted on pictures made by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scenes import scene

from diffretouch.evaluation.baselines import auto_contrast, no_change
from diffretouch.evaluation.harm import (
    black_and_white,
    clipped_share,
    colour_cast,
    farther_from_every_expert,
    harm_of,
    measure_harm,
    white_share,
)
from diffretouch.evaluation.metrics import delta_e_2000


def four_pixels() -> np.ndarray:
    """One white pixel, one clipped in one channel above, one below, and one that is not clipped: (2, 2, 3)."""
    return np.asarray([[[254, 255, 254], [254, 90, 80]], [[60, 1, 70], [253, 2, 128]]], np.uint8)


def test_clipped_and_white_pixels_are_counted_as_defined() -> None:
    assert clipped_share(four_pixels()) == 0.75
    assert white_share(four_pixels()) == 0.25
    assert clipped_share(np.full((2, 2, 3), 253, np.uint8)) == 0 == white_share(np.full((2, 2, 3), 253, np.uint8))


def test_what_a_retouch_clips_is_what_was_not_clipped_before() -> None:
    picture = np.full((4, 4, 3), 128, np.uint8)
    picture[0, 0] = 255

    def burn(one: np.ndarray) -> np.ndarray:
        burnt = one.copy()
        burnt[:2] = 1  # half of the pixels
        return burnt

    harm = harm_of(picture, burn)
    assert harm["clipped"] == harm["white"] == 50
    assert harm["clipped_gained"] == harm["white_gained"] == pytest.approx(50 - 100 / 16)


def test_nothing_done_is_no_harm() -> None:
    harm = harm_of(scene(0), no_change)
    assert harm["moved"] == harm["clipped_gained"] == harm["white_gained"] == harm["second"] == harm["third"] == 0
    assert harm["cast"] == 0


def test_repeated_retouching_is_held_against_the_pass_before() -> None:
    """Half of the way to grey in every pass: each moves half of what the one before moved."""
    picture = np.full((8, 8, 3), 208, np.uint8)
    found = measure_harm({"half": lambda one: (one + 128 / 255) / 2}, {"a": picture}, seed=0)["methods"]["half"]
    passes = [np.full((8, 8, 3), level / 255, np.float32) for level in (208, 168, 148, 138)]
    first, second, third = (delta_e_2000(*pair) for pair in itertools.pairwise(passes))
    assert found["second"]["mean"] == pytest.approx(second / first, rel=1e-3)
    assert found["third"]["mean"] == pytest.approx(third / second, rel=1e-3)
    still = measure_harm({"no change": no_change}, {"a": picture}, seed=0)["methods"]["no change"]
    assert still["second"] is None and still["third"] is None  # a share of nothing


def test_a_tint_of_black_and_white_is_found_in_a_single_pixel() -> None:
    def tint(one: np.ndarray) -> np.ndarray:
        tinted = one.copy()
        tinted[24, 36, 2] += 7 / 255
        return tinted

    assert colour_cast(black_and_white(scene(0))) == 0
    assert harm_of(scene(0), tint)["cast"] == 7
    assert harm_of(scene(0), auto_contrast)["cast"] == 0


def test_slow_methods_are_asked_once_for_each_photo() -> None:
    asked = []

    def slow(picture: np.ndarray) -> np.ndarray:
        asked.append(picture)
        return picture

    found = measure_harm({"teacher": slow}, {"a": scene(0), "b": scene(1)}, seed=0)
    assert len(asked) == 2 and "cast" not in found["methods"]["teacher"]


def test_a_photo_is_farther_from_every_expert_only_if_it_is_from_each() -> None:
    def record(**errors: tuple[float, float]) -> dict:
        quality = {method: {"A": {"delta_e": a}, "B": {"delta_e": b}} for method, (a, b) in errors.items()}
        return {"quality": quality | {"oracle c": quality["c = 0"]}}

    near = record(**{"no change": (10, 10), "c = 0": (11, 9)})
    far = record(**{"no change": (10, 10), "c = 0": (11, 10.5)})
    assert farther_from_every_expert([near, far, far, far], 0)["c = 0"]["mean"] == 0.75
    assert list(farther_from_every_expert([near, far], 0)) == ["no change", "c = 0"]
    assert farther_from_every_expert([near, far], 0)["no change"]["mean"] == 0
