"""attributes.py: scores mean what they say, have gradients everywhere, and make the conditions of the method."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from diffretouch.attributes import (
    ATTRIBUTES,
    attribute_scores,
    attribute_view,
    brightness,
    colorfulness,
    conditions_extreme,
    conditions_linear,
    conditions_quantile,
    contrast,
    srgb_to_linear,
    temperature,
)

COLORFULNESS, BRIGHTNESS, CONTRAST, TEMPERATURE = range(4)


def flat(red: float, green: float, blue: float, height: int = 4, width: int = 5) -> torch.Tensor:
    """(1, 3, H, W) of one colour, float64."""
    return torch.tensor([red, green, blue], dtype=torch.float64).view(1, 3, 1, 1).repeat(1, 1, height, width)


def random_pictures(batch: int = 3, height: int = 7, width: int = 9, seed: int = 0) -> torch.Tensor:
    """(B, 3, H, W) in (0.05, 0.95), float64."""
    generator = torch.Generator().manual_seed(seed)
    return 0.05 + 0.9 * torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)


def smooth_photo(height: int, width: int) -> torch.Tensor:
    """(1, 3, H, W): soft colours on a few waves, nothing finer than a tenth of the picture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    waves = [torch.sin(9 * x + 5 * y), torch.cos(11 * y - 3 * x), torch.sin(8 * x * y + 1)]
    return (0.5 + 0.3 * torch.stack(waves))[None]


# ---------------------------------------------------------------- numbers worked out by hand


def test_the_order_of_the_scores_is_the_order_of_the_context_token() -> None:
    assert ATTRIBUTES == ("colorfulness", "brightness", "contrast", "temperature")
    pictures = random_pictures()
    expected = torch.stack([f(pictures) for f in (colorfulness, brightness, contrast, temperature)], dim=1)
    torch.testing.assert_close(attribute_scores(pictures), expected, rtol=0, atol=0)


def test_scores_of_one_colour() -> None:
    """Nothing varies: colorfulness is 0.3 times the length of the mean opponents (0.4, 0.2)."""
    scores = attribute_scores(flat(0.8, 0.4, 0.4))[0]
    assert scores[COLORFULNESS].item() == pytest.approx(0.3 * math.hypot(0.4, 0.2), abs=2e-6)
    assert scores[BRIGHTNESS].item() == pytest.approx(math.sqrt(0.241 * 0.64 + 0.691 * 0.16 + 0.068 * 0.16))
    assert scores[CONTRAST].item() == 0
    linear = [((value + 0.055) / 1.055) ** 2.4 + 1e-3 for value in (0.8, 0.4)]
    assert scores[TEMPERATURE].item() == pytest.approx(math.log(linear[0] / linear[1]) / 0.0098)


def test_colorfulness_of_red_beside_green() -> None:
    """|R - G| is 1 in both, |(R + G) / 2 - B| one half in both: opponents are taken without their sign."""
    picture = torch.cat([flat(1, 0, 0, 2, 1), flat(0, 1, 0, 2, 1)], dim=3)
    assert colorfulness(picture).item() == pytest.approx(0.3 * math.hypot(1, 0.5), abs=2e-6)


def test_colorfulness_of_red_beside_grey() -> None:
    """Half the pixels (1, 1/2), half (0, 0); the sample variance of n = 4 is n / (n - 1) times a quarter."""
    picture = torch.cat([flat(1, 0, 0, 2, 1), flat(0.3, 0.3, 0.3, 2, 1)], dim=3)
    spread = math.sqrt(4 / 3 * (0.25 + 0.0625))
    assert colorfulness(picture).item() == pytest.approx(spread + 0.3 * math.hypot(0.5, 0.25), abs=2e-6)


def test_brightness_weighs_the_channel_means() -> None:
    for channel, weight in enumerate((0.241, 0.691, 0.068)):
        rgb = [0.0, 0.0, 0.0]
        rgb[channel] = 0.6
        assert brightness(flat(*rgb)).item() == pytest.approx(0.6 * math.sqrt(weight), abs=1e-5)
    half_white = torch.cat([flat(1, 1, 1), flat(0, 0, 0)], dim=3)
    assert brightness(half_white).item() == pytest.approx(0.5), "of the mean, not the mean of the brightness"


def test_contrast_of_a_checkerboard_of_two_greys() -> None:
    """Every pair of neighbours differs by 0.5 in each of three channels."""
    board = (torch.arange(6)[:, None] + torch.arange(9)) % 2 * 0.5
    assert contrast(board.expand(1, 3, 6, 9).double()).item() == pytest.approx(3 * 0.25)


def test_contrast_of_an_edge_counts_all_pairs() -> None:
    """4 x 6 with one vertical edge: 4 of 4 * 5 + 3 * 6 pairs differ, by 1 in the red channel alone."""
    picture = torch.cat([flat(0, 0.5, 0.5, 4, 2), flat(1, 0.5, 0.5, 4, 4)], dim=3)
    assert contrast(picture).item() == pytest.approx(4 / 38)
    assert contrast(picture.transpose(2, 3)).item() == pytest.approx(4 / 38), "rows and columns count alike"


def test_grey_is_neither_colourful_nor_warm_nor_cold() -> None:
    levels = torch.rand(1, 1, 6, 8, generator=torch.Generator().manual_seed(0)).expand(1, 3, 6, 8)
    scores = attribute_scores(levels)[0]
    assert scores[COLORFULNESS].item() == pytest.approx(0, abs=2e-6)
    assert scores[TEMPERATURE].item() == 0


# ---------------------------------------------------------------- temperature


def warmth_sweep(step: float, exposure: float) -> torch.Tensor:
    """Temperatures of one picture under white-balance gains exp(w) on red and exp(-w) on blue, clipped to [0, 1]."""
    gains = torch.arange(-0.8, 0.8 + step / 2, step, dtype=torch.float64).exp().view(-1, 1, 1)
    red, green, blue = (random_pictures(1, 12, 12) * exposure).unbind(1)
    warmed = torch.stack([red * gains, green.expand(len(gains), -1, -1), blue / gains], dim=1)
    return temperature(warmed.clamp(0, 1))


def test_temperature_rises_strictly_with_warmth() -> None:
    sweep = warmth_sweep(0.02, exposure=0.9)
    assert sweep.diff().min() > 0.5, "mired per step, without a dead zone"
    assert sweep[0] < -50 < 50 < sweep[-1]


def test_temperature_is_smooth_in_warmth() -> None:
    """A kink or a step would keep its change of slope however fine the sweep; a curve's shrinks with the step."""
    steps = (0.04, 0.02, 0.01)
    # Dark enough that nothing clips: clipping is a kink of the picture, not of the score.
    turns = [(warmth_sweep(step, exposure=0.4).diff() / step).diff().abs().max().item() for step in steps]
    assert turns[1] < 0.6 * turns[0] and turns[2] < 0.6 * turns[1]


def test_temperature_is_mired_for_light_of_daylight_colours() -> None:
    """Grey under CIE daylight D50, against the D65 of sRGB: about 200 - 154 mired warmer. D50 in linear sRGB comes
    from its chromaticity (0.3457, 0.3585) and the inverse of the sRGB matrix, scaled into range."""
    xyz = torch.tensor([0.3457 / 0.3585, 1.0, (1 - 0.3457 - 0.3585) / 0.3585], dtype=torch.float64)
    to_rgb = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    linear = torch.tensor(to_rgb, dtype=torch.float64) @ xyz * 0.6
    encoded = 1.055 * linear ** (1 / 2.4) - 0.055
    assert temperature(flat(*encoded.tolist())).item() == pytest.approx(200 - 154, abs=10)


def test_temperature_does_not_depend_on_exposure() -> None:
    linear = torch.tensor([0.8, 0.5, 0.3], dtype=torch.float64)
    scores = [
        temperature(flat(*(1.055 * (linear * gain) ** (1 / 2.4) - 0.055).tolist())).item() for gain in (1, 0.5, 0.25)
    ]
    assert max(scores) - min(scores) < 2


def test_srgb_decodes_as_the_standard_says() -> None:
    values = torch.tensor([0.0, 0.04045, 0.5, 1.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.04045 / 12.92, 0.21404114, 1.0], dtype=torch.float64)
    torch.testing.assert_close(srgb_to_linear(values), expected, rtol=0, atol=1e-7)


# ---------------------------------------------------------------- batches and gradients


def test_a_batch_equals_single_pictures() -> None:
    pictures = random_pictures(5)
    singles = torch.cat([attribute_scores(picture[None]) for picture in pictures])
    torch.testing.assert_close(attribute_scores(pictures), singles, rtol=0, atol=1e-12)
    assert singles.std(0).min() > 0, "the pictures have to differ for this to mean something"


@pytest.mark.parametrize("colour", [(0, 0, 0), (1, 1, 1), (0.5, 0.5, 0.5), (1, 0, 0), (0, 0, 1)])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_and_gradients_stay_finite_on_flat_pictures(
    colour: tuple[float, float, float], size: tuple[int, int], dtype: torch.dtype
) -> None:
    picture = flat(*colour, *size).to(dtype).requires_grad_()
    scores = attribute_scores(picture)
    assert torch.isfinite(scores).all()
    for number in range(4):
        (gradient,) = torch.autograd.grad(scores[0, number], picture, retain_graph=True)
        assert torch.isfinite(gradient).all(), ATTRIBUTES[number]


def test_gradients_are_right() -> None:
    pictures = random_pictures(2, 3, 4)
    red, green, blue = pictures.unbind(1)
    assert min((red - green).abs().min(), ((red + green) / 2 - blue).abs().min()) > 1e-4, "away from the kinks of | |"
    assert (pictures - 0.04045).abs().min() > 1e-4
    assert torch.autograd.gradcheck(attribute_scores, pictures.requires_grad_())


def test_every_score_pulls_on_a_neutral_photo() -> None:
    """The published temperature has a dead zone; no slider may lose its gradient."""
    picture = random_pictures(1).requires_grad_()
    scores = attribute_scores(picture)
    for number in range(4):
        (gradient,) = torch.autograd.grad(scores[0, number], picture, retain_graph=True)
        assert gradient.abs().max() > 1e-4, ATTRIBUTES[number]


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 4, 5), (1, 4, 5, 3), (0, 3, 4, 5), (1, 3, 0, 5), (1, 1, 3, 4, 5)])
def test_other_shapes_are_refused_in_one_sentence(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`pictures` has to be of shape \(B, 3, H, W\), got \(") as raised:
        attribute_scores(torch.zeros(shape))
    assert str(shape) in str(raised.value)


# ---------------------------------------------------------------- the view


def test_a_photo_and_its_enlargement_score_alike_on_the_view() -> None:
    photo = smooth_photo(300, 420)
    enlarged = F.interpolate(photo, scale_factor=2, mode="bilinear", align_corners=False)
    scores, same = attribute_scores(attribute_view(photo)), attribute_scores(attribute_view(enlarged))
    torch.testing.assert_close(same, scores, rtol=0.01, atol=0)
    raw = attribute_scores(photo)[0, CONTRAST] / attribute_scores(enlarged)[0, CONTRAST]
    assert raw > 3, "without the view, contrast depends on the resolution"


def test_a_noisy_photo_and_its_thumbnail_are_both_averaged_not_sampled() -> None:
    """Shrinking without antialiasing would keep the noise of single pixels, and with it their contrast."""
    noise = torch.rand(1, 3, 128, 192, generator=torch.Generator().manual_seed(0))
    assert contrast(attribute_view(noise, 32)) < 0.2 * contrast(noise[..., ::4, ::6])


def test_the_view_squashes_to_a_square_and_keeps_one_that_fits() -> None:
    assert attribute_view(smooth_photo(30, 70)).shape == (1, 3, 512, 512)
    assert attribute_view(smooth_photo(1, 1), 16).shape == (1, 3, 16, 16)
    photo = smooth_photo(16, 16)
    torch.testing.assert_close(attribute_view(photo, 16), photo, rtol=0, atol=0)


# ---------------------------------------------------------------- conditions

SCORES = torch.tensor(
    [
        [1.0, 5.0, 0.0, 2.0],
        [3.0, 1.0, 0.0, 2.0],
        [2.0, 2.0, 8.0, 2.0],
    ]
)


def test_extreme_conditions_mark_the_largest_and_the_smallest() -> None:
    expected = torch.tensor([[-1.0, 1.0, -1.0, 0.0], [1.0, -1.0, -1.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    torch.testing.assert_close(conditions_extreme(SCORES), expected, rtol=0, atol=0)


def test_linear_conditions_map_smallest_to_largest() -> None:
    expected = torch.tensor([[-1.0, 1.0, -1.0, 0.0], [1.0, -1.0, -1.0, 0.0], [0.0, -0.5, 1.0, 0.0]])
    torch.testing.assert_close(conditions_linear(SCORES), expected, rtol=0, atol=1e-7)


def test_quantile_conditions_are_mean_ranks_on_minus_one_to_one() -> None:
    changes = torch.tensor(
        [
            [10.0, 0.0, 7.0, -5.0],
            [-3.0, 0.0, 7.0, -5.0],
            [99.0, 1.0, 7.0, -4.0],
            [11.0, 0.0, 7.0, 2.0],
            [0.0, 2.0, 7.0, 9.0],
        ]
    )
    expected = torch.tensor(
        [
            [0.0, -0.5, 0.0, -0.75],  # three share ranks 0, 1, 2; two share ranks 0, 1
            [-1.0, -0.5, 0.0, -0.75],
            [1.0, 0.5, 0.0, 0.0],
            [0.5, -0.5, 0.0, 0.5],
            [-0.5, 1.0, 0.0, 1.0],
        ]
    )
    torch.testing.assert_close(conditions_quantile(changes), expected, rtol=0, atol=1e-7)


def test_quantile_conditions_of_a_large_data_set_are_evenly_spread() -> None:
    """Ranks by sorting: comparing all pairs of 200,000 would take 320 GB."""
    order = torch.randperm(200_000, generator=torch.Generator().manual_seed(0))
    changes = torch.stack([order.float() * scale for scale in (1.0, -1.0, 2.0, 0.0)], dim=1)
    even = torch.linspace(-1, 1, 200_000)
    conditions = conditions_quantile(changes)
    torch.testing.assert_close(conditions[:, 0], even[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(conditions[:, 1], -even[order], rtol=0, atol=1e-5)
    assert (conditions[:, 3] == 0).all()


@pytest.mark.parametrize("conditions", [conditions_extreme, conditions_linear, conditions_quantile])
def test_conditions_of_one_expert_or_of_equal_ones_ask_for_nothing(conditions) -> None:
    one = torch.tensor([[3.0, -2.0, 0.0, 1e6]])
    assert (conditions(one) == 0).all()
    alike = one.repeat(4, 1)
    assert conditions(alike).shape == (4, 4) and (conditions(alike) == 0).all()


@pytest.mark.parametrize("conditions", [conditions_extreme, conditions_linear, conditions_quantile])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_conditions_depend_on_order_alone_in_range_and_type(conditions, dtype: torch.dtype) -> None:
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = conditions(scores)
    assert result.dtype == dtype and result.shape == scores.shape
    assert (result.amax(0) == 1).all() and (result.amin(0) == -1).all()
    assert (result[scores.argmax(0), range(4)] == 1).all() and (result[scores.argmin(0), range(4)] == -1).all()
    shuffled = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(conditions(scores[shuffled]), result[shuffled], rtol=0, atol=0)
    torch.testing.assert_close(conditions(scores * 3 + 7), result, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("conditions", "name"),
    [(conditions_extreme, "scores"), (conditions_linear, "scores"), (conditions_quantile, "changes")],
)
def test_conditions_refuse_other_scores_in_one_sentence(conditions, name: str) -> None:
    for wrong in (torch.zeros(4), torch.zeros(3, 5), torch.zeros(0, 4), torch.zeros(1, 3, 4)):
        with pytest.raises(ValueError, match=rf"`{name}` has to be of shape \(N, 4\) with N >= 1, got \("):
            conditions(wrong)
    for wrong_number in (torch.nan, torch.inf, -torch.inf):
        scores = SCORES.clone()
        scores[1, 2] = wrong_number
        with pytest.raises(ValueError, match=f"`{name}` has to be finite, got "):
            conditions(scores)
