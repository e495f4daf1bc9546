"""light.py: linear light and back loses nothing, and highlights roll off."""

from __future__ import annotations

import numpy as np
import pytest

from diffretouch.data.light import quantise, roll_off_highlights, to_linear, to_srgb


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
