"""Records of photos -> the figures of an evaluation: means, bootstrap intervals, control, coverage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from ..attributes import ATTRIBUTES
from ..tables import WORSE
from .one_photo import NUM_DIVERSITY_SEEDS, NUM_VARIANTS

# A curve may step back by this share of its own range and still count as monotone: less than anyone sees, more than
# the wobble of clipping and rounding.
MONOTONE_TOLERANCE = 0.02

# A slider that moves a photo by less than this share of what its experts changed or disagreed on does nothing anyone
# sees. Without the bound, an untrained model whose sliders move the seventh digit would rank as perfectly controlled.
DEAD_SLIDER = 0.01
BOOTSTRAP_SAMPLES = 2000


def summarise(records: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    # One set of resamples for all, so that intervals of different methods can be compared.
    samples = np.random.default_rng(seed).integers(len(records), size=(BOOTSTRAP_SAMPLES, len(records)))
    spread = _spread(records)
    changes = _slider_changes(records, spread)
    return {
        "quality": {method: _quality(records, method, samples) for method in records[0]["quality"]},
        "control": {slider: _control(records, number) for number, slider in enumerate(ATTRIBUTES)},
        "spread": {
            name: None if np.isnan(unit) else float(unit) for name, unit in zip(ATTRIBUTES, spread, strict=True)
        },
        "crosstalk": _matrix(changes.mean(0)),
        "crosstalk_absolute": _matrix(np.abs(changes).mean(0)),
        "diversity": _diversity(records, samples),
        "coverage": _coverage(records, samples),
        "coverage_beside": {
            name: _coverage(others, samples) | {"diversity": _diversity(others, samples)}
            for name, others in _records_beside(records).items()
        },
        "texture": _texture(records),
        "natural": _natural(records),
    }


def _texture(records: list[dict[str, Any]]) -> dict[str, Any]:
    methods = records[0]["texture"]
    values = {method: [record["texture"][method] for record in records] for method in methods}
    return {method: {"mean": float(np.mean(each)), "least": float(np.min(each))} for method, each in values.items()}


def _natural(records: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """{method: {metric: mean over the photos that it can judge, None if over none}}."""
    methods = records[0]["natural"]
    judged = {
        method: {name: [record["natural"][method][name] for record in records] for name in methods[method]}
        for method in methods
    }
    return {method: {name: _mean_known(each) for name, each in known.items()} for method, known in judged.items()}


def _mean_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _quality(records: list[dict[str, Any]], method: str, samples: np.ndarray) -> dict[str, Any]:
    overall = {
        metric: float(np.mean([_over_experts(record["quality"][method], metric) for record in records]))
        for metric in _metrics(records)
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
    return {metric: float(np.mean([values[metric] for values in measured])) for metric in _metrics(records)}


def _metrics(records: list[dict[str, Any]]) -> list[str]:
    (by_expert, *_) = records[0]["quality"].values()
    return list(next(iter(by_expert.values())))


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


def _spread(records: list[dict[str, Any]]) -> np.ndarray:
    """(attributes,): standard deviation of each over the split's pictures; NaN where all score alike: no unit then."""
    pictures = [scores for record in records for scores in (record["input_scores"], *record["expert_scores"].values())]
    spread = np.std(pictures, axis=0)
    spread[np.ptp(pictures, axis=0) == 0] = np.nan
    return spread


def _slider_changes(records: list[dict[str, Any]], spread: np.ndarray) -> np.ndarray:
    """(photos, sliders, attributes): change from -1 to +1 in units of `spread`."""
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
        "worse": float(np.mean([worse(record["variants"], record["quality"]["no change"]) for record in records])),
    }


def _records_beside(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """{model beside: the records, with its variants instead of the model's}."""
    return {name: [record | record["beside"][name] for record in records] for name in records[0]["beside"]}


def worse(variants: Mapping[str, Sequence[float]], untouched: Mapping[str, Mapping[str, float]]) -> float:
    """Share of a photo's variants that are farther from the expert nearest to them than the input is, by `WORSE`.

    Args:
        variants: {expert: Delta E 2000 of each variant}.
        untouched: {expert: {"delta_e": that of the input}}.
    """
    names = list(variants)
    errors = np.asarray([variants[name] for name in names])  # (experts, variants)
    before = np.asarray([untouched[name]["delta_e"] for name in names])
    nearest = errors.argmin(0)
    return float(np.mean(errors.min(0) > (1 + WORSE) * before[nearest]))
