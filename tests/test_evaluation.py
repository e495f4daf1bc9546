"""The measuring tools, calibrated: published values, pictures with known answers, and a retouch with known effects."""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from types import ModuleType

import datasets
import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import lab2rgb

from diffretouch.attributes import ATTRIBUTES, srgb_to_linear
from diffretouch.evaluation.baselines import BASELINES, auto_contrast, clahe, global_lut, grey_world
from diffretouch.evaluation.measure import evaluate
from diffretouch.evaluation.metrics import PSNR_CEILING, delta_e_2000, psnr, ssim, texture_agreement
from diffretouch.evaluation.one_photo import NUM_VARIANTS, POSITIONS, text_pictures
from diffretouch.evaluation.summarise import _natural, is_monotone, spearman
from diffretouch.files import save_json
from diffretouch.model.modeling_affine_grid import AffineGrid, AffineGridHead, GuideCurve
from diffretouch.model.pipeline_diffretouch import DiffRetouchPipeline
from diffretouch.report import load_sheet
from diffretouch.tables import format_table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# Sharma, Wu and Dalal, "The CIEDE2000 color-difference formula" (2005), table 1: the pairs inside the sRGB gamut.
PUBLISHED_PAIRS = [
    ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (61, -5, 29), 22.8977),
    ((50, 2.5, 0), (58, 24, 15), 19.4535),
    ((50, 2.5, 0), (50, 3.1736, 0.5854), 1.0000),
    ((50, -1, 2), (50, 0, 0), 2.3669),
]


def plain(*colour: float, size: int = 16) -> np.ndarray:
    """A picture of one colour, sRGB in [0, 1]."""
    return np.tile(np.float32(colour), (size, size, 1))


def scenery(seed: int, height: int = 40, width: int = 56) -> np.ndarray:
    """A picture with gradients, edges and colour, away from black and white, in 8-bit steps."""
    draw = np.random.default_rng(seed)
    blocks = draw.uniform(0.3, 0.6, (height // 8, width // 8, 3)).repeat(8, 0).repeat(8, 1)
    ramp = np.linspace(0, 0.1, width)[None, :, None]
    return np.round((blocks + ramp) * 255).astype(np.float32) / 255


def to_pil(picture: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(picture * 255).astype(np.uint8))


class KnownRetouch:
    """A retouch with known effects, in place of a trained model: the ruler is checked against known lengths.

    Every slider scales its own term of one global transform, `gains` sets how strongly; `noise` is the size of the
    random brightness of a variant.
    """

    def __init__(self, gains=(0.4, 0.2, 0.4, 0.1), noise=0.0, guide=None):
        self.gains, self.noise, self.guide = gains, noise, guide or GuideCurve()

    def transform(self, condition, brightness=0.0) -> torch.Tensor:
        colour, light, contrast, warmth = (gain * value for gain, value in zip(self.gains, condition, strict=True))
        saturated = torch.eye(3) + colour * (torch.eye(3) - 1 / 3)
        offset = torch.tensor([warmth, 0, -warmth]) + light + brightness
        return torch.cat([(1 + contrast) * saturated, offset[:, None]], dim=1)

    def grid(self, condition, brightness=0.0) -> AffineGrid:
        return AffineGrid(self.transform(condition, brightness).reshape(12, 1, 1, 1), self.guide)

    def __call__(self, images, *, generator, num_inference_steps, output_type, **sliders):
        assert output_type == "grid"
        conditions = zip(*(sliders[name] for name in ATTRIBUTES), strict=True)
        noise = [self.noise * torch.randn((), generator=one).item() for one in generator]
        self.grids = [self.grid(*pair) for pair in zip(conditions, noise, strict=True)]
        assert len(self.grids) == len(images)
        return self


EXPERTS = {"A": [0.5, 1.0, 0.0, -1.0], "B": [-0.5, -1.0, 1.0, 0.5]}


def make_rows(num_photos: int, experts=EXPERTS, retouch: KnownRetouch | None = None) -> list[dict]:
    """Rows in the data set schema; the experts' pictures are what the known retouch makes of their conditions."""
    retouch = retouch or KnownRetouch()
    return [
        {
            "photo_id": f"photo-{number}",
            "expert": expert,
            "input": to_pil(scenery(number)),
            "target": to_pil(retouch.grid(condition).apply(scenery(number))),
            "condition": condition,
        }
        for number in range(num_photos)
        for expert, condition in experts.items()
    ]


# ---- metrics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "expected"), PUBLISHED_PAIRS)
def test_delta_e_2000_gives_the_published_differences(first, second, expected):
    pictures = [np.tile(lab2rgb(np.float64([[lab]])), (2, 2, 1)) for lab in (first, second)]
    assert delta_e_2000(*pictures) == pytest.approx(expected, abs=2e-3)


def test_delta_e_2000_is_a_mean_over_the_picture_and_zero_for_equal_pictures():
    picture, black, white = scenery(0), plain(0, 0, 0), plain(1, 1, 1)
    half = np.concatenate([black[:8], white[8:]])
    assert delta_e_2000(picture, picture.copy()) == 0
    assert delta_e_2000(black, white) == pytest.approx(100, abs=0.01)
    assert delta_e_2000(half, white) == pytest.approx(50, abs=0.01)


def test_psnr_of_a_known_error_and_a_finite_ceiling_for_equal_pictures():
    assert psnr(plain(0.5, 0.5, 0.5), plain(0.4, 0.6, 0.4)) == pytest.approx(20, abs=1e-4)
    assert psnr(plain(0.5, 0.5, 0.5), plain(0.5, 0.5, 0.5)) == PSNR_CEILING


def test_ssim_of_flat_pictures_is_its_luminance_term():
    expected = (2 * 0.2 * 0.4 + 0.01**2) / (0.2**2 + 0.4**2 + 0.01**2)
    assert ssim(plain(0.2, 0.2, 0.2), plain(0.4, 0.4, 0.4)) == pytest.approx(expected, abs=1e-4)
    assert ssim(scenery(0), scenery(0)) == pytest.approx(1)


@pytest.mark.parametrize("metric", [psnr, ssim, delta_e_2000])
def test_metrics_refuse_pictures_that_cannot_be_compared(metric):
    with pytest.raises(ValueError, match=r"`target` has to be of the shape of `picture`"):
        metric(plain(0, 0, 0, size=16), plain(0, 0, 0, size=17))
    with pytest.raises(ValueError, match=r"`picture` has to be of shape \(H, W, 3\), got \(16, 16\)"):
        metric(np.zeros((16, 16), np.float32), np.zeros((16, 16), np.float32))


def test_ssim_names_its_smallest_picture():
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(plain(0, 0, 0, size=10), plain(0, 0, 0, size=10))


# ---- baselines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_keep_the_kind_of_picture_and_leave_their_input_alone(name):
    for picture in (scenery(3), plain(0.3, 0.5, 0.2), plain(0, 0, 0), plain(1, 1, 1)):
        before = picture.copy()
        made = BASELINES[name](picture)
        assert made.shape == picture.shape and made.dtype == np.float32
        assert made.min() >= 0 and made.max() <= 1
        np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("baseline", [auto_contrast, clahe])
def test_a_flat_picture_has_no_contrast_to_stretch(baseline):
    np.testing.assert_array_equal(baseline(plain(0.3, 0.5, 0.2)), plain(0.3, 0.5, 0.2))


def test_auto_contrast_undoes_a_faded_picture():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None, :, None].repeat(16, 0).repeat(3, 2)
    restored = auto_contrast(0.25 + 0.5 * ramp)
    assert np.abs(restored - ramp).max() < 0.006  # the clipped half percent at either end
    assert restored.min() == 0 and restored.max() == 1


def test_grey_world_removes_a_cast_of_the_light_and_keeps_luminance():
    grey = torch.from_numpy(plain(0.5, 0.5, 0.5))
    light = torch.tensor([1.3, 1.0, 0.6])
    linear = srgb_to_linear(grey) * light
    cast = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).astype(np.float32)
    balanced = srgb_to_linear(torch.from_numpy(grey_world(cast)))
    luminance = (linear[0, 0] * torch.tensor([0.2126, 0.7152, 0.0722])).sum()
    torch.testing.assert_close(balanced[0, 0], luminance.expand(3), atol=1e-4, rtol=0)


def test_clahe_brings_out_faint_local_contrast():
    picture = scenery(1)
    faint = 0.45 + 0.1 * (picture - 0.5)
    assert clahe(faint).std() > 2 * faint.std()


# ---- control curves -------------------------------------------------------------------------------------------------


def test_spearman_of_rising_falling_dead_and_half_sorted_curves():
    assert spearman(np.asarray([1.0, 2.0, 30.0])) == pytest.approx(1)
    assert spearman(np.asarray([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.asarray([2.0, 2.0, 2.0])) == 0
    assert spearman(np.asarray([1.0, 3.0, 2.0])) == pytest.approx(0.5)


def test_monotone_forgives_a_wobble_but_no_dip_and_no_dead_slider():
    assert is_monotone(np.asarray([0.0, 50.0, 49.0, 100.0]))
    assert not is_monotone(np.asarray([0.0, 50.0, 45.0, 100.0]))
    assert not is_monotone(np.asarray([1.0, 1.0, 1.0]))
    assert not is_monotone(np.asarray([2.0, 1.0, 0.0]))


# ---- evaluate -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calm_result():
    """Without noise: at c = 0 the known retouch is the identity, at oracle c it is the expert."""
    return evaluate(KnownRetouch(), make_rows(2), seed=0)


@pytest.fixture(scope="module")
def known_result():
    return evaluate(KnownRetouch(noise=0.1), make_rows(2), seed=0)


def test_a_perfect_oracle_is_seen_as_perfect_and_apart_from_c_0(calm_result):
    quality = calm_result["quality"]
    assert quality["oracle c"]["delta_e_ratio"] < 0.05  # what is left is the rounding of the 8-bit targets
    assert quality["oracle c"]["psnr"] > 50 and quality["oracle c"]["ssim"] > 0.99
    for metric in ("psnr", "ssim", "delta_e", "delta_e_ratio"):
        assert quality["c = 0"][metric] == pytest.approx(quality["no change"][metric], rel=1e-4)
    assert quality["no change"]["delta_e_ratio"] == 1


def test_quality_is_the_mean_over_experts_of_one_retouch_per_photo(calm_result):
    rows = make_rows(2)
    quality = calm_result["quality"]["no change"]
    by_expert = {
        expert: np.mean(
            [
                delta_e_2000(scenery(number), np.asarray(rows[2 * number + place]["target"], np.float32) / 255)
                for number in range(2)
            ]
        )
        for place, expert in enumerate(EXPERTS)
    }
    assert {expert: values["delta_e"] for expert, values in quality["experts"].items()} == pytest.approx(by_expert)
    assert quality["delta_e"] == pytest.approx(np.mean(list(by_expert.values())))


def test_control_sees_sliders_that_work(known_result):
    for slider in ATTRIBUTES:
        control = known_result["control"][slider]
        assert control["spearman"] == pytest.approx(1)
        assert control["right_way"] == control["monotone"] == 1
        assert control["range"] == pytest.approx(control["curve"][-1] - control["curve"][0])
        assert len(control["curve"]) == len(POSITIONS)
        assert known_result["crosstalk"][slider][slider] > 0


def test_control_sees_a_reversed_slider_and_a_dead_one():
    control = evaluate(KnownRetouch(gains=(0.4, -0.2, 0.0, 0.1)), make_rows(1), seed=0)["control"]
    assert control["brightness"]["spearman"] == pytest.approx(-1)
    assert control["brightness"]["right_way"] == control["brightness"]["monotone"] == 0
    assert control["brightness"]["range"] < 0
    assert control["contrast"]["spearman"] == control["contrast"]["right_way"] == control["contrast"]["range"] == 0
    assert control["colorfulness"]["right_way"] == control["temperature"]["right_way"] == 1


def test_a_slider_too_weak_to_see_is_no_control():
    """An untrained model's sliders move the seventh digit, in perfect order."""
    result = evaluate(KnownRetouch(gains=(1e-5, 1e-5, 1e-5, 1e-5)), make_rows(1), seed=0)
    for control in result["control"].values():
        assert 0 < control["range"] < 0.01 * control["expert_range"]
        assert control["spearman"] == control["right_way"] == control["monotone"] == 0


def test_crosstalk_puts_a_pure_slider_on_its_own_attribute(calm_result):
    """An offset of all channels moves brightness, but neither the opponents nor the differences to neighbours."""
    row = calm_result["crosstalk"]["brightness"]
    assert abs(row["colorfulness"]) < 0.01 * row["brightness"] and abs(row["contrast"]) < 0.01 * row["brightness"]
    assert calm_result["crosstalk_absolute"]["brightness"]["brightness"] == pytest.approx(row["brightness"])


def test_diversity_and_coverage_come_from_the_noise_alone(known_result, calm_result):
    assert calm_result["diversity"]["delta_e"] == 0
    assert calm_result["coverage"]["ratio"] == pytest.approx(calm_result["quality"]["c = 0"]["delta_e_ratio"])
    assert known_result["diversity"]["delta_e"] > 1
    low, high = known_result["diversity"]["interval"]
    assert low <= known_result["diversity"]["delta_e"] <= high
    for record in known_result["photos"]:
        for errors in record["variants"].values():
            assert len(errors) == NUM_VARIANTS
    assert known_result["coverage"]["ratio"] < known_result["quality"]["c = 0"]["delta_e_ratio"]


@pytest.fixture(scope="module")
def beside_result():
    """A model with noise, beside itself and beside one that knows no noise and changes nothing at c = 0."""
    beside = {"twin": KnownRetouch(noise=0.1), "HDRNet-style": KnownRetouch()}
    return evaluate(KnownRetouch(noise=0.1), make_rows(2), seed=0, beside=beside)


def test_a_model_beside_gets_the_same_noise_and_changes_no_figure_of_the_model(beside_result, known_result):
    quality, diversity = beside_result["quality"], beside_result["diversity"]
    assert quality["twin"] == quality["c = 0"]
    assert beside_result["coverage_beside"]["twin"] == beside_result["coverage"] | {"diversity": diversity}
    for name in ("control", "crosstalk", "diversity", "coverage"):
        assert beside_result[name] == known_result[name]
    assert {name: quality[name] for name in known_result["quality"]} == known_result["quality"]
    assert known_result["coverage_beside"] == {} and known_result["settings"]["beside"] == []


def test_seeds_of_a_deterministic_model_beside_bring_it_no_nearer(beside_result):
    quality, coverage = beside_result["quality"], beside_result["coverage_beside"]["HDRNet-style"]
    assert quality["HDRNet-style"]["delta_e"] == pytest.approx(quality["no change"]["delta_e"], rel=1e-4)
    assert coverage["delta_e"] == pytest.approx(quality["HDRNet-style"]["delta_e"])
    assert coverage["ratio_interval"] == pytest.approx(quality["HDRNet-style"]["delta_e_ratio_interval"])
    assert coverage["diversity"]["delta_e"] == 0 < beside_result["diversity"]["delta_e"]
    assert beside_result["coverage"]["delta_e"] < coverage["delta_e"]
    for expert, values in quality["HDRNet-style"]["experts"].items():
        assert coverage["experts"][expert] == pytest.approx(values["delta_e"])


def test_the_tables_show_the_models_beside(beside_result):
    text = format_table(beside_result)
    assert "beside it: twin, HDRNet-style. " in text
    for name in ("twin", "HDRNet-style"):
        rows = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert len(rows) == 3  # quality, experts, the nearest of the seeds
        assert f"| {beside_result['coverage_beside'][name]['delta_e']:.2f} |" in rows[2]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "has to be printable text without |, got ''"),
        (" ", "has to be printable text without |, got ' '"),
        ("a|b", "has to be printable text without |, got 'a|b'"),
        ("two\nlines", "has to be printable text without |, got 'two"),
        (3, "has to be printable text without |, got 3"),
        ("c = 0", "has to be one that nothing else has, got 'c = 0'"),
        ("CLAHE", "has to be one that nothing else has, got 'CLAHE'"),
        ("Zero-DCE++", "has to be one that nothing else has, got 'Zero-DCE++'"),
        ("input", "has to be one that nothing else has, got 'input'"),
        ("target A", "has to be one that nothing else has, got 'target A'"),
        ("contrast +1", "has to be one that nothing else has, got 'contrast +1'"),
    ],
)
def test_a_name_that_would_hide_or_break_a_row_is_refused(name, message):
    with pytest.raises(ValueError) as raised:
        evaluate(KnownRetouch(), make_rows(1), seed=0, beside={name: KnownRetouch()})
    assert f"Every name in `beside` {message}" in str(raised.value)


def test_intervals_hold_the_ratio_and_one_photo_has_none(known_result):
    for values in known_result["quality"].values():
        low, high = values["delta_e_ratio_interval"]
        assert low <= values["delta_e_ratio"] <= high
    single = evaluate(KnownRetouch(), make_rows(1), seed=0, beside={"other": KnownRetouch()})
    assert single["quality"]["c = 0"]["delta_e_ratio_interval"] is None
    assert single["coverage_beside"]["other"]["ratio_interval"] is None
    assert single["coverage_beside"]["other"]["diversity"]["interval"] is None
    assert "1 of 1 photos" in format_table(single)


def test_a_photo_measures_the_same_alone_in_another_batch_size_and_as_a_dataset(known_result):
    """Noise depends on seed and photo alone; otherwise results of subsets could not be compared."""
    rows = make_rows(2)
    subset = evaluate(KnownRetouch(noise=0.1), rows[2:4], seed=0, batch_size=5)["photos"]
    assert subset == [known_result["photos"][1]]
    stored = datasets.Dataset.from_list(rows[2:4])
    assert evaluate(KnownRetouch(noise=0.1), stored, seed=0)["photos"] == subset


def test_another_seed_gives_other_variants_and_the_same_default(known_result):
    other = evaluate(KnownRetouch(noise=0.1), make_rows(1), seed=1)["photos"][0]
    assert other["variants"] != known_result["photos"][0]["variants"]
    assert other["quality"] == known_result["photos"][0]["quality"]


def test_only_variants_have_a_seed_of_their_own_all_else_is_what_users_get_by_default():
    asked = []

    class Noted(KnownRetouch):
        def __call__(self, images, *, generator, **arguments):
            conditions = zip(*(arguments[name] for name in ATTRIBUTES), strict=True)
            asked.extend((any(c), one.initial_seed()) for c, one in zip(conditions, generator, strict=True))
            return super().__call__(images, generator=generator, **arguments)

    evaluate(Noted(), make_rows(1), seed=0)
    assert {seed for moved, seed in asked if moved} == {0}
    seeds = {seed for moved, seed in asked if not moved}
    assert len(seeds - {0}) == NUM_VARIANTS and 0 in seeds


def test_num_photos_takes_photos_evenly_over_the_split_and_reports_progress():
    steps = []
    result = evaluate(
        KnownRetouch(),
        make_rows(4, {"A": EXPERTS["A"]}),
        seed=0,
        num_photos=2,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert [record["photo_id"] for record in result["photos"]] == ["photo-0", "photo-2"]
    assert steps == [(1, 2), (2, 2)]
    assert result["settings"]["num_photos"] == 2 and result["settings"]["num_photos_in_split"] == 4


def test_photos_with_different_experts_are_measured_with_those_they_have():
    rows = make_rows(2)[:3]  # the second photo lacks expert B
    result = evaluate(KnownRetouch(), rows, seed=0)
    experts = result["quality"]["no change"]["experts"]
    first, second = (record["quality"]["no change"] for record in result["photos"])
    assert experts["A"]["delta_e"] == pytest.approx((first["A"]["delta_e"] + second["A"]["delta_e"]) / 2)
    assert experts["B"]["delta_e"] == pytest.approx(first["B"]["delta_e"])


def test_photos_of_different_sizes_are_measured_each_at_its_own():
    upright = {"input": to_pil(scenery(1, 56, 40)), "target": to_pil(np.clip(scenery(1, 56, 40) * 1.1, 0, 1))}
    rows = make_rows(1, {"me": EXPERTS["A"]})
    result = evaluate(KnownRetouch(), [*rows, rows[0] | upright | {"photo_id": "upright"}], seed=0)
    assert [(record["width"], record["height"]) for record in result["photos"]] == [(56, 40), (40, 56)]


def test_own_pairs_with_one_expert_have_no_range_to_compare_with():
    result = evaluate(KnownRetouch(), make_rows(1, {"me": [0.0, 1.0, 0.0, 0.0]}), seed=0)
    assert result["control"]["brightness"]["range_ratio"] is None
    assert "| brightness |" in format_table(result)


def test_the_tables_show_every_method_slider_and_number(known_result):
    text = format_table(known_result)
    for name in ("no change", "auto-contrast", "grey-world", "CLAHE", "Zero-DCE++", "c = 0", "oracle c", *ATTRIBUTES):
        assert f"| {name} |" in text
    assert f"{known_result['quality']['c = 0']['delta_e']:.2f}" in text
    assert f"{known_result['diversity']['delta_e']:.2f}" in text
    for table in text.split("\n\n"):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1  # a ragged table does not render


# ---- texture, harm, baselines, missing metrics ----------------------------------------------------------------------


def test_texture_forgives_tone_and_sees_blur_and_shift():
    picture = scenery(0)
    assert texture_agreement(picture, picture) == pytest.approx(1)
    assert texture_agreement(0.2 + 0.5 * picture, picture) == pytest.approx(1)
    blurred = np.stack([gaussian_filter(picture[..., channel], 3) for channel in range(3)], axis=-1)
    assert texture_agreement(blurred, picture) < 0.8
    assert abs(texture_agreement(np.roll(picture, 8, axis=(0, 1)), picture)) < 0.5
    assert texture_agreement(1 - picture, picture) == pytest.approx(-1)
    flat = plain(0.5, 0.5, 0.5)
    assert texture_agreement(flat, flat) == 1 and texture_agreement(flat, scenery(0)[:16, :16]) == 0


def test_a_grid_keeps_the_texture_of_photos_and_of_writing(calm_result):
    texture = calm_result["texture"]
    assert texture["c = 0"] == {"mean": pytest.approx(1), "least": pytest.approx(1)}
    assert set(texture["text"]) == set(text_pictures())
    assert all(methods == {"c = 0": pytest.approx(1)} for methods in texture["text"].values())  # it has no VAE


def test_text_pictures_hold_writing_and_are_the_same_every_time():
    first, again = text_pictures(), text_pictures()
    for name, picture in first.items():
        np.testing.assert_array_equal(picture, again[name])
        assert picture.shape == (256, 384, 3) and picture.std() > 0.02


def test_variants_that_do_harm_are_counted(calm_result):
    assert calm_result["coverage"]["worse"] == 0  # the identity is no farther than the input
    noisy = evaluate(KnownRetouch(noise=1.0), make_rows(1), seed=0)
    (record,) = noisy["photos"]
    before = {expert: values["delta_e"] for expert, values in record["quality"]["no change"].items()}
    harm = 0
    for number in range(NUM_VARIANTS):
        expert = min(record["variants"], key=lambda name: record["variants"][name][number])
        harm += record["variants"][expert][number] > 1.05 * before[expert]
    assert noisy["coverage"]["worse"] == pytest.approx(harm / NUM_VARIANTS) and harm > 0


def test_the_global_lut_learns_what_one_table_can():
    """One expert with one transform for every photo is what a table is made for."""
    rows = make_rows(3, {"A": [0.3, 0.3, 0.0, 0.2]})
    retouch = global_lut(rows[:2], 2)
    unseen, target = scenery(2), np.asarray(rows[2]["target"], np.float32) / 255
    assert delta_e_2000(retouch(unseen), target) < 0.25 * delta_e_2000(unseen, target)
    result = evaluate(KnownRetouch(), rows[2:], seed=0, baselines={"global LUT": retouch})
    assert result["quality"]["global LUT"]["delta_e"] == pytest.approx(delta_e_2000(retouch(unseen), target))
    assert "| global LUT |" in format_table(result)


def test_metrics_that_are_not_at_hand_are_named_with_the_reason(monkeypatch):
    for name in ("lpips", "brisque", "skvideo", "neuro_low_light"):
        monkeypatch.setitem(sys.modules, name, None)
    result = evaluate(KnownRetouch(), make_rows(1), seed=0)
    assert list(result["missing"]) == ["NIQE", "LPIPS", "BRISQUE", "Zero-DCE++"]
    assert "not installed" in result["missing"]["Zero-DCE++"] and "Zero-DCE++" not in result["quality"]
    assert "lpips" in result["missing"]["LPIPS"] and "brisque" in result["missing"]["BRISQUE"]
    assert "skvideo" in result["missing"]["NIQE"]
    assert list(result["quality"]["c = 0"]["experts"]["A"]) == ["psnr", "ssim", "delta_e"]
    for name, reason in result["missing"].items():
        assert f"{name} was not measured: {reason}." in format_table(result)


def test_what_a_metric_cannot_judge_is_left_out_of_its_mean(monkeypatch):
    """NIQE says nothing of small pictures; that is no reason to lose the evaluation."""
    judge = {"niqe": lambda picture: float("nan"), "brisque": lambda picture: 2.0}
    monkeypatch.setattr("diffretouch.evaluation.measure.find_optional", lambda: ({}, judge, {}))
    result = evaluate(KnownRetouch(), make_rows(1), seed=0)
    assert result["natural"]["c = 0"] == {"niqe": None, "brisque": 2.0}
    assert "NIQE" in format_table(result)
    records = [{"natural": {"c = 0": {"niqe": value}}} for value in (None, 3.0, 5.0)]
    assert _natural(records) == {"c = 0": {"niqe": 4.0}}


def test_results_of_before_texture_was_measured_still_print(known_result):
    old = {
        name: value for name, value in known_result.items() if name not in ("texture", "natural", "speed", "missing")
    }
    old["coverage"] = {name: value for name, value in known_result["coverage"].items() if name != "worse"}
    assert "| oracle c |" in format_table(old)


# ---- bad input ------------------------------------------------------------------------------------------------------


def changed(**values) -> list[dict]:
    """Two good rows of one photo with the second one changed."""
    first, second = make_rows(1)
    return [first, second | values]


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], ValueError, "`rows` has to hold at least one row, got none"),
        ({"test": []}, TypeError, "`rows` has to be a list of dicts or a datasets.Dataset of one split, got dict"),
        ([{"photo_id": "x", "expert": "A"}], ValueError, "got none named input, target, condition"),
        (
            [{name: value for name, value in row.items() if name != "expert"} for row in make_rows(1)],
            ValueError,
            "`rows` has to have the columns photo_id, expert, input, target, condition, got none named expert",
        ),
        (changed(expert=None), ValueError, "`expert` of photo 'photo-0' has to be a name, for a single expert any"),
        (changed(expert=""), ValueError, "`expert` of photo 'photo-0' has to be a name, for a single expert any"),
        (changed(photo_id=7), TypeError, "`photo_id` of row 1 has to be a string, got int"),
        (changed(expert="A"), ValueError, "one row per photo and expert, got two of photo 'photo-0', expert 'A'"),
        (changed(target=Image.new("RGB", (40, 40))), ValueError, "of its input's size 56 x 40, got 40 x 40"),
        (changed(target="B.jpg"), TypeError, "`target` of photo 'photo-0', expert 'B' has to be a PIL image, got str"),
        (
            changed(condition=[1.0, 0.0]),
            ValueError,
            "`condition` of photo 'photo-0', expert 'B' has to hold 4 finite numbers",
        ),
        (
            [row | {"target": row["input"]} for row in make_rows(1)],
            ValueError,
            "`target` has to differ from `input`",
        ),
        (
            [row | {"input": Image.new("RGB", (8, 8)), "target": Image.new("RGB", (8, 8))} for row in make_rows(1)],
            ValueError,
            "`input` of photo 'photo-0' has to be at least 11 x 11, got 8 x 8",
        ),
    ],
)
def test_bad_rows_get_one_clear_error(rows, error, message):
    with pytest.raises(error) as raised:
        evaluate(KnownRetouch(), rows, seed=0)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "`seed` has to be an integer of at least 0, got -1"),
        ({"seed": 0.5}, "`seed` has to be an integer of at least 0, got 0.5"),
        ({"seed": 0, "num_photos": 0}, "`num_photos` has to be an integer of at least 1, got 0"),
        ({"seed": 0, "batch_size": True}, "`batch_size` has to be an integer of at least 1, got True"),
    ],
)
def test_bad_arguments_get_one_clear_error(arguments, message):
    with pytest.raises(ValueError) as raised:
        evaluate(KnownRetouch(), make_rows(1), **arguments)
    assert message in str(raised.value)


class BrokenRetouch(KnownRetouch):
    def grid(self, condition, brightness=0.0) -> AffineGrid:
        grid = super().grid(condition, brightness)
        grid.coefficients[0] = math.nan
        return grid


def test_a_model_that_returns_nan_is_named_not_averaged():
    with pytest.raises(ValueError, match=r"has to be finite, got nan for photo 'photo-0', quality, c = 0, A, psnr"):
        evaluate(BrokenRetouch(), make_rows(1), seed=0)


def test_a_model_beside_that_returns_nan_is_named():
    with pytest.raises(ValueError, match=r"finite, got nan for photo 'photo-0', quality, broken, A, psnr"):
        evaluate(KnownRetouch(), make_rows(1), seed=0, beside={"broken": BrokenRetouch()})


def test_a_picture_that_cannot_be_read_is_named_by_its_photo():
    rows = datasets.Dataset.from_list(make_rows(1)).cast_column("target", datasets.Image(decode=False))
    rows = rows.map(lambda row: {"target": {"bytes": row["target"]["bytes"][:60], "path": None}})
    with pytest.raises(ValueError, match="The pictures of photo 'photo-0' have to be readable, got: "):
        evaluate(KnownRetouch(), rows.cast_column("target", datasets.Image()), seed=0)


def test_a_split_without_colour_has_no_unit_for_colorfulness():
    def grey(image: Image.Image) -> Image.Image:
        return image.convert("L").convert("RGB")

    rows = [row | {"input": grey(row["input"]), "target": grey(row["target"])} for row in make_rows(1)]
    result = evaluate(KnownRetouch(), rows, seed=0)
    assert result["crosstalk"]["brightness"]["colorfulness"] is None
    assert result["crosstalk"]["brightness"]["brightness"] > 0
    assert "| - |" in format_table(result)


# ---- keeping the result ---------------------------------------------------------------------------------------------


def test_the_result_survives_json(known_result, tmp_path):
    path = tmp_path / "quality.json"
    save_json(known_result, path)
    assert json.loads(path.read_text()) == known_result


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "quality.json"
    save_json({"delta_e": 1.0}, path)
    with pytest.raises(ValueError):
        save_json({"delta_e": math.nan}, path)
    blocked = tmp_path / "folder.json"
    blocked.mkdir()
    with pytest.raises(OSError):
        save_json({"delta_e": 2.0}, blocked)
    assert json.loads(path.read_text()) == {"delta_e": 1.0}
    assert sorted(tmp_path.iterdir()) == [blocked, path]


@pytest.fixture(scope="module")
def tiny_pipe() -> DiffRetouchPipeline:
    """The real classes, untrained and tiny; the head's weights are enlarged so that noise and sliders show."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=7,
        out_channels=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=4,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    head = AffineGridHead(hidden_channels=(8, 8), mid_channels=8)
    with torch.no_grad():
        head.out.weight.mul_(100)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    pipe = DiffRetouchPipeline(unet, scheduler, head, default_num_inference_steps=2)
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- an evaluation in a folder --------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def brighter(pipe: DiffRetouchPipeline) -> DiffRetouchPipeline:
    """Another model of the same kind."""
    other = copy.deepcopy(pipe)
    with torch.no_grad():
        other.grid_head.out.bias += 0.3
    return other


@pytest.mark.parametrize("beside", [False, True])
def test_an_interrupted_evaluation_goes_on_to_the_same_result(tiny_pipe, tmp_path, beside):
    rows, options = make_rows(2), {"seed": 0}
    if beside:
        options["beside"] = {"other": brighter(tiny_pipe)}
    expected = evaluate(tiny_pipe, rows, **options)["photos"]

    def kill(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        evaluate(tiny_pipe, rows, **options, folder=tmp_path, progress=kill)
    with open(tmp_path / "records.jsonl", "a") as log:
        log.write('{"key": "half a li')
    before = (tmp_path / "records.jsonl").read_text().splitlines()[:1]
    assert evaluate(tiny_pipe, rows, **options, folder=tmp_path)["photos"] == expected
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert lines[:1] == before and len(lines) == 2  # only the second photo was measured again
    assert len(list((tmp_path / "pictures").iterdir())) == 3  # and the writing


@pytest.fixture(scope="module")
def kept(tiny_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    evaluate(tiny_pipe, make_rows(1), seed=0, folder=folder)
    return folder


@pytest.mark.parametrize("change", ["seed", "steps", "weights", "scheduler", "picture", "condition"])
def test_records_of_another_model_setting_or_photo_are_not_taken_over(tiny_pipe, kept, tmp_path, change):
    rows, pipe, options = make_rows(1), copy.deepcopy(tiny_pipe), {"seed": 0}
    folder = shutil.copytree(kept, tmp_path / "kept")
    if change == "seed":
        options["seed"] = 1
    elif change == "steps":
        options["num_inference_steps"] = 1
    elif change == "weights":
        with torch.no_grad():
            pipe.grid_head.out.bias[0] += 1e-3
    elif change == "scheduler":
        pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, beta_end=0.02)
    elif change == "picture":
        rows[0]["target"] = rows[1]["target"]
    else:
        rows[0]["condition"] = [0.0, 0.0, 0.0, 0.5]
    evaluate(pipe, rows, folder=folder, **options)
    assert len((folder / "records.jsonl").read_text().splitlines()) == 2


def test_records_are_only_taken_over_with_the_same_models_and_baselines_beside(tiny_pipe, tmp_path):
    """Their names alone do not tell what they do: other weights or default steps, or a LUT fitted to other photos."""
    other, one_step = brighter(tiny_pipe), copy.deepcopy(tiny_pipe)
    one_step.register_to_config(default_num_inference_steps=1)
    variants = [
        {},
        {"beside": {"other": tiny_pipe}},
        {"beside": {"other": other}},
        {"beside": {"other": one_step}},
        {"beside": {"another": other}},
        {"baselines": {"LUT": lambda picture: picture * 0.5}},
        {"baselines": {"LUT": lambda picture: picture * 0.4}},
    ]
    for number, options in enumerate([*variants, *variants]):
        result = evaluate(tiny_pipe, make_rows(1), seed=0, folder=tmp_path, **options)
        assert set(options.get("beside", ())) == set(result["coverage_beside"])
        lines = (tmp_path / "records.jsonl").read_text().splitlines()
        assert len(lines) == min(number + 1, len(variants))  # the second time round all were found again


def test_a_model_beside_runs_its_own_steps(tiny_pipe):
    one_step = copy.deepcopy(tiny_pipe)
    one_step.register_to_config(default_num_inference_steps=1)
    result = evaluate(tiny_pipe, make_rows(1), seed=0, beside={"one step": one_step})
    assert (tiny_pipe.num_timesteps, one_step.num_timesteps) == (2, 1)
    alone = evaluate(one_step, make_rows(1), seed=0)
    assert result["quality"]["one step"]["delta_e"] == pytest.approx(alone["quality"]["c = 0"]["delta_e"], rel=1e-3)
    assert result["quality"]["one step"]["delta_e"] != result["quality"]["c = 0"]["delta_e"]


def test_pictures_are_those_of_the_model_that_was_evaluated(tiny_pipe, kept, tmp_path):
    """In a folder that another model was evaluated in, before and after."""
    folder, other = shutil.copytree(kept, tmp_path / "kept"), brighter(tiny_pipe)
    results = [evaluate(pipe, make_rows(1), seed=0, folder=folder) for pipe in (other, tiny_pipe)]
    sheets = [load_sheet(folder / "pictures" / name) for result in results for name in result["pictures"]]
    first, second = (next(iter(sheet.values())) for sheet in sheets)
    assert np.array_equal(first["input"], second["input"]) and not np.array_equal(first["c = 0"], second["c = 0"])
    assert len((folder / "records.jsonl").read_text().splitlines()) == 2  # the first model's was found again


def test_a_photo_whose_pictures_are_gone_is_measured_again(tiny_pipe, kept, tmp_path):
    folder = shutil.copytree(kept, tmp_path / "kept")
    shutil.rmtree(folder / "pictures")
    (name,) = evaluate(tiny_pipe, make_rows(1), seed=0, folder=folder)["pictures"]
    assert (folder / "pictures" / name).is_file()


# ---- a real pipeline, and the command lines -------------------------------------------------------------------------


def test_a_real_pipeline_is_measured_repeatably_whatever_the_batch(tiny_pipe):
    rows = make_rows(1)
    result = evaluate(tiny_pipe, rows, seed=0)
    assert tiny_pipe.num_timesteps == 2  # the checkpoint's default
    assert result["diversity"]["delta_e"] > 0.1  # every variant had its own noise
    again = evaluate(tiny_pipe, rows, seed=0, batch_size=5)["photos"][0]
    first = result["photos"][0]
    assert again["variants"]["A"] == pytest.approx(first["variants"]["A"], rel=1e-3)
    assert again["control"]["contrast"][0] == pytest.approx(first["control"]["contrast"][0], rel=1e-3)
    assert again["quality"]["oracle c"]["B"] == pytest.approx(first["quality"]["oracle c"]["B"], rel=1e-3)


def test_the_number_of_steps_reaches_the_pipeline(tiny_pipe):
    evaluate(tiny_pipe, make_rows(1), seed=0, num_inference_steps=1)
    assert tiny_pipe.num_timesteps == 1


def benchmark(name: str) -> ModuleType:
    """A script of benchmarks/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_benchmark(name: str, *arguments: object) -> int:
    return benchmark(name).main([str(argument) for argument in arguments])
