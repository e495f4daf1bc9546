"""synthetic.py: what comes to be retouched is worse on purpose, or fine on purpose, and there is enough of it."""

from __future__ import annotations

import numpy as np
import pytest
from scenes import scene, scene_light

from diffretouch.data.light import quantise, to_srgb
from diffretouch.data.scenes import scene_of
from diffretouch.data.synthetic import (
    Scene,
    camera_photo,
    degrade,
    draw_page,
    finished,
    flat_rendition,
    photo_to_retouch,
    vary,
)
from diffretouch.evaluation.metrics import delta_e_2000

LIGHTS = [scene_light(seed) for seed in range(6)]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return delta_e_2000(one / 255, other / 255)


def taught(seed: int) -> Scene:
    """A scene whose natural retouch is warmer and brighter than the photo."""
    photo = scene(seed) / np.float32(255)
    return Scene(LIGHTS[seed], photo, np.clip(photo * np.float32([1.1, 1.05, 0.9]), 0, 1))


@pytest.mark.parametrize("camera", [flat_rendition, degrade])
def test_a_camera_depends_on_the_generator_alone(camera) -> None:
    light = LIGHTS[0].copy()
    first = camera(light, np.random.default_rng(5))
    assert np.array_equal(first, camera(light, np.random.default_rng(5))) and np.array_equal(light, LIGHTS[0])
    assert not np.array_equal(first, camera(light, np.random.default_rng(6)))
    assert first.dtype == np.uint8 and first.shape == light.shape


@pytest.mark.parametrize("camera", [flat_rendition, degrade])
def test_a_cameras_photo_is_worse_on_purpose(camera) -> None:
    """Visibly off the original, and flatter and duller than it."""
    off, flatter, duller = [], [], []
    for seed, light in enumerate(LIGHTS):
        rng, shown = np.random.default_rng(seed), quantise(finished(light))
        for _ in range(6):
            worse = camera(light, rng)
            off.append(distance(worse, shown))
            flatter.append(worse.std() < shown.std())
            duller.append(np.ptp(worse, axis=2).mean() < np.ptp(shown, axis=2).mean())
    assert np.median(off) > 5 and np.mean(flatter) > 0.8 and np.mean(duller) > 0.8


def test_a_flat_rendition_is_dark_most_of_the_time() -> None:
    darker = [
        flat_rendition(light, np.random.default_rng(seed)).mean() < quantise(finished(light)).mean()
        for light in LIGHTS
        for seed in range(10)
    ]
    assert np.mean(darker) > 0.75


def test_underexposure_makes_flat_renditions_darker_and_nothing_else_random() -> None:
    light = LIGHTS[0]
    shown = {
        factor: [flat_rendition(light, np.random.default_rng(seed), factor) for seed in range(8)]
        for factor in (0, 1, 1.5)
    }
    assert np.mean(shown[0]) > np.mean(shown[1]) > np.mean(shown[1.5])
    usual = flat_rendition(light, np.random.default_rng(3))
    assert np.array_equal(usual, flat_rendition(light, np.random.default_rng(3), 1.0))


def test_a_failing_of_a_third_is_nearer_to_the_photo() -> None:
    shown = quantise(finished(LIGHTS[1]))
    whole, third = (
        [distance(degrade(LIGHTS[1], np.random.default_rng(seed), amount), shown) for seed in range(20)]
        for amount in (1.0, 0.3)
    )
    assert np.median(third) < 0.6 * np.median(whole)


def test_some_degraded_photos_are_lit_unevenly() -> None:
    """On a flat grey only uneven light can make one side darker."""
    grey = np.full((32, 32, 3), 0.22, dtype=np.float32)
    rng = np.random.default_rng(0)
    spreads = [np.ptp(degrade(grey, rng)[4:-4, 4:-4, 1].astype(int)) for _ in range(60)]
    assert sum(spread >= 10 for spread in spreads) >= 6
    assert sum(spread <= 6 for spread in spreads) >= 12


def test_what_comes_in_is_now_and_then_finished_and_wants_less_or_nothing() -> None:
    one, rng = taught(0), np.random.default_rng(0)
    drawn = [photo_to_retouch(one, rng) for _ in range(200)]
    wants = [distance(picture, quantise(natural)) for picture, natural in drawn]
    whole = distance(quantise(one.photo), quantise(one.natural))
    is_finished = np.array([np.array_equal(picture, quantise(one.photo)) for picture, _ in drawn])
    asked = np.array(wants)[is_finished]
    assert 0.05 < is_finished.mean() < 0.2
    assert 0.5 * whole < asked.min() <= asked.max() < 0.9 * whole, "little would be left for a second pass"
    assert 0.03 < np.mean(np.array(wants) == 0) < 0.15
    assert np.mean(np.array(wants) > whole) > 0.4


def test_a_teachers_taste_changes_what_is_wanted_of_flat_renditions_and_nothing_else() -> None:
    def red(picture: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.float32([1, 0, 0]), picture.shape)

    tasted = 0
    for seed in range(40):
        chosen = taught(seed % len(LIGHTS))
        picture, wanted = photo_to_retouch(chosen, np.random.default_rng(seed))
        same, other = photo_to_retouch(chosen, np.random.default_rng(seed), taste=red)
        np.testing.assert_array_equal(picture, same)
        if np.array_equal(wanted, other):
            continue
        tasted += 1
        assert distance(picture, quantise(wanted)) > 3, "a finished photo was given the teacher's taste"
        np.testing.assert_allclose(other, 0.4 * wanted + 0.6 * red(picture), atol=1e-6)
    assert 5 < tasted < 25


def test_pages_and_black_and_white_are_spared_the_teachers_taste() -> None:
    def refused(picture: np.ndarray) -> np.ndarray:
        raise AssertionError("the teacher was asked")

    grey = np.repeat(taught(0).natural.mean(-1, keepdims=True), 3, -1)
    page = draw_page(np.random.default_rng(1)) / np.float32(255)
    for picture in (grey, page):
        chosen = Scene(picture**2.2, picture, picture)
        for seed in range(8):
            camera_photo(chosen, np.random.default_rng(seed), taste=refused)


def test_what_is_measured_on_always_wants_the_whole_natural_retouch() -> None:
    one, rng = taught(1), np.random.default_rng(0)
    for _ in range(20):
        picture, natural = camera_photo(one, rng)
        assert natural is one.natural and distance(picture, quantise(one.photo)) > 0.5


def test_other_scenes_are_parts_of_the_photo_in_other_colours_with_the_teachers_answer_along() -> None:
    one = taught(0)
    varied = [vary(one, np.random.default_rng(seed)) for seed in range(12)]
    again = vary(one, np.random.default_rng(3))
    assert np.array_equal(varied[3].natural, again.natural) and np.array_equal(varied[3].light, again.light)
    for other in varied:
        assert other.light.shape == other.photo.shape == other.natural.shape
        assert all(
            0.4 * side - 1 <= part <= side for part, side in zip(other.photo.shape, one.photo.shape, strict=True)
        )
        assert min(other.light.min(), other.photo.min(), other.natural.min()) >= 0 and other.natural.max() <= 1
        moved = other.natural.mean((0, 1)) - other.photo.mean((0, 1))
        assert np.linalg.norm(moved) > 0.005
    assert len({other.photo.shape for other in varied}) > 6


def test_other_scenes_keep_grey_grey() -> None:
    grey = np.full((16, 16, 3), 0.3, np.float32)
    for seed in range(5):
        assert np.ptp(vary(Scene(grey, grey, grey), np.random.default_rng(seed)).photo, axis=2).max() < 1e-6


def test_one_scene_in_twelve_is_black_and_white() -> None:
    one = taught(2)
    colourless = [np.ptp(vary(one, np.random.default_rng(seed)).natural, axis=2).max() < 1e-5 for seed in range(240)]
    assert 0.04 < np.mean(colourless) < 0.14


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (24, 24)])
@pytest.mark.parametrize("value", [0, 0.2, 100])
def test_flat_and_tiny_photos_are_survived(size, value) -> None:
    light = np.full((*size, 3), value, np.float32)
    one, rng = scene_of(light, None), np.random.default_rng(0)
    for _ in range(8):
        picture, natural = photo_to_retouch(vary(one, rng), rng)
        assert picture.dtype == np.uint8 and np.isfinite(natural).all()


def test_highlights_above_white_are_drawn_down_rather_than_clipped() -> None:
    light = scene_light(2) * 0.5
    light[8:24, 10:40] = np.linspace(0.9, 1.6, 30)[:, None]
    window = finished(light)[16, 15:40].sum(1)
    assert (np.diff(window) > 0).all() and window.max() < 3
    plain = np.clip(LIGHTS[0], 0, 1)
    assert np.allclose(finished(plain), to_srgb(plain), atol=1e-6), "a photo without such is its own finished picture"


def test_pages_depend_on_the_generator_alone() -> None:
    first, again, other = (draw_page(np.random.default_rng(seed), 100, 60) for seed in (1, 1, 2))
    assert first.shape == (60, 100, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)
