"""photo_statistics_diffretouch.py: what the UNet is told of a photo as a whole."""

from __future__ import annotations

import numpy as np
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


def reference(photo: np.ndarray) -> np.ndarray:
    """The statistics of one photo (3, h, w) in [-1, 1] by their definition, in float64: what the weights learned."""
    pixels = (photo.astype(np.float64).reshape(3, -1) + 1) / 2
    eleven = [0.02 + 0.096 * n for n in range(11)]
    tones = np.quantile(pixels, eleven, axis=1).flatten()  # the channels of one level beside each other
    saturation = pixels.max(0) - pixels.min(0)
    greyness = np.exp(-((saturation / (pixels.max(0) + 0.001) / 0.4) ** 2))
    grey = (pixels * greyness).sum(1) / greyness.sum()
    light = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    parts = [
        *(2 * tones - 1, np.log(tones + 0.02) + 1.5),
        2 * np.quantile(saturation, eleven) - 1,
        10 * np.cov(pixels, bias=True).flatten(),
        *(2 * grey - 1, np.log(grey + 0.02) + 1.5, greyness.mean()),
    ]
    for width in (0.2, 0.4):
        total = np.zeros(3)
        for _ in range(3):
            balanced = light * np.exp(total)[:, None]
            high, low = balanced.max(0), balanced.min(0)
            believed = np.exp(-(((high - low) / np.maximum(high, 0.001) / width) ** 2)) * (low > 0.01) * (high < 0.98)
            mean = np.maximum((balanced * believed).sum(1) / max(believed.sum(), 0.0001), 0.0001)
            stops = np.clip(np.log(mean.mean() / mean), -0.7, 0.7) * min(believed.mean() / 0.15, 1)
            total = total + stops
            parts += [2 * stops, believed.mean()]
        parts.append(2 * total)
    luminance = np.array([0.2126, 0.7152, 0.0722]) @ light
    colours = np.clip(light * np.exp(total)[:, None], 1e-6, 1) ** (1 / 2.2)
    left = colours.max(0) - colours.min(0)
    parts += [
        np.log(np.maximum(luminance, 0.001)).mean() / 2 + 1,
        np.log(max(luminance.mean(), 0.001)) / 2 + 1,
        2 * np.quantile(left, [0.1, 0.3, 0.5, 0.7, 0.9]) - 1,
        2 * left.mean(),
        np.quantile(np.log(luminance + 0.005), [0.005, 0.1, 0.3, 0.5, 0.7, 0.9, 0.995]) / 2 + 1,
    ]
    return np.hstack(parts)


def photos_of_every_kind() -> dict[str, np.ndarray]:
    """Each (3, 12, 16) in [-1, 1]; between them they reach every threshold and clamp."""
    rng = np.random.default_rng(0)
    noise = rng.random((3, 12, 16))
    ramp = np.broadcast_to(np.linspace(0, 1, 192).reshape(1, 12, 16), (3, 12, 16))
    cast = np.array([1.0, 0.8, 0.55]).reshape(3, 1, 1)
    unit = {
        "noise": noise,
        "black": np.zeros((3, 12, 16)),
        "white": np.ones((3, 12, 16)),
        "nearly black": 0.03 * noise,
        "greys": ramp,
        "greys under a warm light": ramp * cast,
        "greys under a light beyond the clamp": ramp * np.array([1.0, 0.5, 0.2]).reshape(3, 1, 1),
        "a little grey in much colour": np.where(
            rng.random((12, 16)) < 0.1, ramp * cast, noise * [[[1]], [[0.1]], [[0]]]
        ),
        "pale": 0.7 + 0.1 * noise,
        "skin": np.clip(np.array([0.85, 0.62, 0.5]).reshape(3, 1, 1) + 0.1 * (ramp - 0.5) + 0.02 * noise, 0, 1),
        "blue": noise * np.array([0.1, 0.2, 1.0]).reshape(3, 1, 1),
    }
    return {name: (2 * photo - 1).astype(np.float32) for name, photo in unit.items()}


@pytest.mark.parametrize("kind", photos_of_every_kind())
def test_photo_statistics_are_the_numbers_that_the_weights_were_trained_with(kind: str) -> None:
    photo = photos_of_every_kind()[kind]
    found = photo_statistics(torch.from_numpy(photo)[None])[0].numpy()
    np.testing.assert_allclose(found, reference(photo), atol=2e-4, rtol=0)
