"""Quality, control and diversity of a retouching model on one split of a data set, beside simple baselines.

    result = evaluate(pipe, rows, seed=0)       # rows of one split, as in the data set schema
    print(format_table(result))
    save_json(result, "results.json")

Per photo one record of plain measurements is made (`result["photos"]`); everything else in the result is a summary of
these records, so further summaries need no second run. Three settings are told apart everywhere:

- `c = 0`: one retouch with every slider at 0, compared with every expert of the photo;
- `oracle c`: one retouch per expert, conditioned on what that expert's own picture measured. It is told the answer's
  attributes, so it must never be reported as `c = 0`;
- baselines, which know neither.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.exposure import equalize_adapthist
from skimage.metrics import structural_similarity

from .attributes import ATTRIBUTES, attribute_scores, attribute_view, srgb_to_linear
from .data.synthetic import to_srgb
from .files import write_atomically

COLUMNS = ("photo_id", "expert", "input", "target", "condition")

# Slider positions of the control curves; 0 is shared by all four sliders.
POSITIONS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
# A curve may step back by this share of its own range and still count as monotone: less than anyone sees, more than
# the wobble of clipping and rounding.
MONOTONE_TOLERANCE = 0.02
# A slider that moves a photo by less than this share of what its experts changed or disagreed on does nothing anyone
# sees. Without the bound, an untrained model whose sliders move the seventh digit would rank as perfectly controlled.
DEAD_SLIDER = 0.01

NUM_VARIANTS = 8  # seeds of the coverage measure
NUM_DIVERSITY_SEEDS = 4  # the first of these variants, compared with each other

# 8-bit pictures that differ anywhere stay below about this; a finite value for equal pictures keeps means finite.
PSNR_CEILING = 100.0

SSIM_WINDOW = 11  # side of the 1.5-sigma Gaussian window of Wang et al. (2004), the smallest picture SSIM can judge

BOOTSTRAP_SAMPLES = 2000


# ---- metrics --------------------------------------------------------------------------------------------------------


def psnr(picture: np.ndarray, target: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two sRGB pictures (H, W, 3) in [0, 1]; `PSNR_CEILING` when equal.

    Raises:
        ValueError: if a picture is not (H, W, 3) or the two differ in shape.
    """
    _check_pair(picture, target)
    error = float(np.mean(np.square(picture.astype(np.float64) - target)))
    if error <= 10 ** (-PSNR_CEILING / 10):
        return PSNR_CEILING
    return -10 * float(np.log10(error))


def ssim(picture: np.ndarray, target: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, Gaussian window) of sRGB pictures (H, W, 3) in [0, 1], mean of R, G, B.

    Raises:
        ValueError: if a picture is not (H, W, 3), the two differ in shape, or a side is shorter than `SSIM_WINDOW`.
    """
    _check_pair(picture, target)
    if min(picture.shape[:2]) < SSIM_WINDOW:
        raise ValueError(f"`picture` has to be at least {SSIM_WINDOW} x {SSIM_WINDOW} for SSIM, got {picture.shape}.")
    similarity = structural_similarity(
        picture, target, data_range=1.0, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return float(similarity)


def delta_e_2000(picture: np.ndarray, target: np.ndarray) -> float:
    """Mean CIEDE2000 colour difference over two sRGB pictures (H, W, 3) in [0, 1]; about 1 is just noticeable.

    CIE 142-2001 with unit weights, CIELAB under D65.

    Raises:
        ValueError: if a picture is not (H, W, 3) or the two differ in shape.
    """
    _check_pair(picture, target)
    return float(np.mean(deltaE_ciede2000(rgb2lab(picture), rgb2lab(target)), dtype=np.float64))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"psnr": psnr, "ssim": ssim, "delta_e": delta_e_2000}


def _check_pair(picture: np.ndarray, target: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"`picture` has to be of shape (H, W, 3), got {picture.shape}.")
    if picture.shape != target.shape:
        raise ValueError(f"`target` has to be of the shape of `picture` {picture.shape}, got {target.shape}.")


# ---- baselines: sRGB picture (H, W, 3) in [0, 1] -> the same -------------------------------------------------------


def no_change(picture: np.ndarray) -> np.ndarray:
    """The untouched picture (H, W, 3) in [0, 1]: what every other number is held against."""
    return picture


def auto_contrast(picture: np.ndarray) -> np.ndarray:
    """Stretch every channel of (H, W, 3) in [0, 1] so that its 0.5% and 99.5% percentiles become 0 and 1.

    The usual "auto levels": it sets exposure and contrast, and balances colour as a side effect. A flat channel stays.
    """
    low, high = np.percentile(picture, (0.5, 99.5), axis=(0, 1))
    flat = high <= low
    stretched = (picture - np.where(flat, 0, low)) / np.where(flat, 1, high - low)
    return np.clip(stretched, 0, 1).astype(picture.dtype)


def grey_world(picture: np.ndarray) -> np.ndarray:
    """White balance of (H, W, 3) in [0, 1]: gains in linear light that make the mean colour grey of its luminance.

    Buchsbaum (1980). A black picture stays black.
    """
    linear = srgb_to_linear(torch.from_numpy(picture)).numpy()
    means = linear.mean((0, 1))
    luminance = means @ np.asarray([0.2126, 0.7152, 0.0722], means.dtype)
    gains = np.divide(luminance, means, out=np.ones_like(means), where=means > 0)
    return to_srgb(np.clip(linear * gains, 0, 1))


def clahe(picture: np.ndarray) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of CIELAB lightness; (H, W, 3) in [0, 1] -> the same.

    Zuiderveld (1994) with scikit-image's defaults (tiles of 1/8 of the sides, clip limit 0.01). A flat picture stays.
    """
    lab = rgb2lab(picture)
    lightness = lab[..., 0]
    if np.ptp(lightness) == 0:
        return picture
    lab[..., 0] = 100 * equalize_adapthist(lightness / 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours outside sRGB are expected here, and clipped
        return np.clip(lab2rgb(lab), 0, 1).astype(picture.dtype)


BASELINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "no change": no_change,
    "auto-contrast": auto_contrast,
    "grey-world": grey_world,
    "CLAHE": clahe,
}


# ---- rows of the data set -> photos --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Photo:
    """One photo with everything its experts made of it; pictures are sRGB float32 (H, W, 3) in [0, 1]."""

    photo_id: str
    picture: np.ndarray
    targets: dict[str, np.ndarray]
    conditions: dict[str, list[float]]


def _photo_rows(rows: Any) -> dict[str, list[int]]:
    """Row numbers of every photo, in order of appearance. Reads no pictures."""
    is_dataset = isinstance(getattr(rows, "column_names", None), list) and hasattr(rows, "__len__")
    if not is_dataset and not (isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in rows)):
        raise TypeError(
            f"`rows` has to be a list of dicts or a datasets.Dataset of one split, got {type(rows).__name__}."
        )
    if len(rows) == 0:
        raise ValueError("`rows` has to hold at least one row, got none.")
    present = set(rows.column_names) if is_dataset else set.intersection(*(set(row) for row in rows))
    missing = [name for name in COLUMNS if name not in present]
    if missing:
        raise ValueError(f"`rows` has to have the columns {', '.join(COLUMNS)}, got none named {', '.join(missing)}.")
    photo_ids = rows["photo_id"] if is_dataset else [row["photo_id"] for row in rows]
    numbers: dict[str, list[int]] = {}
    for number, photo_id in enumerate(photo_ids):
        if not isinstance(photo_id, str):
            raise TypeError(f"`photo_id` of row {number} has to be a string, got {type(photo_id).__name__}.")
        numbers.setdefault(photo_id, []).append(number)
    return numbers


def _read_photo(photo_id: str, rows: Sequence[Mapping[str, Any]]) -> _Photo:
    picture = _pixels(rows[0]["input"], f"`input` of photo {photo_id!r}")
    height, width = picture.shape[:2]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"`input` of photo {photo_id!r} has to be at least {SSIM_WINDOW} x {SSIM_WINDOW}, got {width} x {height}."
        )
    targets: dict[str, np.ndarray] = {}
    conditions: dict[str, list[float]] = {}
    for row in rows:
        expert = row["expert"]
        where = f"of photo {photo_id!r}, expert {expert!r}"
        if expert in targets:
            raise ValueError(f"`rows` has to hold one row per photo and expert, got two {where}.")
        target = _pixels(row["target"], f"`target` {where}")
        if target.shape != picture.shape:
            raise ValueError(
                f"`target` {where} has to be of its input's size {width} x {height}, "
                f"got {target.shape[1]} x {target.shape[0]}."
            )
        condition = np.asarray(row["condition"], dtype=np.float64)
        if condition.shape != (len(ATTRIBUTES),) or not np.isfinite(condition).all():
            raise ValueError(
                f"`condition` {where} has to hold {len(ATTRIBUTES)} finite numbers, got {row['condition']!r}."
            )
        targets[expert], conditions[expert] = target, condition.tolist()
    return _Photo(photo_id, picture, targets, conditions)


def _pixels(image: Any, name: str) -> np.ndarray:
    if not isinstance(image, Image.Image):
        raise TypeError(f"{name} has to be a PIL image, got {type(image).__name__}.")
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255


# ---- measuring one photo -------------------------------------------------------------------------------------------

# (picture, conditions, seeds) -> one retouched picture per condition
_Retouch = Callable[[np.ndarray, list[list[float]], list[int]], Iterator[np.ndarray]]


def _measure_photo(retouch: _Retouch, photo: _Photo, seed: int) -> dict[str, Any]:
    """All measurements of one photo as plain numbers. Draws its noise from `seed` and the photo's name alone."""
    seeds = _variant_seeds(seed, photo.photo_id)
    neutral = [0.0] * len(ATTRIBUTES)
    variants = list(retouch(photo.picture, [neutral] * NUM_VARIANTS, seeds))
    oracle = retouch(photo.picture, list(photo.conditions.values()), [seeds[0]] * len(photo.conditions))
    made = {name: baseline(photo.picture) for name, baseline in BASELINES.items()} | {"c = 0": variants[0]}
    quality = {
        method: {expert: _compare(picture, target) for expert, target in photo.targets.items()}
        for method, picture in made.items()
    }
    quality["oracle c"] = {
        expert: _compare(picture, target)
        for picture, (expert, target) in zip(oracle, photo.targets.items(), strict=True)
    }
    pairs = [(a, b) for b in range(NUM_DIVERSITY_SEEDS) for a in range(b)]
    height, width = photo.picture.shape[:2]
    return {
        "photo_id": photo.photo_id,
        "width": width,
        "height": height,
        "quality": quality,
        "diversity": float(np.mean([delta_e_2000(variants[a], variants[b]) for a, b in pairs])),
        "variants": {
            expert: [delta_e_2000(variant, target) for variant in variants] for expert, target in photo.targets.items()
        },
        "control": _control_scores(retouch, photo.picture, seeds[0], at_zero=variants[0]),
        "input_scores": _scores([photo.picture])[0],
        "expert_scores": dict(zip(photo.targets, _scores(photo.targets.values()), strict=True)),
    }


def _compare(picture: np.ndarray, target: np.ndarray) -> dict[str, float]:
    return {name: metric(picture, target) for name, metric in METRICS.items()}


def _control_scores(retouch: _Retouch, picture: np.ndarray, seed: int, at_zero: np.ndarray) -> dict[str, list]:
    """{slider: (positions, attributes) scores} of one photo, one slider moved at a time, the noise held fixed."""
    moved = [position for position in POSITIONS if position != 0]
    conditions = [
        [position if name == slider else 0.0 for name in ATTRIBUTES] for slider in ATTRIBUTES for position in moved
    ]
    scores = _scores(retouch(picture, conditions, [seed] * len(conditions)))
    zero = _scores([at_zero])
    below = sum(position < 0 for position in POSITIONS)
    curves = {}
    for number, slider in enumerate(ATTRIBUTES):
        own = scores[number * len(moved) : (number + 1) * len(moved)]
        curves[slider] = own[:below] + zero + own[below:]
    return curves


def _scores(pictures: Iterable[np.ndarray]) -> list[list[float]]:
    """Attribute scores (N, 4) of pictures (H, W, 3) on their 512 x 512 views, one at a time to bound memory."""
    views = (attribute_view(torch.from_numpy(picture).permute(2, 0, 1)[None]) for picture in pictures)
    return [attribute_scores(view)[0].tolist() for view in views]


def _variant_seeds(seed: int, photo_id: str) -> list[int]:
    """Different noise for every photo and variant, the same whichever other photos are evaluated beside it."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(photo_id.encode())])
    return [int(number) for number in sequence.generate_state(NUM_VARIANTS)]


def _make_retouch(pipe: Any, num_inference_steps: int | None, batch_size: int) -> _Retouch:
    """The pipeline as a function that yields its pictures one by one, unrounded."""

    def retouch(picture: np.ndarray, conditions: list[list[float]], seeds: list[int]) -> Iterator[np.ndarray]:
        image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
        for start in range(0, len(conditions), batch_size):
            batch = conditions[start : start + batch_size]
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch_size]]
            sliders = {name: [condition[number] for condition in batch] for number, name in enumerate(ATTRIBUTES)}
            output = pipe(
                [image] * len(batch),
                **sliders,
                num_inference_steps=num_inference_steps,
                generator=generators,
                output_type="grid",
            )
            for grid in output.grids:
                yield grid.apply(picture)

    return retouch


# ---- the evaluation ------------------------------------------------------------------------------------------------


def evaluate(
    pipe: Any,
    rows: Any,
    *,
    seed: int,
    num_inference_steps: int | None = None,
    num_photos: int | None = None,
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure a pipeline and the baselines on the rows of one split.

    Pictures are compared at their stored size, unrounded; attribute scores are taken on the 512 x 512 view. Means run
    over the experts of a photo first, then over photos; intervals are 95% percentile bootstraps over photos.

    Args:
        pipe: a `DiffRetouchPipeline`, used on the device it is on.
        rows: list of dicts or `datasets.Dataset` with the columns of `COLUMNS`: `input` and `target` PIL images of
            equal size, `condition` four numbers in the order of `ATTRIBUTES`. A photo's rows have different experts.
        seed: non-negative; with it and the photo's name every bit of noise is fixed.
        num_inference_steps: None for the checkpoint's default.
        num_photos: at most so many photos, evenly spaced over the split; None for all.
        batch_size: retouches per pipeline call.
        progress: called as `progress(done, total)` after every photo.

    Returns:
        Plain numbers, lists, dicts and strings, ready for JSON:

        - `settings`
        - `quality[method]`: overall `psnr` (dB), `ssim`, `delta_e`, `delta_e_ratio` (to no change) and
          `delta_e_ratio_interval` (None for one photo); the same means per expert under `experts`
        - `control[slider]`: `spearman`; `right_way` and `monotone`, shares of photos (in all three, a slider
          too weak to see by `DEAD_SLIDER` counts as one without effect); `curve`, own attribute per
          position; `range`, own attribute from -1 to +1; `expert_range`, between a photo's experts; `range_ratio`
          (None where every photo has one expert)
        - `crosstalk[slider][attribute]`: mean signed change from -1 to +1 in standard deviations of the attribute
          over the split's inputs and targets; `crosstalk_absolute`: mean size of that change (both None where all
          these pictures score alike)
        - `diversity`: mean pairwise `delta_e` of `seeds` seeds at c = 0, its `interval`, the `least` and `most` of a
          photo
        - `coverage`: `delta_e` of the nearest of `variants` variants at c = 0, `ratio` to no change, `ratio_interval`;
          the mean of every expert under `experts`
        - `photos`: the records behind all this

    Raises:
        TypeError: if `rows` or its pictures are of the wrong kind.
        ValueError: if an argument or row is out of range, or a measurement is not finite; the message names it.
    """
    _check_count("seed", seed, 0)
    _check_count("batch_size", batch_size, 1)
    if num_photos is not None:
        _check_count("num_photos", num_photos, 1)
    numbers = _photo_rows(rows)
    chosen = _evenly_spaced(list(numbers), num_photos)
    retouch = _make_retouch(pipe, num_inference_steps, batch_size)
    records = []
    for photo_id in chosen:
        photo = _read_photo(photo_id, [rows[number] for number in numbers[photo_id]])
        record = _measure_photo(retouch, photo, seed)
        _require_finite(record, f"photo {photo_id!r}")
        records.append(record)
        if progress is not None:
            progress(len(records), len(chosen))
    settings = {
        "seed": seed,
        "num_inference_steps": num_inference_steps,
        "num_photos": len(chosen),
        "num_photos_in_split": len(numbers),
        "experts": sorted({expert for record in records for expert in record["expert_scores"]}),
        "positions": list(POSITIONS),
        "monotone_tolerance": MONOTONE_TOLERANCE,
        "dead_slider": DEAD_SLIDER,
    }
    result = {"settings": settings, **_summarise(records, seed), "photos": records}
    _require_finite(result, "result")
    return result


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` has to be an integer of at least {least}, got {value!r}.")


def _evenly_spaced(items: list[str], count: int | None) -> list[str]:
    if count is None or count >= len(items):
        return items
    return [items[number * len(items) // count] for number in range(count)]


def _require_finite(value: Any, name: str) -> None:
    """Walk nested dicts and lists; a NaN or infinity anywhere is an error that names the way to it."""
    if isinstance(value, dict):
        for key, item in value.items():
            _require_finite(item, f"{name}, {key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _require_finite(item, f"{name}[{number}]")
    elif isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"Every measurement has to be finite, got {value} for {name}.")


# ---- summaries of the records --------------------------------------------------------------------------------------


def _summarise(records: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    # One set of resamples for all, so that intervals of different methods can be compared.
    samples = np.random.default_rng(seed).integers(len(records), size=(BOOTSTRAP_SAMPLES, len(records)))
    changes = _slider_changes(records)
    return {
        "quality": {method: _quality(records, method, samples) for method in records[0]["quality"]},
        "control": {slider: _control(records, number) for number, slider in enumerate(ATTRIBUTES)},
        "crosstalk": _matrix(changes.mean(0)),
        "crosstalk_absolute": _matrix(np.abs(changes).mean(0)),
        "diversity": _diversity(records, samples),
        "coverage": _coverage(records, samples),
    }


def _quality(records: list[dict[str, Any]], method: str, samples: np.ndarray) -> dict[str, Any]:
    overall = {
        metric: float(np.mean([_over_experts(record["quality"][method], metric) for record in records]))
        for metric in METRICS
    }
    errors = [_over_experts(record["quality"][method], "delta_e") for record in records]
    ratio, interval = _ratio_to_input(errors, _input_errors(records), samples)
    return {
        **overall,
        "delta_e_ratio": ratio,
        "delta_e_ratio_interval": interval,
        "experts": {expert: _expert_quality(records, method, expert) for expert in _experts(records)},
    }


def _over_experts(by_expert: dict[str, dict[str, float]], metric: str) -> float:
    return float(np.mean([values[metric] for values in by_expert.values()]))


def _expert_quality(records: list[dict[str, Any]], method: str, expert: str) -> dict[str, float]:
    measured = [record["quality"][method][expert] for record in records if expert in record["quality"][method]]
    return {metric: float(np.mean([values[metric] for values in measured])) for metric in METRICS}


def _experts(records: list[dict[str, Any]]) -> list[str]:
    return sorted({expert for record in records for expert in record["expert_scores"]})


def _input_errors(records: list[dict[str, Any]]) -> list[float]:
    return [_over_experts(record["quality"]["no change"], "delta_e") for record in records]


def _ratio_to_input(
    errors: list[float], input_errors: list[float], samples: np.ndarray
) -> tuple[float, list[float] | None]:
    """Ratio of the means and its bootstrap interval; the interval is None for a single photo."""
    error, input_error = np.asarray(errors), np.asarray(input_errors)
    if not input_error.any():
        raise ValueError("`target` has to differ from `input` in at least one photo, got equal pictures only.")
    ratio = float(error.mean() / input_error.mean())
    if len(errors) < 2:
        return ratio, None
    totals = input_error[samples].sum(1)
    ratios = error[samples].sum(1)[totals > 0] / totals[totals > 0]
    return ratio, _interval(ratios)


def _interval(resampled: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.percentile(resampled, (2.5, 97.5))]


def _control(records: list[dict[str, Any]], number: int) -> dict[str, Any]:
    curves = np.asarray([record["control"][ATTRIBUTES[number]] for record in records])[:, :, number]  # (P, positions)
    experts = [np.asarray(list(record["expert_scores"].values()))[:, number] for record in records]
    inputs = [record["input_scores"][number] for record in records]
    visible = [DEAD_SLIDER * np.ptp([own, *scores]) for own, scores in zip(inputs, experts, strict=True)]
    seen = np.where(np.ptp(curves, axis=1) >= visible, curves.T, 0).T  # flat where nothing is to be seen
    gain = float(np.mean(curves[:, -1] - curves[:, 0]))
    expert_range = float(np.mean([np.ptp(scores) for scores in experts]))
    return {
        "spearman": float(np.mean([spearman(curve) for curve in seen])),
        "right_way": float(np.mean(seen[:, -1] > seen[:, 0])),
        "monotone": float(np.mean([is_monotone(curve) for curve in seen])),
        "curve": curves.mean(0).tolist(),
        "range": gain,
        "expert_range": expert_range,
        "range_ratio": gain / expert_range if expert_range > 0 else None,
    }


def spearman(curve: np.ndarray) -> float:
    """Spearman rank correlation of attribute scores (positions,) with their slider positions, in [-1, 1].

    A curve that does not move has no ranks; it counts as 0, a slider without effect.
    """
    if np.ptp(curve) == 0:
        return 0.0
    return float(spearmanr(np.arange(len(curve)), curve).statistic)


def is_monotone(curve: np.ndarray) -> bool:
    """Whether attribute scores (positions,) rise from end to end with no step back beyond `MONOTONE_TOLERANCE`."""
    return bool(curve[-1] > curve[0] and np.diff(curve).min() >= -MONOTONE_TOLERANCE * np.ptp(curve))


def _slider_changes(records: list[dict[str, Any]]) -> np.ndarray:
    """(photos, sliders, attributes): change from -1 to +1 in standard deviations over the split's pictures.

    NaN where all pictures of the split score alike, which leaves no unit.
    """
    pictures = [scores for record in records for scores in (record["input_scores"], *record["expert_scores"].values())]
    spread = np.std(pictures, axis=0)
    spread[np.ptp(pictures, axis=0) == 0] = np.nan
    curves = np.asarray([[record["control"][slider] for slider in ATTRIBUTES] for record in records])
    return (curves[:, :, -1] - curves[:, :, 0]) / spread


def _matrix(changes: np.ndarray) -> dict[str, dict[str, float | None]]:
    rows = [[None if np.isnan(change) else float(change) for change in row] for row in changes]
    return {slider: dict(zip(ATTRIBUTES, row, strict=True)) for slider, row in zip(ATTRIBUTES, rows, strict=True)}


def _diversity(records: list[dict[str, Any]], samples: np.ndarray) -> dict[str, Any]:
    values = np.asarray([record["diversity"] for record in records])
    return {
        "seeds": NUM_DIVERSITY_SEEDS,
        "delta_e": float(values.mean()),
        "interval": _interval(values[samples].mean(1)) if len(values) > 1 else None,
        "least": float(values.min()),
        "most": float(values.max()),
    }


def _coverage(records: list[dict[str, Any]], samples: np.ndarray) -> dict[str, Any]:
    nearest = [{expert: min(errors) for expert, errors in record["variants"].items()} for record in records]
    overall = [float(np.mean(list(by_expert.values()))) for by_expert in nearest]
    ratio, interval = _ratio_to_input(overall, _input_errors(records), samples)
    return {
        "variants": NUM_VARIANTS,
        "delta_e": float(np.mean(overall)),
        "ratio": ratio,
        "ratio_interval": interval,
        "experts": {
            expert: float(np.mean([by_expert[expert] for by_expert in nearest if expert in by_expert]))
            for expert in _experts(records)
        },
    }


# ---- showing and keeping the result --------------------------------------------------------------------------------


def format_table(result: dict[str, Any]) -> str:
    """The summaries of `evaluate` as Markdown tables, for the terminal and the model card."""
    settings = result["settings"]
    steps = settings["num_inference_steps"] or "default"
    heading = (
        f"{settings['num_photos']} of {settings['num_photos_in_split']} photos, experts "
        f"{', '.join(settings['experts'])}, seed {settings['seed']}, steps: {steps}. "
        "Brackets: 95% bootstrap interval over photos."
    )
    return "\n\n".join(
        [
            heading,
            _quality_table(result),
            _expert_table(result),
            _control_table(result),
            _crosstalk_table(result),
            _variety_text(result),
        ]
    )


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])


def _percent(ratio: float | None, interval: list[float] | None = None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0%}" + (f" [{interval[0]:.0%}, {interval[1]:.0%}]" if interval else "")


def _quality_table(result: dict[str, Any]) -> str:
    lines = [
        [
            method,
            f"{values['psnr']:.2f}",
            f"{values['ssim']:.3f}",
            f"{values['delta_e']:.2f}",
            _percent(values["delta_e_ratio"], values["delta_e_ratio_interval"]),
        ]
        for method, values in result["quality"].items()
    ]
    return _markdown(["Mean over experts", "PSNR (dB)", "SSIM", "Delta E 2000", "of no change"], lines)


def _expert_table(result: dict[str, Any]) -> str:
    experts = result["settings"]["experts"]
    lines = [
        [method, *(_expert_cell(values["experts"][expert]) for expert in experts)]
        for method, values in result["quality"].items()
    ]
    return _markdown(["PSNR / SSIM / Delta E 2000", *experts], lines)


def _expert_cell(values: dict[str, float]) -> str:
    return f"{values['psnr']:.2f} / {values['ssim']:.3f} / {values['delta_e']:.2f}"


def _control_table(result: dict[str, Any]) -> str:
    lines = [
        [
            slider,
            f"{values['spearman']:.3f}",
            _percent(values["right_way"]),
            _percent(values["monotone"]),
            f"{values['range']:.4g}",
            f"{values['expert_range']:.4g}",
            _percent(values["range_ratio"]),
        ]
        for slider, values in result["control"].items()
    ]
    header = ["Slider", "Spearman", "+1 beats -1", "monotone", "own range", "experts' range", "own / experts'"]
    return _markdown(header, lines)


def _crosstalk_table(result: dict[str, Any]) -> str:
    lines = [
        [slider, *(_change_cell(row[name], result["crosstalk_absolute"][slider][name]) for name in ATTRIBUTES)]
        for slider, row in result["crosstalk"].items()
    ]
    return _markdown(["Slider -1 to +1: mean change (mean size), in std of the data", *ATTRIBUTES], lines)


def _change_cell(change: float | None, size: float | None) -> str:
    return "-" if change is None else f"{change:+.2f} ({size:.2f})"


def _variety_text(result: dict[str, Any]) -> str:
    diversity, coverage = result["diversity"], result["coverage"]
    by_expert = ", ".join(f"{expert} {value:.2f}" for expert, value in coverage["experts"].items())
    return (
        f"Mean pairwise Delta E 2000 of {diversity['seeds']} seeds at c = 0: {diversity['delta_e']:.2f} "
        f"(photos: {diversity['least']:.2f} to {diversity['most']:.2f}).\n\n"
        f"Nearest of {coverage['variants']} variants to each expert, Delta E 2000: {coverage['delta_e']:.2f}, "
        f"{_percent(coverage['ratio'], coverage['ratio_interval'])} of no change ({by_expert})."
    )


def save_json(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `result` as indented JSON: whole or not at all, so that an interrupted run never leaves half a file.

    Raises:
        OSError: if the folder does not exist or cannot be written.
        ValueError: if `result` holds NaN or infinity, which JSON has no word for.
    """
    write_atomically(Path(path), (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
