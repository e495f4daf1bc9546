"""experts.py: five tastes that share one judgement, clip nothing and keep what a photo is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import scene
from skimage.color import rgb2lab

from diffretouch.attributes import ATTRIBUTES, attribute_scores
from diffretouch.data.experts import EXPERTS, documentness, natural, subjects
from diffretouch.data.synthetic import draw_page
from diffretouch.evaluation.metrics import delta_e_2000, texture_agreement

BY_NAME = {expert.name: expert for expert in EXPERTS}
SCENES = [scene(seed) / np.float32(255) for seed in range(6)]


def scores(picture: np.ndarray) -> dict[str, float]:
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    return dict(zip(ATTRIBUTES, attribute_scores(tensor)[0].tolist(), strict=True))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean Delta E 2000 of a uint8 picture and one in [0, 1]."""
    return delta_e_2000(one / 255, other)


def lightness(picture: np.ndarray) -> np.ndarray:
    return rgb2lab(picture)[..., 0].astype(np.float32)


@pytest.fixture(scope="module")
def measured() -> list[dict[str, dict[str, float]]]:
    return [{expert.name: scores(expert.retouch(photo)) for expert in EXPERTS} for photo in SCENES]


def test_there_are_five_experts_from_a_to_e() -> None:
    assert [expert.name for expert in EXPERTS] == ["A", "B", "C", "D", "E"]


def test_a_leaves_the_natural_retouch_as_it_is() -> None:
    for photo in SCENES:
        assert np.abs(BY_NAME["A"].retouch(photo) - 255 * photo).max() <= 1


@pytest.mark.parametrize("expert", EXPERTS, ids=lambda expert: expert.name)
def test_an_expert_repeats_itself_and_leaves_the_photo_alone(expert) -> None:
    photo = SCENES[0].copy()
    once = expert.retouch(photo)
    assert np.array_equal(once, expert.retouch(photo)) and np.array_equal(photo, SCENES[0])
    assert once.dtype == np.uint8 and once.shape == photo.shape


def test_experts_disagree_visibly_on_every_photo() -> None:
    for photo in SCENES:
        pictures = [expert.retouch(photo) for expert in EXPERTS]
        apart = [distance(a, b / 255) for i, a in enumerate(pictures) for b in pictures[:i]]
        assert min(apart) > 1  # Delta E 2000 of 1 is just noticeable


@pytest.mark.parametrize(
    ("attribute", "least", "most"),
    [("temperature", "D", "C"), ("brightness", "D", "B"), ("contrast", "B", "DE"), ("colorfulness", "BD", "CE")],
)
def test_every_expert_follows_its_intent_on_every_photo(measured, attribute, least, most) -> None:
    for experts in measured:
        ordered = sorted(experts, key=lambda name: experts[name][attribute])
        assert ordered[0] in least and ordered[-1] in most


@pytest.mark.parametrize("expert", EXPERTS, ids=lambda expert: expert.name)
def test_no_expert_clips_what_was_not_clipped(expert) -> None:
    for photo in SCENES:
        inside = (photo > 0.04) & (photo < 0.98)
        retouched = expert.retouch(photo)
        assert ((retouched == 255) & inside).mean() < 0.001
        assert ((retouched == 0) & inside).mean() < 0.01


def test_black_and_white_stays_neutral_and_black_and_white_stay_where_they_are() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8, 1).repeat(3, 2)
    for expert in EXPERTS:
        retouched = expert.retouch(ramp).astype(int)
        assert np.ptp(retouched, axis=2).max() <= 1
        assert retouched[0, 0].max() <= 1 and retouched[-1, -1].min() >= 254


def test_a_night_is_hardly_lifted_and_a_high_key_hardly_pulled_down() -> None:
    photo = SCENES[1]
    night, high_key = 0.15 * photo, 0.75 + 0.25 * photo

    def moved(name: str, picture: np.ndarray) -> float:
        return abs(scores(BY_NAME[name].retouch(picture))["brightness"] - scores(255 * picture)["brightness"])

    assert moved("B", night) < 0.5 * moved("B", photo)
    assert moved("D", high_key) < 0.5 * moved("D", photo)


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (24, 24)])
def test_flat_and_tiny_photos_are_survived(value, size) -> None:
    photo = np.full((*size, 3), value, np.float32)
    for expert in EXPERTS:
        assert expert.retouch(photo).shape == photo.shape
    assert np.isfinite(natural(photo, photo)).all()


def test_the_natural_retouch_brings_whites_back_that_the_teacher_left_grey() -> None:
    photo = SCENES[2].copy()
    photo[:8] = 0.97
    grey = 0.8 * photo
    white_of = [np.percentile(lightness(picture), 99.5) for picture in (photo, grey, natural(photo, grey))]
    assert white_of[1] < white_of[0] - 10 and white_of[2] > white_of[0] - 3


def test_the_natural_retouch_keeps_a_blue_sky_blue() -> None:
    photo = np.empty((60, 60, 3), np.float32)
    photo[:40], photo[40:] = np.float32([0.45, 0.65, 0.9]), np.float32([0.3, 0.4, 0.2])
    greyed = photo.copy()
    greyed[:40] = np.float32([0.68, 0.66, 0.74])
    blue = [rgb2lab(picture)[5:25, 20:40, 2].mean() for picture in (photo, greyed, natural(photo, greyed))]
    assert blue[2] < blue[1] + 0.5 * (blue[0] - blue[1])


@pytest.mark.parametrize("gain", [0.35, 1.0])
def test_the_natural_retouch_keeps_the_key_within_a_few_steps(gain) -> None:
    photo = gain * SCENES[3]
    lifted = np.clip(photo + 0.25, 0, 1)
    kept = natural(photo, lifted)
    assert lightness(lifted).mean() - lightness(photo).mean() > 12
    assert abs(lightness(kept).mean() - lightness(photo).mean()) < 9


def test_a_colourless_photo_has_a_colourless_natural_retouch() -> None:
    photo = SCENES[0][..., :1].repeat(3, 2)
    assert np.ptp(natural(photo, np.clip(photo * np.float32([1.1, 1, 0.8]), 0, 1)), axis=2).max() < 0.01


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
    pages = [draw_page(np.random.default_rng(seed)) / np.float32(255) for seed in range(6)]
    assert np.mean([documentness(lightness(page)) for page in pages]) > 0.7
    assert (
        max(documentness(lightness(photo)) for photo in SCENES) < 0.5
    )  # and the drawn scenes are flatter than photos
    moved = []
    for page in pages:
        for expert in EXPERTS:
            retouched = expert.retouch(page)
            assert texture_agreement(retouched / 255, page) > 0.99
            moved.append(distance(retouched, page))
    assert np.median(moved) < 2 and max(moved) < 6
