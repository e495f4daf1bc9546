"""The figures of an evaluation as Markdown tables, for the terminal, the report and the model card."""

from __future__ import annotations

from typing import Any

from .attributes import ATTRIBUTES
from .section_tables import section_tables

WORSE = 0.05  # a variant that is farther from its nearest expert than the input by more than this share is a failure

# What has to be known of a baseline to read its figures.
NOTES = {
    "Zero-DCE++": "Zero-DCE++ (the package neuro-low-light) was trained without experts and for photos in low light "
    "only: it shows what a learned brightener does here, not what learning can do.",
}

TITLES = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "delta_e": "Delta E 2000",
    "lpips": "LPIPS",
    "brisque": "BRISQUE",
    "niqe": "NIQE",
}

_DIGITS = {"psnr": 2, "ssim": 3, "delta_e": 2, "lpips": 4, "brisque": 1, "niqe": 1}

# The first column names the row.
Table = tuple[list[str], list[list[str]]]


def format_table(result: dict[str, Any]) -> str:
    """The summaries of `evaluate` as Markdown tables, for the terminal and the model card."""
    parts = [describe(result), *(_markdown(*table) for table in tables(result).values())]
    parts += notes(result)
    if "texture" in result:  # results of before it was measured
        parts.append(_cost_text(result))
    return "\n\n".join(parts)


def describe(result: dict[str, Any]) -> str:
    """What was evaluated, in one line."""
    settings = result["settings"]
    steps = settings["num_inference_steps"] or "default"
    beside = f"; beside it: {', '.join(settings['beside'])}" if settings.get("beside") else ""
    return (
        f"{settings['num_photos']} of {settings['num_photos_in_split']} photos, experts "
        f"{', '.join(settings['experts'])}, seed {settings['seed']}, steps: {steps}{beside}. "
        "Brackets: 95% bootstrap interval over photos."
    )


def tables(result: dict[str, Any]) -> dict[str, Table]:
    """{name: (header, rows)} of the summaries, everything as text."""
    found = {
        "quality": _quality_table(result),
        "experts": _expert_table(result),
        "coverage": _coverage_table(result),
        "control": _control_table(result),
        "crosstalk": _crosstalk_table(result),
    }
    return found | ({"texture": _texture_table(result)} if "texture" in result else {}) | section_tables(result)


def notes(result: dict[str, Any]) -> list[str]:
    """What has to be known of single rows of the tables."""
    return [NOTES[method] for method in result["quality"] if method in NOTES]


def _markdown(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *lines])


def _percent(ratio: float | None, interval: list[float] | None = None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0%}" + (f" [{interval[0]:.0%}, {interval[1]:.0%}]" if interval else "")


def _quality_table(result: dict[str, Any]) -> Table:
    methods = result["quality"]
    metrics = [name for name in TITLES if name in next(iter(methods.values()))]
    natural = result.get("natural", {})
    judged = list(natural.get("no change", {}))
    lines = [
        [
            method,
            *(_figure(name, values[name]) for name in metrics),
            _percent(values["delta_e_ratio"], values["delta_e_ratio_interval"]),
            *(_figure(name, natural[method][name]) if method in natural else "-" for name in judged),
        ]
        for method, values in methods.items()
    ]
    titles = [TITLES[name] for name in metrics]
    return ["Mean over experts", *titles, "of no change", *(TITLES[name] for name in judged)], lines


def _figure(metric: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{_DIGITS[metric]}f}"


def _expert_table(result: dict[str, Any]) -> Table:
    experts = result["settings"]["experts"]
    lines = [
        [method, *(_expert_cell(values["experts"][expert]) for expert in experts)]
        for method, values in result["quality"].items()
    ]
    metrics = next(iter(next(iter(result["quality"].values()))["experts"].values()))
    return [" / ".join(TITLES[name].removesuffix(" (dB)") for name in metrics), *experts], lines


def _expert_cell(values: dict[str, float]) -> str:
    return " / ".join(_figure(name, value) for name, value in values.items())


def _coverage_table(result: dict[str, Any]) -> Table:
    experts = result["settings"]["experts"]
    ours = result["coverage"] | {"diversity": result["diversity"]}
    lines = [
        [
            method,
            f"{values['delta_e']:.2f}",
            _percent(values["ratio"], values["ratio_interval"]),
            *(f"{values['experts'][expert]:.2f}" for expert in experts),
            f"{values['worse']:.1%}" if "worse" in values else "-",  # results of before it was measured
            f"{values['diversity']['delta_e']:.2f}",
            f"{values['diversity']['least']:.2f} to {values['diversity']['most']:.2f}",
        ]
        for method, values in {**result.get("coverage_beside", {}), "c = 0": ours}.items()
    ]
    first = f"Delta E 2000 of the nearest of {ours['variants']} seeds to each expert"
    harm, apart = f"over {WORSE:.0%} farther than the input", f"between {result['diversity']['seeds']} seeds"
    return [first, "mean", "of no change", *experts, harm, apart, "least to most of a photo"], lines


def _control_table(result: dict[str, Any]) -> Table:
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
    return header, lines


def _crosstalk_table(result: dict[str, Any]) -> Table:
    lines = [
        [slider, *(_change_cell(row[name], result["crosstalk_absolute"][slider][name]) for name in ATTRIBUTES)]
        for slider, row in result["crosstalk"].items()
    ]
    return ["Slider -1 to +1: mean change (mean size), in std of the data", *ATTRIBUTES], lines


def _texture_table(result: dict[str, Any]) -> Table:
    texture = result["texture"]
    methods = [name for name in ("c = 0", "decoded") if name in texture]
    lines = [["photos, mean", *(f"{texture[method]['mean']:.4f}" for method in methods)]]
    lines.append(["photos, least", *(f"{texture[method]['least']:.4f}" for method in methods)])
    lines += [[f"text, {name}", *(f"{of[method]:.4f}" for method in methods)] for name, of in texture["text"].items()]
    return ["Fine detail, correlation with the input", *methods], lines


def _change_cell(change: float | None, size: float | None) -> str:
    return "-" if change is None else f"{change:+.2f} ({size:.2f})"


def _cost_text(result: dict[str, Any]) -> str:
    speed, missing = result["speed"], result["missing"]
    lines = [
        f"One grid: {speed['grid_seconds']:.2f} s; applying it: {speed['apply_seconds_per_megapixel']:.3f} s per "
        "megapixel, on this machine.",
        *(f"{name} was not measured: {reason}." for name, reason in missing.items()),
    ]
    return "\n\n".join(lines)
