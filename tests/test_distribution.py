"""Distances of sets of pictures, against values known by hand, and what they say of samplers and regressions."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from scenes import scene
from skimage.color import rgb2lab

from diffretouch.evaluation.distribution import (
    FIGURES,
    crps,
    crps_unbiased,
    energy_distance,
    energy_unbiased,
    lab_view,
    measure_distribution,
    pairwise_distance,
)
from diffretouch.evaluation.methods import Methods, Model, Split, unit
from diffretouch.evaluation.photos import EvaluatedPhoto


def points(*values: float) -> np.ndarray:
    """Points on a line, (n, 1)."""
    return np.asarray(values, dtype=np.float64)[:, None]


def test_the_energy_distance_of_equal_sets_is_zero_and_of_two_points_twice_their_distance() -> None:
    assert energy_distance(points(1, 4, 9), points(9, 1, 4)) == pytest.approx(0, abs=1e-12)
    assert energy_distance(points(0), points(3)) == pytest.approx(6)
    assert energy_distance(np.zeros((1, 2)), np.asarray([[3.0, 4.0]])) == pytest.approx(10)  # Euclidean


def test_the_energy_distance_is_the_square_of_scipys() -> None:
    draw = np.random.default_rng(0)
    answers, experts = draw.normal(0, 1, 7), draw.normal(1, 2, 5)
    assert energy_distance(answers[:, None], experts[:, None]) == pytest.approx(
        scipy.stats.energy_distance(answers, experts) ** 2
    )


def test_a_single_answer_in_the_middle_is_farther_from_the_experts_than_the_experts_themselves() -> None:
    """Where the mean error prefers the middle, the distance of sets prefers the set."""
    experts = points(-2, 2)
    assert energy_distance(points(0), experts) == pytest.approx(2)  # 2 * 2 - 0 - 2
    assert energy_distance(points(-2, 2), experts) == 0
    assert energy_distance(points(-9, 9), experts) > energy_distance(points(0), experts)  # spreading alone loses


def test_few_draws_from_the_right_distribution_are_judged_without_bias() -> None:
    draw = np.random.default_rng(0)
    experts = draw.normal(size=(5, 3))
    drawn = [experts[draw.integers(5, size=8)] for _ in range(3000)]
    assert np.mean([energy_unbiased(each, experts) for each in drawn]) == pytest.approx(0, abs=0.03)
    assert np.mean([energy_distance(each, experts) for each in drawn]) > 0.1
    exact = crps(experts, experts)
    assert np.mean([crps_unbiased(each, experts) for each in drawn]) == pytest.approx(exact, abs=0.03)


def test_crps_of_one_answer_is_its_mean_absolute_error_and_of_two_known() -> None:
    assert crps(points(1), points(4)) == crps_unbiased(points(1), points(4)) == 3
    assert crps(points(0, 2), points(1)) == pytest.approx(1 - 0.5)  # E|x - y| = 1, E|x - x'| = 1 with equal pairs
    assert crps_unbiased(points(0, 2), points(1)) == pytest.approx(1 - 1)
    assert pairwise_distance(points(0, 2)) == 2 and pairwise_distance(points(5)) == 0


def test_the_space_measures_delta_e_1976_and_ignores_fine_detail() -> None:
    grey, lighter = np.full((64, 96, 3), 0.5, np.float32), np.full((64, 96, 3), 0.6, np.float32)
    step = rgb2lab(lighter[:1, :1])[0, 0, 0] - rgb2lab(grey[:1, :1])[0, 0, 0]
    assert np.linalg.norm(lab_view(lighter) - lab_view(grey)) == pytest.approx(step, rel=1e-3)
    checks = grey.copy()
    checks[::2, ::2] += 0.1
    checks[1::2, 1::2] += 0.1
    checks[::2, 1::2] -= 0.1
    checks[1::2, ::2] -= 0.1
    assert np.linalg.norm(lab_view(checks) - lab_view(grey)) < 0.01


def test_every_model_is_measured_by_one_answer_and_by_its_seeds(tiny_pipeline) -> None:
    photos = {
        f"photo-{seed}": EvaluatedPhoto(
            f"photo-{seed}",
            unit(scene(seed, 24, 36)),
            {"A": unit(scene(seed + 10, 24, 36)), "B": unit(scene(seed + 20, 24, 36))},
            {},
        )
        for seed in range(2)
    }
    split = Split(tuple(photos), photos.__getitem__)
    model = Model(tiny_pipeline())
    methods = Methods({"no change": lambda picture: picture}, {"c = 0": model, "other": model})
    found = measure_distribution(methods, split, seed=0)
    assert list(found["methods"]) == ["no change", "c = 0", "other", "8 seeds", "other, 8 seeds"]
    for name, figures in found["methods"].items():
        assert all(figures[figure]["interval"] is not None for figure in FIGURES)
        assert (figures["pairwise"]["mean"] > 0) == name.endswith("8 seeds")
        assert figures["nearest"]["mean"] <= figures["distance"]["mean"] + 1e-9
    seeds, single = found["methods"]["8 seeds"], found["methods"]["other"]
    ratio = seeds["energy"]["mean"] / single["energy"]["mean"]
    assert seeds["of_single"]["other"]["energy"]["mean"] == pytest.approx(ratio)
    assert found["experts"]["mean"] > 0 and len(found["records"]) == 2
