"""photo_statistics_diffretouch.py: what the UNet is told of a photo as a whole."""

from __future__ import annotations

import pytest
import torch

from diffretouch.model.photo_statistics_diffretouch import (
    NUM_STATISTICS,
    STATISTICS_SIZE,
    photo_statistics,
    statistics_view,
)


def random_photo(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def test_the_view_is_a_square_and_its_own_view() -> None:
    view = statistics_view(random_photo(2, 3, 100, 70))
    assert view.shape == (2, 3, STATISTICS_SIZE, STATISTICS_SIZE)
    assert torch.equal(statistics_view(view), view)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (32, 32)])
def test_photo_statistics_are_finite_numbers_around_zero(size: tuple[int, int]) -> None:
    photos = torch.cat([torch.full((1, 3, *size), level) for level in (-1.0, 0.0, 1.0)] + [random_photo(2, 3, *size)])
    statistics = photo_statistics(photos)
    assert statistics.shape == (5, NUM_STATISTICS)
    assert statistics.isfinite().all() and statistics.abs().max() < 4


def test_photo_statistics_tell_exposure_and_light_wherever_things_are() -> None:
    photo = random_photo(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(photo_statistics(photo.flip(-1)), photo_statistics(photo))
    middle, warm = 5, torch.tensor([0.2, 0.0, -0.2]).view(3, 1, 1)
    grey = torch.full((1, 3, 8, 8), 0.2)
    medians = photo_statistics(grey + warm)[0, 3 * middle : 3 * middle + 3]
    torch.testing.assert_close(medians, 0.2 + warm.flatten())


def test_photo_statistics_tell_the_white_balance_of_a_street_of_greys_under_any_light() -> None:
    greys = torch.linspace(0.05, 0.6, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    for gains in ([1.0, 1.0, 1.0], [1.3, 1.0, 0.75], [0.8, 1.05, 1.4]):
        light = greys * torch.tensor(gains).view(3, 1, 1)
        srgb = torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)
        found = photo_statistics(2 * srgb - 1)[0, -45:][27:30] / 2  # the generous search, all in all
        asked = -torch.tensor(gains).log()
        torch.testing.assert_close(found - found.mean(), asked - asked.mean(), atol=0.01, rtol=0)
