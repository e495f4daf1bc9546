"""The synthetic experts keep their intents, adapt to the photo, and have worse pictures to work on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import scene, scene_light
from skimage.color import rgb2lab

from diffretouch.attributes import ATTRIBUTES, attribute_scores
from diffretouch.data.synthetic import (
    EXPERTS,
    degrade,
    documentness,
    draw_page,
    neutral_gains,
    quantise,
    roll_off_highlights,
    subjects,
    to_linear,
    to_srgb,
    vary,
)
from diffretouch.evaluation.metrics import delta_e_2000, texture_agreement

BY_NAME = {expert.name: expert for expert in EXPERTS}
SCENES = [scene_light(seed) for seed in range(6)]


def scores(picture: np.ndarray) -> dict[str, float]:
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    return dict(zip(ATTRIBUTES, attribute_scores(tensor)[0].tolist(), strict=True))


def shown(light: np.ndarray) -> np.ndarray:
    """Linear light as an sRGB picture, clipped."""
    return quantise(to_srgb(np.clip(light, 0, 1)))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    return delta_e_2000(one / 255, other / 255)


@pytest.fixture(scope="module")
def retouched() -> list[dict[str, np.ndarray]]:
    return [{expert.name: expert.retouch(photo) for expert in EXPERTS} for photo in SCENES]


@pytest.fixture(scope="module")
def measured(retouched: list[dict[str, np.ndarray]]) -> list[dict[str, dict[str, float]]]:
    return [{name: scores(picture) for name, picture in experts.items()} for experts in retouched]


def test_there_are_five_experts_from_a_to_e() -> None:
    assert [expert.name for expert in EXPERTS] == ["A", "B", "C", "D", "E"]


@pytest.mark.parametrize("expert", EXPERTS, ids=lambda expert: expert.name)
def test_an_expert_repeats_itself_and_leaves_the_photo_alone(expert, retouched) -> None:
    photo = SCENES[0].copy()
    again = expert.retouch(photo)
    assert np.array_equal(again, retouched[0][expert.name])
    assert np.array_equal(photo, SCENES[0])
    assert again.dtype == np.uint8
    assert again.shape == photo.shape


def test_experts_disagree_visibly_on_every_photo(retouched) -> None:
    for experts in retouched:
        pictures = list(experts.values())
        apart = [distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
        assert min(apart) > 1  # Delta E 2000 of 1 is just noticeable


def test_c_is_the_warmest_expert_on_every_photo(measured) -> None:
    for experts in measured:
        assert max(experts, key=lambda name: experts[name]["temperature"]) == "C"


def test_d_is_the_darkest_and_the_coolest_expert_on_every_photo(measured) -> None:
    for experts in measured:
        assert min(experts, key=lambda name: experts[name]["brightness"]) == "D"
        assert min(experts, key=lambda name: experts[name]["temperature"]) == "D"


def test_b_is_the_brightest_and_the_softest_expert_on_every_photo(measured) -> None:
    for experts in measured:
        assert max(experts, key=lambda name: experts[name]["brightness"]) == "B"
        assert min(experts, key=lambda name: experts[name]["contrast"]) == "B"


def test_d_and_e_are_the_crisp_experts_on_every_photo(measured) -> None:
    for experts in measured:
        crispest = sorted(experts, key=lambda name: experts[name]["contrast"])[-2:]
        assert sorted(crispest) == ["D", "E"]


def test_e_is_the_most_colourful_neutral_expert_on_every_photo(measured) -> None:
    # C's warmth counts as colour too, so vividness is compared among those that do not tint.
    for experts in measured:
        assert max("ABDE", key=lambda name: experts[name]["colorfulness"]) == "E"


def test_experts_pull_towards_their_intent_rather_than_shift_by_an_amount() -> None:
    """A dark and a bright version of one photo end up closer together than they were: no fixed filter does that."""
    dark, bright = (np.clip(SCENES[1] * gain, 0, 1) for gain in (0.5, 1.2))
    before = scores(shown(bright))["brightness"] - scores(shown(dark))["brightness"]
    for expert in EXPERTS:
        after = scores(expert.retouch(bright))["brightness"] - scores(expert.retouch(dark))["brightness"]
        assert 0 < after < 0.7 * before


@pytest.mark.parametrize("expert", EXPERTS, ids=lambda expert: expert.name)
def test_the_same_colour_is_mapped_differently_in_different_photos(expert) -> None:
    """Two photos share the colour of one area; the rest of the photo decides what becomes of it."""
    colour = (120, 100, 90)
    high_key, low_key = (np.clip(scene(3) * gain, 0, 255).astype(np.uint8) for gain in (1.4, 0.4))
    for photo in (high_key, low_key):
        photo[16:32, 24:48] = colour
    inside = (slice(20, 28), slice(30, 42))
    mapped = [expert.retouch(to_linear(photo))[inside].reshape(-1, 3).mean(0) for photo in (high_key, low_key)]
    assert np.abs(mapped[0] - mapped[1]).max() > 10


def test_a_photo_with_a_colour_cast_is_neutralised_most_by_the_experts_who_mind() -> None:
    cast = np.array([1.25, 1.0, 0.75])
    photo = np.clip(SCENES[2] * cast, 0, 1).astype(np.float32)
    removed = {
        name: scores(shown(photo))["temperature"] - scores(BY_NAME[name].retouch(photo))["temperature"]
        for name in "AEC"
    }
    assert min(removed["A"], removed["E"]) > removed["C"] + 5  # mired


@pytest.mark.parametrize("value", [0, 20, 100, 10_000])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (24, 24)])
def test_flat_and_tiny_photos_are_survived(value, size) -> None:
    photo = np.full((*size, 3), value / 100, dtype=np.float32)
    for expert in EXPERTS:
        assert expert.retouch(photo).shape == photo.shape
    assert degrade(photo, np.random.default_rng(0)).shape == photo.shape


def test_degrading_depends_on_the_generator_alone() -> None:
    photo = SCENES[0]
    first = degrade(photo, np.random.default_rng(5))
    assert np.array_equal(first, degrade(photo.copy(), np.random.default_rng(5)))
    assert not np.array_equal(first, degrade(photo, np.random.default_rng(6)))
    rng = np.random.default_rng(5)
    assert not np.array_equal(degrade(photo, rng), degrade(photo, rng))
    assert first.dtype == np.uint8
    assert first.shape == photo.shape


def test_other_scenes_are_parts_of_the_photo_in_another_light_that_experts_can_retouch() -> None:
    light = SCENES[0]
    varied = [vary(light, np.random.default_rng(seed)) for seed in range(12)]
    assert np.array_equal(varied[3], vary(light.copy(), np.random.default_rng(3)))
    for one in varied:
        assert all(0.4 * side - 1 <= part <= side for part, side in zip(one.shape, light.shape, strict=True))
        assert one.dtype == np.float32 and np.isfinite(one).all() and one.min() >= 0
    seen = np.array([list(scores(shown(np.clip(one, 0, 1))).values()) for one in varied])
    assert (seen.std(0) > 0.05 * np.abs(seen.mean(0))).all()  # every attribute of theirs differs
    targets = [BY_NAME["A"].retouch(one) for one in varied]
    assert {target.shape for target in targets} == {one.shape for one in varied}


def test_other_scenes_keep_grey_grey_but_for_the_light() -> None:
    """A turn of colours moves colours; only the light tints what has none."""
    for seed in range(5):
        grey = vary(np.full((16, 16, 3), 0.3, np.float32), np.random.default_rng(seed))
        red_blue = np.log2(grey[..., 0] / grey[..., 2])
        assert np.ptp(red_blue) < 1e-3 and abs(red_blue.mean()) <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (24, 24)])
def test_other_scenes_of_flat_and_tiny_photos(size) -> None:
    for value in (0, 0.2, 100):
        assert np.isfinite(vary(np.full((*size, 3), value, np.float32), np.random.default_rng(0))).all()


def test_degraded_photos_are_worse_on_purpose() -> None:
    """They lie visibly off the original, exposed otherwise, flatter and duller, and off the experts' taste."""
    changes, farther, off = [], [], []
    for seed, photo in enumerate(SCENES):
        rng = np.random.default_rng(seed)
        original, expert = scores(shown(photo)), EXPERTS[0].retouch(photo)
        for _ in range(6):
            worse = degrade(photo, rng)
            degraded = scores(worse)
            off.append(distance(worse, shown(photo)))
            changes.append([degraded[name] / original[name] for name in ("brightness", "contrast", "colorfulness")])
            farther.append(distance(worse, expert) > distance(shown(photo), expert))
    _, contrast, colorfulness = np.median(changes, axis=0)
    assert np.std(changes, axis=0)[0] > 0.1
    assert contrast < 0.85
    assert colorfulness < 0.9
    assert np.mean(farther) > 0.75
    assert np.median(off) > 5


def test_some_degraded_photos_are_lit_unevenly() -> None:
    """On a flat grey, which counts as a page and mostly fails mildly, only uneven light can make one side darker."""
    grey = np.full((32, 32, 3), 0.22, dtype=np.float32)
    rng = np.random.default_rng(0)
    spreads = [np.ptp(degrade(grey, rng)[..., 1].astype(int)) for _ in range(60)]
    assert sum(spread <= 1 for spread in spreads) >= 12
    assert sum(spread >= 10 for spread in spreads) >= 6


def test_what_is_fine_already_stays_fine_now_and_then() -> None:
    off = [distance(degrade(SCENES[1], np.random.default_rng(seed)), shown(SCENES[1])) for seed in range(40)]
    assert min(off) < 0.4 * np.median(off)


def test_highlights_above_white_are_drawn_down_rather_than_clipped() -> None:
    """A window four times as bright as white keeps its shades where exposure is lowered for the rest of the photo."""
    light = scene_light(2) * 0.5
    light[8:24, 10:40] = np.linspace(0.9, 1.6, 30)[:, None]
    retouched = BY_NAME["D"].retouch(light)[16, 15:40].sum(1).astype(int)  # away from the window's frame
    assert (np.diff(retouched) >= 0).all()
    assert len(np.unique(retouched)) > 10


def test_saturated_petals_say_nothing_about_the_light() -> None:
    petals = np.broadcast_to(np.float32([0.7, 0.2, 0.02]), (32, 32, 3))
    assert neutral_gains(petals) == pytest.approx(np.ones(3), abs=0.02)
    grey = np.broadcast_to(np.float32([0.5, 0.4, 0.32]), (32, 32, 3))
    gains = neutral_gains(grey)
    assert gains * grey[0, 0] == pytest.approx(np.full(3, grey[0, 0].mean()), rel=1e-4)
    half = np.concatenate([petals, grey])
    assert neutral_gains(half) == pytest.approx(gains, rel=0.01)


def test_skin_and_sky_are_found_by_colour_and_place() -> None:
    skin, sky, leaf = (220, 170, 140), (120, 170, 220), (60, 110, 40)
    photo = np.zeros((90, 90, 3), np.uint8)
    photo[:45], photo[45:, :45], photo[45:, 45:] = sky, skin, leaf
    maps = subjects(rgb2lab(photo).astype(np.float32))
    inside = {
        "sky": (slice(2, 25), slice(20, 70)),
        "skin": (slice(65, 85), slice(8, 35)),
        "leaf": (slice(65, 85), slice(55, 85)),
    }
    found = {name: [float(one[where].mean()) for one in maps] for name, where in inside.items()}
    assert found["skin"][0] > 0.7 and found["skin"][1] < 0.05
    assert found["sky"][1] > 0.7 and found["sky"][0] < 0.05
    assert max(found["leaf"]) < 0.05


def test_pages_are_told_from_photos_and_left_nearly_alone() -> None:
    pages = [draw_page(np.random.default_rng(seed)) for seed in range(6)]
    assert np.mean([documentness(to_linear(page)) for page in pages]) > 0.7
    assert max(documentness(light) for light in SCENES) < 0.5  # and the drawn scenes are flatter than photos
    moved = []
    for page in pages:
        for expert in EXPERTS:
            retouched = expert.retouch(to_linear(page))
            assert texture_agreement(retouched / 255, page / 255) > 0.99
            moved.append(distance(retouched, page))
    assert np.median(moved) < 4 and max(moved) < 10


def test_pages_depend_on_the_generator_alone() -> None:
    first, again, other = (draw_page(np.random.default_rng(seed), 100, 60) for seed in (1, 1, 2))
    assert first.shape == (60, 100, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_linear_light_and_back_keeps_every_level() -> None:
    levels = np.arange(256, dtype=np.uint8)
    linear = to_linear(levels)
    assert linear.dtype == np.float32
    assert np.array_equal(quantise(to_srgb(linear)), levels)
    # IEC 61966-2-1: half of the code values is 21.4% of the light.
    assert linear[128] == pytest.approx(0.2158605, abs=1e-6)


def test_highlights_roll_off_without_a_step_and_without_reaching_white() -> None:
    light = np.linspace(0, 2, 2001)
    rolled = roll_off_highlights(light, knee=0.75)
    assert np.array_equal(rolled[light <= 0.75], light[light <= 0.75])
    steps = np.diff(rolled)
    assert (steps > 0).all()
    assert steps.max() <= 0.001 + 1e-9
    assert rolled.max() < 1
