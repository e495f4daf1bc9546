"""`report.html` of a training run, finished or not: curves, pictures, settings."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .. import report
from ..attributes import ATTRIBUTES
from ..evaluation.measure import evenly_spaced
from ..hub.folders import read_tracking
from .config import TrainingConfig
from .tracking import logger, sheet_path
from .validation import _METHODS, NUM_SEEDS

NUM_PROGRESS = 6  # steps at which the report shows how a photo came along


def write_training_report(output_dir: str | Path) -> Path:
    """Write `output_dir/report.html` from what the run left there: one file, readable from disk.

    A half-written last line of the log is passed over, as are pictures that cannot be read; what is missing is named.

    Raises:
        FileNotFoundError: if `output_dir` has no `config.yaml` or no `log.jsonl`.
        ValueError: if one of them is not what a run writes.
        OSError: if the report cannot be written.
    """
    folder = Path(output_dir)
    config, records = _read_config(folder / "config.yaml"), _read_log(folder / "log.jsonl")
    training = [record for record in records if "loss" in record]
    validation = [record for record in records if "delta_e_c0" in record]
    step = records[-1]["step"] if records else 0
    parts = [
        _summary(config, training, validation, step),
        *_left_out(records),
        _curves(training, validation),
        *_pictures(folder, [record["step"] for record in validation]),
        _history(config.get("metric_for_best_model", "delta_e_c0"), validation),
        *_tracking(folder),
        _configuration(config),
    ]
    path = folder / "report.html"
    name = folder.resolve().name
    report.write_report(path, f"Training report: {name}", _story(config, step), parts)
    return path


def _read_config(path: Path) -> dict[str, Any]:
    # As recorded: `load_config` would fill what is missing with today's defaults.
    config = yaml.safe_load(_text_of(path))
    if not isinstance(config, dict) or "max_train_steps" not in config:
        raise ValueError(f"`output_dir` has to hold the config.yaml of a run, got another {path}.")
    return config


def _read_log(path: Path) -> list[dict[str, Any]]:
    whole = [line for line in _text_of(path).splitlines(keepends=True) if line.endswith("\n")]  # a kill leaves half
    try:
        records = [json.loads(line) for line in whole]
        return sorted(records, key=lambda record: record["step"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"`output_dir` has to hold the log.jsonl of a run, got another {path}.") from error


def _text_of(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(
            f"`output_dir` has to be the folder of a training run, got {path.parent} without {path.name}."
        )
    return path.read_text(encoding="utf-8")


def _story(config: Mapping[str, Any], step: int) -> str:
    start = f"from {_portable(config['pretrained_model'])}" if config.get("pretrained_model") else "from scratch"
    what = f"a LoRA of rank {config['lora_rank']}" if config.get("lora_rank") else "every weight"
    planned = config["max_train_steps"]
    state = "complete" if step >= planned else f"stopped or still running at step {step:,} of {planned:,}"
    return f"Trained {what} {start} on {_portable(config.get('dataset'))}; {state}."


def _portable(value: Any) -> Any:
    """A path's end, which names it, without the rest, which is of the machine: a report is there to be passed on."""
    return "/".join(Path(value).parts[-2:]) if isinstance(value, str) and Path(value).is_absolute() else value


def _summary(
    config: Mapping[str, Any], training: list[dict[str, Any]], validation: list[dict[str, Any]], step: int
) -> str:
    figures = [("Steps", f"{step:,}", f"of {config['max_train_steps']:,}")]
    if training:
        figures.append(("Time", _duration(_seconds(training)), "training, without start"))
    if validation:
        last = validation[-1]
        best = min(validation, key=lambda record: record["delta_e_c0"])
        remark = f"no change: {last['delta_e_input']:.2f}; best {best['delta_e_c0']:.2f} at step {best['step']:,}"
        figures.append(("Delta E 2000 at c = 0", f"{last['delta_e_c0']:.2f}", remark))
        remark = "told what the expert's picture measures"
        figures.append(("Delta E 2000, oracle c", f"{last['delta_e_oracle']:.2f}", remark))
        if "diversity" in last:
            figures.append(("Diversity", f"{last['diversity']:.2f}", f"Delta E between {NUM_SEEDS} seeds"))
    return report.key_figures(figures)


def _left_out(records: list[dict[str, Any]]) -> list[str]:
    names = [name for record in records for name in record.get("left_out", [])]
    if not names:
        return []
    note = "Edited unlike most of the pairs, by what a fit to the others makes of them: not trained on."
    return [report.section("Left out, as of another style", report.paragraph(", ".join(names)), note=note)]


def _seconds(training: list[dict[str, Any]]) -> float:
    """Of all starts together: the clock of each begins at zero."""
    times = [record.get("seconds", 0.0) for record in training]
    return sum(before for before, after in zip(times, [*times[1:], -1.0], strict=True) if after < before)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _curves(training: list[dict[str, Any]], validation: list[dict[str, Any]]) -> str:
    window = 1 + len(training) // 20
    losses = {name: _moving_mean(_line(training, name), window) for name in ("loss", "noise", "pixel", "contrastive")}
    charts = [
        report.line_chart("Training loss", {"loss": losses.pop("loss"), "noise": losses["noise"]}, "step", "loss"),
        report.line_chart("Pixel loss", {"pixel": losses["pixel"]}, "step", "mean squared error", from_zero=True),
        report.line_chart("Contrastive loss", {"contrastive": losses["contrastive"]}, "step", "loss"),
        *(
            report.line_chart(
                f"Validation: {title}",
                {name: _line(validation, f"{metric}_{key}") for key, name in _METHODS.items()},
                "step",
                unit,
            )
            for metric, title, unit in (("delta_e", "Delta E 2000 to the experts", "Delta E"), ("psnr", "PSNR", "dB"))
        ),
        report.line_chart(
            "Validation: control",
            {slider: _line(validation, f"control_{slider}") for slider in ATTRIBUTES},
            "step",
            "-1 to +1 / experts' range",
            from_zero=True,
        ),
        report.line_chart(
            "Validation: diversity",
            {f"between {NUM_SEEDS} seeds": _line(validation, "diversity")},
            "step",
            "Delta E",
            from_zero=True,
        ),
    ]
    note = (
        "Delta E 2000: lower is better, 1 is just noticeable. PSNR: higher is better. Control: how far a slider moves "
        "its own attribute, 1 = as far as the experts differ, below 0 = the wrong way."
    )
    if window > 1:
        note += f" Losses are moving means over {window} records."
    return report.section("Curves", report.charts(charts), note=note)


def _line(records: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(record["step"], record[name]) for record in records if math.isfinite(record.get(name, math.nan))]


def _moving_mean(line: list[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    return [
        (line[end][0], float(np.mean([y for _, y in line[max(0, end + 1 - window) : end + 1]])))
        for end in range(len(line))
    ]


def _pictures(folder: Path, steps: list[int]) -> list[str]:
    kept = [step for step in steps if sheet_path(folder, step).is_file()]
    sheets: dict[int, report.Sheet] = {}
    for step in dict.fromkeys([*evenly_spaced(kept, NUM_PROGRESS - 1), *kept[-1:]]):
        try:
            sheets[step] = report.load_sheet(sheet_path(folder, step))
        except (OSError, ValueError) as error:
            logger.warning("No pictures of step %d: %s", step, error)
    if not sheets:
        return [report.section("Pictures", report.paragraph("The run's folder holds no validation pictures."))]
    last = max(sheets)
    return [
        report.before_and_after(f"Before, after and target, step {last:,}", sheets[last]),
        report.sliders(sheets[last]),
        report.seeds(sheets[last]),
        _progress(sheets),
    ]


def _progress(sheets: Mapping[int, report.Sheet]) -> str:
    parts = []
    for photo in list(sheets[max(sheets)])[:2]:
        shown = {step: sheet[photo] for step, sheet in sheets.items() if photo in sheet}
        parts.append(
            report.strip(report.photo_figure(photo, shown[step], "c = 0", f"step {step:,}") for step in shown)
        )
    return report.section("Over the training", *parts, note="The retouch at c = 0 as the training went on.")


def _history(metric: str, validation: list[dict[str, Any]]) -> str:
    if not validation:
        return report.section("Validation", report.paragraph("The run stopped before its first validation."))
    names = [name for name in validation[-1] if name != "step"]
    best = min(range(len(validation)), key=lambda number: validation[number][metric])
    rows = [
        [f"{record['step']:,}", *(f"{record[name]:.2f}" if name in record else "-" for name in names)]
        for record in validation
    ]
    titles = {"delta_e_": "Delta E, ", "psnr_": "PSNR, ", "control_": "control, ", "c0": "c = 0"}
    header = ["step", *(functools.reduce(lambda text, part: text.replace(*part), titles.items(), n) for n in names)]
    caption = f"Bold: the best at {_METHODS[metric.removeprefix('delta_e_')]}."
    return report.section("Validation", report.table(caption, header, rows, strong=[best]))


def _tracking(folder: Path) -> list[str]:
    tracked = read_tracking(folder)
    if not tracked:
        return []
    text = f"Tracked with {tracked['tracker']} as {tracked['run']}"
    if tracked["url"]:
        return [report.section("Tracker", report.link(f"{text}: ", tracked["url"]))]
    return [report.section("Tracker", report.paragraph(f"{text}, on the machine it ran on alone."))]


def _configuration(config: Mapping[str, Any]) -> str:
    defaults = _flat(dataclasses.asdict(TrainingConfig()))
    values = _flat(config)
    changed = [number for number, (name, value) in enumerate(values.items()) if defaults.get(name) != value]
    rows = [[name, json.dumps(_portable(value))] for name, value in values.items()]
    return report.section(
        "Configuration", report.table("Bold: other than the default.", ["setting", "value"], rows, strong=changed)
    )


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat
