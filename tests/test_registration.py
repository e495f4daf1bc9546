"""Registration: crops, scales and turns found under strong edits; warped or other pictures never called safe."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from scenes import scene

from diffretouch.data.experts import EXPERTS
from diffretouch.data.light import to_linear
from diffretouch.data.registration import register
from diffretouch.data.synthetic import degrade

PHOTO = scene(4, 300, 450)
BEFORE = degrade(to_linear(PHOTO), np.random.default_rng(1))


def retouched(expert: int = 3) -> np.ndarray:
    return EXPERTS[expert].retouch(PHOTO / np.float32(255))


@pytest.mark.parametrize("expert", range(5))
def test_a_retouch_of_the_whole_photo_is_whole_at_any_size(expert: int) -> None:
    small = np.array(PIL.Image.fromarray(retouched(expert)).resize((240, 160)))
    for after in (retouched(expert), small):
        framing = register(BEFORE, after)
        assert framing.whole and framing.safe


@pytest.mark.parametrize(
    "box",
    [(40, 30, 400, 270), (100, 0, 400, 300), (200, 120, 400, 280), (4, 2, 447, 296)],
    ids=["middle", "square", "corner", "one per cent"],
)
def test_crops_are_found_to_half_a_percent_under_a_strong_edit(box: tuple[int, int, int, int]) -> None:
    left, top, right, bottom = box
    part = PIL.Image.fromarray(retouched()[top:bottom, left:right])
    after = np.array(part.resize((round(part.width * 1.3), round(part.height * 1.3))))
    framing = register(BEFORE, after)
    assert framing.safe and not framing.whole and framing.turn == 0
    assert framing.box == pytest.approx((left / 450, top / 300, right / 450, bottom / 300), abs=0.005)


@pytest.mark.parametrize("turn", [1, 2, 3])
def test_quarter_turns_are_found_and_undone(turn: int) -> None:
    framing = register(np.rot90(BEFORE, -turn), retouched())
    assert framing.safe and framing.turn == turn
    upright = framing.crop(np.rot90(BEFORE, -turn), (450, 300))
    assert np.abs(upright.astype(int) - BEFORE).mean() < 1


@pytest.mark.parametrize("degrees", [-3, 1.5, 5])
def test_straightened_pictures_are_not_safe(degrees: float) -> None:
    turned = PIL.Image.fromarray(retouched()).rotate(degrees, resample=PIL.Image.Resampling.BICUBIC)
    assert not register(BEFORE, np.array(turned.crop((25, 25, 425, 275)))).safe


def test_a_cropped_negative_is_found() -> None:
    framing = register(BEFORE, 255 - retouched()[30:270, 40:400])
    assert framing.safe and framing.box == pytest.approx((40 / 450, 0.1, 400 / 450, 0.9), abs=0.005)


@pytest.mark.parametrize("other", range(6))
def test_another_photo_is_not_safe(other: int) -> None:
    unrelated = scene(10 + other, 300, 450)
    assert not register(BEFORE, unrelated).safe and not register(BEFORE, 255 - unrelated).safe


@pytest.mark.parametrize(
    "after",
    [np.zeros((30, 40, 3), np.uint8), np.full((300, 450, 3), 200, np.uint8), PHOTO[:1, :1], PHOTO[:, :2]],
    ids=["black", "plain", "one pixel", "a line"],
)
def test_pictures_without_structure_are_not_safe(after: np.ndarray) -> None:
    assert not register(BEFORE, after).safe
    assert not register(after, BEFORE).safe
