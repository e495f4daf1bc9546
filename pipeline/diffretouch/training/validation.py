"""Watching a run: fixed photos measured as it trains, TensorBoard or wandb, and the report at its end.

    diffretouch report runs/my-style     # (re)build runs/my-style/report.html

A run's folder is all that the report reads (`config.yaml`, `log.jsonl`, `validation/`), so it can be built at any
time, also of a run that was interrupted or still goes on.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import yaml
from datasets import Dataset

from .. import report
from ..attributes import ATTRIBUTES, VIEW_SIZE, attribute_scores
from ..data.dataset import decode, good_rows
from ..evaluation.measure import evenly_spaced, predict_grids, variant_seeds
from ..evaluation.metrics import delta_e_2000, psnr
from ..files import write_atomically
from ..model.pipeline_diffretouch import DiffRetouchPipeline
from .config import TrainingConfig

logger = logging.getLogger(__name__)

# Pictures are measured and shown this small: a validation has to cost seconds, and a grid has no finer detail.
LONG_SIDE = 192
# Enough to watch a run by, at a quarter of the time of 20. A model whose own default is less gets that.
NUM_STEPS = 5
NUM_SEEDS = 4  # whose results are compared with each other
NUM_SHOWN = 8  # photos whose pictures are kept, of those that are measured
NUM_PROGRESS = 6  # steps at which the report shows how a photo came along

# ---- measuring ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Photo:
    """One fixed photo; `view` is what the model sees, pictures are sRGB float32 (h, w, 3) in [0, 1]."""

    name: str
    view: np.ndarray  # (VIEW_SIZE, VIEW_SIZE, 3) uint8
    picture: np.ndarray
    targets: dict[str, np.ndarray]
    conditions: dict[str, list[float]]
    seeds: list[int]


class Validator:
    """The photos of a validation split on which a run is measured, the same way at every step.

    Args:
        config: `seed`, `num_validation_photos`, `bad_rows` and `output_dir` are used; photos are spread evenly over
            the split.
        rows: the validation split in the data set schema, pictures undecoded (`read_split`); of a stream, the first
            photos are taken.

    Raises:
        ValueError: on a bad row, or if no row is good, as `good_rows` says.
    """

    def __init__(self, config: TrainingConfig, rows: Dataset | Iterable[dict[str, Any]]):
        self._output_dir = Path(config.output_dir)
        count = config.num_validation_photos
        if isinstance(rows, Dataset):
            names = rows["photo_id"]
            chosen = set(evenly_spaced(list(dict.fromkeys(names)), count))
            rows = rows.select([number for number, name in enumerate(names) if name in chosen])
        self._photos = [
            _read_photo(group, config.seed) for group in _first_photos(good_rows(rows, config.bad_rows), count)
        ]

    def run(self, pipe: DiffRetouchPipeline, step: int) -> dict[str, float]:
        """Measure the pipeline and write its pictures to `output_dir/validation/{step:06d}.jpg`.

        All noise has generators of its own and the models' training modes are put back, so that a run goes on as if
        it had not been watched.

        Returns:
            For `log.jsonl`, means over photos (and their experts, where they have several):

            - `delta_e_{input,c0,oracle}`, `psnr_{input,c0,oracle}`: the untouched photo, the retouch at c = 0 and at
              each expert's own c, held against the expert's picture (CIEDE2000; dB)
            - `control_{slider}`: how far the slider's own attribute moves from -1 to +1, in units of what the experts
              make of it (their widest distance from each other and the input); negative when the wrong way round;
              missing where experts and inputs all score alike
            - `diversity`: pairwise CIEDE2000 of `NUM_SEEDS` seeds at c = 0

        Raises:
            OSError: if the pictures cannot be written.
        """
        with _evaluating(pipe):
            retouched = [_retouch(pipe, photo) for photo in self._photos]
        pairs = list(zip(self._photos, retouched, strict=True))
        (self._output_dir / "validation").mkdir(parents=True, exist_ok=True)
        sheet = {photo.name: _as_bytes(_shown(photo, pictures)) for photo, pictures in pairs[:NUM_SHOWN]}
        report.save_sheet(_sheet_path(self._output_dir, step), sheet)
        return {name: round(value, 3) for name, value in {**_quality(pairs), **_control(pairs)}.items()}


def _first_photos(rows: Iterable[dict[str, Any]], count: int) -> Iterable[list[dict[str, Any]]]:
    """The rows of the first `count` photos, read until another photo comes: a stream has no end in sight."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["photo_id"] not in groups and len(groups) == count:
            break
        groups.setdefault(row["photo_id"], []).append(row)
    return groups.values()


def _read_photo(rows: list[dict[str, Any]], seed: int) -> _Photo:
    photo = decode(rows[0]["input"])
    scale = LONG_SIDE / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    name = rows[0]["photo_id"]
    return _Photo(
        name=name,
        view=np.asarray(photo.resize((VIEW_SIZE, VIEW_SIZE), PIL.Image.Resampling.BILINEAR)),
        picture=_small(photo, size),
        targets={row["expert"]: _small(decode(row["target"]), size) for row in rows},
        conditions={row["expert"]: list(row["condition"]) for row in rows},
        seeds=variant_seeds(seed, name)[:NUM_SEEDS],
    )


def _small(picture: PIL.Image.Image, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(picture.resize(size, PIL.Image.Resampling.LANCZOS), dtype=np.float32) / 255


@contextmanager
def _evaluating(pipe: DiffRetouchPipeline) -> Iterator[None]:
    models = (pipe.unet, pipe.grid_head)
    modes = [model.training for model in models]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


@dataclasses.dataclass(frozen=True)
class _Retouched:
    """What the model made of one photo, pictures as in `_Photo`."""

    seeds: list[np.ndarray]  # c = 0, one per seed; all others have the first seed
    oracles: list[np.ndarray]  # one per expert
    sliders: dict[str, tuple[np.ndarray, np.ndarray]]  # at -1 and at +1


def _retouch(pipe: DiffRetouchPipeline, photo: _Photo) -> _Retouched:
    ends = [[end if name == slider else 0.0 for name in ATTRIBUTES] for slider in ATTRIBUTES for end in (-1.0, 1.0)]
    conditions = [[0.0] * len(ATTRIBUTES)] * NUM_SEEDS + [*photo.conditions.values(), *ends]
    seeds = photo.seeds + [photo.seeds[0]] * (len(conditions) - NUM_SEEDS)
    steps = min(NUM_STEPS, pipe.config.default_num_inference_steps)
    grids = predict_grids(pipe, photo.view, conditions, seeds, num_inference_steps=steps)
    pictures = [grid.apply(photo.picture) for grid in grids]
    oracles, moved = pictures[NUM_SEEDS : -len(ends)], pictures[-len(ends) :]
    sliders = {name: (moved[2 * number], moved[2 * number + 1]) for number, name in enumerate(ATTRIBUTES)}
    return _Retouched(pictures[:NUM_SEEDS], oracles, sliders)


_Pairs = list[tuple[_Photo, _Retouched]]
_METHODS = {"input": "no change", "c0": "c = 0", "oracle": "oracle c"}  # by their names in the log


def _quality(pairs: _Pairs) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, metric in (("delta_e", delta_e_2000), ("psnr", psnr)):
        means = np.mean([_over_experts(metric, *pair) for pair in pairs], axis=0)
        figures |= {f"{name}_{method}": float(mean) for method, mean in zip(_METHODS, means, strict=True)}
    distances = [[delta_e_2000(a, b) for a, b in combinations(made.seeds, 2)] for _, made in pairs]
    return {**figures, "diversity": float(np.mean(distances))}


def _over_experts(metric: Callable[[np.ndarray, np.ndarray], float], photo: _Photo, made: _Retouched) -> list[float]:
    """Mean over the experts of a photo for each of `_METHODS`."""
    targets = list(photo.targets.values())
    methods = ([photo.picture] * len(targets), made.seeds[:1] * len(targets), made.oracles)
    return [
        float(np.mean([metric(picture, target) for picture, target in zip(pictures, targets, strict=True)]))
        for pictures in methods
    ]


def _control(pairs: _Pairs) -> dict[str, float]:
    units = np.mean([np.ptp(_scores([photo.picture, *photo.targets.values()]), axis=0) for photo, _ in pairs], axis=0)
    figures = {}
    for number, slider in enumerate(ATTRIBUTES):
        gains = [np.diff(_scores(made.sliders[slider])[:, number]) for _, made in pairs]
        if units[number] > 0:
            figures[f"control_{slider}"] = float(np.mean(gains) / units[number])
    return figures


def _scores(pictures: Iterable[np.ndarray]) -> np.ndarray:
    """Attribute scores (N, 4) of pictures as they are: all of one photo are of one size."""
    return attribute_scores(torch.from_numpy(np.stack(list(pictures))).permute(0, 3, 1, 2)).numpy()


def _shown(photo: _Photo, made: _Retouched) -> dict[str, np.ndarray]:
    experts = zip(photo.targets.items(), made.oracles, strict=True)
    return {
        "input": photo.picture,
        "c = 0": made.seeds[0],
        **{name: p for (e, t), o in experts for name, p in ((f"target {e}", t), (f"oracle {e}", o))},
        **{f"seed {number}": picture for number, picture in enumerate(made.seeds[1:], 2)},
        **{
            f"{name} {end}": p
            for name, ends in made.sliders.items()
            for end, p in zip(("-1", "+1"), ends, strict=True)
        },
    }


def _as_bytes(pictures: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.round(picture * 255).astype(np.uint8) for name, picture in pictures.items()}


# ---- TensorBoard and wandb ------------------------------------------------------------------------------------------


class Tracker:
    """Curves and pictures of a run for TensorBoard (`output_dir/tensorboard`) or wandb, as `config.report_to` says.

    Args:
        config: `report_to` ("tensorboard" | "wandb" | "none") and `output_dir` are used; wandb shows all of it.
        step: optimiser steps done when the run starts or goes on; what TensorBoard was told of later steps is dropped.

    Raises:
        ValueError: if the package that `report_to` names is not installed.
    """

    def __init__(self, config: TrainingConfig, step: int):
        self._output_dir = Path(config.output_dir)
        try:
            self._writer = _WRITERS[config.report_to](config, step)
        except ImportError as error:
            raise ValueError(
                f"`report_to` has to name an installed package or be none, got {config.report_to}: {error}."
            ) from error

    def scalars(self, step: int, values: Mapping[str, float], group: str = "train") -> None:
        """Add a point to each curve `group/name`."""
        self._writer.scalars(step, {f"{group}/{name}": value for name, value in values.items() if name != "step"})

    def pictures(self, step: int) -> None:
        """Add the pictures that `Validator.run` kept at `step`."""
        sheet = report.load_sheet(_sheet_path(self._output_dir, step))
        columns = {
            "experts": ("input", "c = 0", "target ", "oracle "),
            "seeds": ("input", "c = 0", "seed "),
            "sliders": ("c = 0", *ATTRIBUTES),
        }
        for group, starts in columns.items():
            chosen = {
                photo: {name: picture for name, picture in pictures.items() if name.startswith(starts)}
                for photo, pictures in sheet.items()
            }
            caption = ", ".join(next(iter(chosen.values())))
            self._writer.picture(step, f"validation/{group}", report.contact_sheet(chosen), caption)

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()


class _Writer:
    """Where curves and pictures go: nowhere."""

    def __init__(self, config: TrainingConfig, step: int): ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None: ...

    def close(self) -> None: ...


class _TensorBoard(_Writer):
    def __init__(self, config: TrainingConfig, step: int):
        from torch.utils.tensorboard import SummaryWriter  # optional, and slow to import

        folder = Path(config.output_dir) / "tensorboard"
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None:
        self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.add_text(f"{name}/columns", caption, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb(_Writer):
    def __init__(self, config: TrainingConfig, step: int):
        import wandb

        folder = Path(config.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = folder / "wandb-run.txt"  # a run that goes on stays one run
        if not (step and name.is_file()):
            write_atomically(name, secrets.token_hex(4).encode())
        self._wandb = wandb
        self._run = wandb.init(
            project="diffretouch",
            name=folder.resolve().name,
            id=name.read_text(),
            resume="allow",
            dir=str(folder),
            config=dataclasses.asdict(config),
        )
        # Its own counter never goes back; a run that resumes from a checkpoint does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, name: str, picture: np.ndarray, caption: str) -> None:
        self._run.log({"step": step, name: self._wandb.Image(picture, caption=caption)})

    def close(self) -> None:
        self._run.finish()


_WRITERS: dict[str, type[_Writer]] = {"tensorboard": _TensorBoard, "wandb": _Wandb, "none": _Writer}


def _sheet_path(output_dir: Path, step: int) -> Path:
    return output_dir / "validation" / f"{step:06d}.jpg"


# ---- the report -----------------------------------------------------------------------------------------------------


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
        _curves(training, validation),
        *_pictures(folder, [record["step"] for record in validation]),
        _history(config.get("metric_for_best_model", "delta_e_c0"), validation),
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
    kept = [step for step in steps if _sheet_path(folder, step).is_file()]
    sheets: dict[int, report.Sheet] = {}
    for step in dict.fromkeys([*evenly_spaced(kept, NUM_PROGRESS - 1), *kept[-1:]]):
        try:
            sheets[step] = report.load_sheet(_sheet_path(folder, step))
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
