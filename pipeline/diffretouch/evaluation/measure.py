"""Quality, control and diversity of a retouching model on one split of a data set, beside simple baselines.

    result = evaluate(pipe, rows, seed=0)       # rows of one split, as in the data set schema
    print(format_table(result))
    save_json(result, "results.json")

Per photo one record of plain measurements is made (`result["photos"]`); everything else in the result is a summary of
these records, so further summaries need no second run. Three settings are told apart everywhere:

- `c = 0`: one retouch with every slider at 0, compared with every expert of the photo;
- `oracle c`: one retouch per expert, conditioned on what that expert's own picture measured. It is told the answer's
  attributes, so it must never be reported as `c = 0`;
- baselines and models beside it (at c = 0, with the same seeds), which know neither.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import spearmanr

from ..attributes import ATTRIBUTES, attribute_scores, attribute_view
from ..files import write_atomically
from ..model.modeling_affine_grid import AffineGrid
from ..report import Sheet, save_sheet
from .baselines import BASELINES, NOTES, Baseline, find_learned
from .metrics import METRICS, SSIM_WINDOW, Compare, Judge, delta_e_2000, find_optional, texture_agreement

COLUMNS = ("photo_id", "expert", "input", "target", "condition")

# Slider positions of the control curves; 0 is shared by all four sliders.
POSITIONS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0)
# A curve may step back by this share of its own range and still count as monotone: less than anyone sees, more than
# the wobble of clipping and rounding.
MONOTONE_TOLERANCE = 0.02
# A slider that moves a photo by less than this share of what its experts changed or disagreed on does nothing anyone
# sees. Without the bound, an untrained model whose sliders move the seventh digit would rank as perfectly controlled.
DEAD_SLIDER = 0.01

DEFAULT_SEED = 0  # what is not a variant is retouched as users get it who ask for no style: with this seed
NUM_VARIANTS = 8  # seeds of the coverage measure
NUM_DIVERSITY_SEEDS = 4  # the first of these variants, compared with each other

WORSE = 0.05  # a variant that is farther from its nearest expert than the input by more than this share is a failure

BOOTSTRAP_SAMPLES = 2000
SPEED_REPEATS = 3
SPEED_SIDE = 600  # pixels of the picture that a grid is applied to for the time of it

NUM_SHOWN = 12  # photos whose pictures are kept for the report, evenly spaced over those that are measured
SHOWN_SIDE = 384  # pixels of their long side
TEXT = "text.jpg"  # the sheet of the text pictures

_RECORD_VERSION = 3  # of what a photo's record holds and how it is measured; older records are measured again


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


def _decoded_rows(rows: Any, numbers: Sequence[int], photo_id: str) -> list[Mapping[str, Any]]:
    try:
        return [rows[number] for number in numbers]
    except (OSError, SyntaxError) as error:  # a data set decodes its pictures here, Pillow raises either
        raise ValueError(f"The pictures of photo {photo_id!r} have to be readable, got: {error}.") from error


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
        if not isinstance(expert, str) or not expert:
            raise ValueError(
                f"`expert` of photo {photo_id!r} has to be a name, for a single expert any will do, got {expert!r}."
            )
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


@dataclass(frozen=True)
class _Instruments:
    """All that a photo is measured with.

    Args:
        decode: the ablation: (picture, seed) -> the VAE's own picture.
        beside: other models.
    """

    retouch: _Retouch
    decode: Callable[[np.ndarray, int], np.ndarray] | None
    beside: Mapping[str, _Retouch]
    baselines: Mapping[str, Baseline]
    compare: Mapping[str, Compare]
    judge: Mapping[str, Judge]
    seed: int


def _measure_photo(tools: _Instruments, photo: _Photo) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All measurements of one photo as plain numbers, and the pictures worth showing.

    Draws the variants' noise from the seed and the photo's name alone.
    """
    seeds = [DEFAULT_SEED, *variant_seeds(tools.seed, photo.photo_id)]
    neutral = [[0.0] * len(ATTRIBUTES)] * len(seeds)
    at_zero, *variants = tools.retouch(photo.picture, neutral, seeds)
    beside = {name: list(retouch(photo.picture, neutral, seeds)) for name, retouch in tools.beside.items()}
    oracle = tools.retouch(photo.picture, list(photo.conditions.values()), [DEFAULT_SEED] * len(photo.conditions))
    oracles = dict(zip(photo.targets, oracle, strict=True))
    made = {name: baseline(photo.picture) for name, baseline in tools.baselines.items()}
    made |= {name: first for name, (first, *_) in beside.items()} | {"c = 0": at_zero}
    quality = {
        method: {expert: _compare(tools, picture, target) for expert, target in photo.targets.items()}
        for method, picture in made.items()
    }
    quality["oracle c"] = {
        expert: _compare(tools, oracles[expert], target) for expert, target in photo.targets.items()
    }
    natural = {
        method: {name: _judge(judge, picture) for name, judge in tools.judge.items()}
        for method, picture in made.items()
    }
    height, width = photo.picture.shape[:2]
    control, ends = _control_scores(tools.retouch, photo.picture, at_zero)
    redrawn = {"c = 0": at_zero}
    if tools.decode is not None:
        redrawn["decoded"] = tools.decode(photo.picture, DEFAULT_SEED)
    record = {
        "photo_id": photo.photo_id,
        "width": width,
        "height": height,
        "quality": quality,
        "natural": natural,
        **_variety(variants, photo.targets),
        "beside": {name: _variety(pictures, photo.targets) for name, (_, *pictures) in beside.items()},
        "control": control,
        "texture": {name: texture_agreement(picture, photo.picture) for name, picture in redrawn.items()},
        "input_scores": view_scores([photo.picture])[0],
        "expert_scores": dict(zip(photo.targets, view_scores(photo.targets.values()), strict=True)),
    }
    pictures = {
        **made,
        "input": photo.picture,
        **{f"target {expert}": target for expert, target in photo.targets.items()},
        **{f"oracle {expert}": picture for expert, picture in oracles.items()},
        **{f"seed {number}": picture for number, picture in enumerate(variants[:NUM_DIVERSITY_SEEDS], 1)},
        **ends,
        **redrawn,
    }
    return record, pictures


def _variety(variants: list[np.ndarray], targets: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """How far a model's variants of a photo are from each other, and each of them from every expert."""
    pairs = [(a, b) for b in range(NUM_DIVERSITY_SEEDS) for a in range(b)]
    return {
        "diversity": float(np.mean([delta_e_2000(variants[a], variants[b]) for a, b in pairs])),
        "variants": {
            expert: [delta_e_2000(variant, target) for variant in variants] for expert, target in targets.items()
        },
    }


def _compare(tools: _Instruments, picture: np.ndarray, target: np.ndarray) -> dict[str, float]:
    return {name: metric(picture, target) for name, metric in tools.compare.items()}


def _control_scores(
    retouch: _Retouch, picture: np.ndarray, at_zero: np.ndarray
) -> tuple[dict[str, list], dict[str, np.ndarray]]:
    """{slider: (positions, attributes) scores} of one photo, one slider moved at a time, the noise held fixed; and the
    pictures at both ends of each slider."""
    moved = [position for position in POSITIONS if position != 0]
    conditions = [
        [position if name == slider else 0.0 for name in ATTRIBUTES] for slider in ATTRIBUTES for position in moved
    ]
    ends: dict[str, np.ndarray] = {}

    def remembered() -> Iterator[np.ndarray]:
        made = retouch(picture, conditions, [DEFAULT_SEED] * len(conditions))
        for number, one in enumerate(made):
            slider, position = ATTRIBUTES[number // len(moved)], moved[number % len(moved)]
            if abs(position) == 1:
                ends[f"{slider} {position:+.0f}"] = one
            yield one

    scores = view_scores(remembered())
    zero = view_scores([at_zero])
    below = sum(position < 0 for position in POSITIONS)
    curves = {}
    for number, slider in enumerate(ATTRIBUTES):
        own = scores[number * len(moved) : (number + 1) * len(moved)]
        curves[slider] = own[:below] + zero + own[below:]
    return curves, ends


def view_scores(pictures: Iterable[np.ndarray]) -> list[list[float]]:
    """Attribute scores (N, 4) of pictures (H, W, 3) on their 512 x 512 views, one at a time to bound memory."""
    views = (attribute_view(torch.from_numpy(picture).permute(2, 0, 1)[None]) for picture in pictures)
    return [attribute_scores(view)[0].tolist() for view in views]


def variant_seeds(seed: int, photo_id: str) -> list[int]:
    """`NUM_VARIANTS` seeds, others for every photo, the same whichever photos are measured beside it."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(photo_id.encode())])
    return [int(number) for number in sequence.generate_state(NUM_VARIANTS)]


def predict_grids(
    pipe: Any,
    photo: np.ndarray,
    conditions: list[list[float]],
    seeds: list[int],
    *,
    num_inference_steps: int | None,
    batch_size: int = 16,
) -> Iterator[AffineGrid]:
    """One grid per condition and seed for a photo (H, W, 3) uint8, `batch_size` of them in a call."""
    for start in range(0, len(conditions), batch_size):
        batch = conditions[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch_size]]
        sliders = {name: [condition[number] for condition in batch] for number, name in enumerate(ATTRIBUTES)}
        output = pipe(
            [photo] * len(batch),
            **sliders,
            num_inference_steps=num_inference_steps,
            generator=generators,
            output_type="grid",
        )
        yield from output.grids


def _make_retouch(pipe: Any, num_inference_steps: int | None, batch_size: int) -> _Retouch:
    """The pipeline as a function that yields its pictures one by one, unrounded."""

    def retouch(picture: np.ndarray, conditions: list[list[float]], seeds: list[int]) -> Iterator[np.ndarray]:
        photo = np.round(picture * 255).astype(np.uint8)
        grids = predict_grids(
            pipe, photo, conditions, seeds, num_inference_steps=num_inference_steps, batch_size=batch_size
        )
        yield from (grid.apply(picture) for grid in grids)

    return retouch


def _make_decode(pipe: Any, num_inference_steps: int | None) -> Callable[[np.ndarray, int], np.ndarray] | None:
    """The paper's ablation, z_0 decoded instead of a grid applied; None for a pipeline without a VAE."""
    if getattr(pipe, "vae", None) is None:
        return None

    def decode(picture: np.ndarray, seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        photo = np.round(picture * 255).astype(np.uint8)
        made = pipe(
            photo, num_inference_steps=num_inference_steps, generator=generator, output_type="np", base="decoded"
        )
        return made.images[0]

    return decode


def text_pictures() -> dict[str, np.ndarray]:
    """Pictures of writing, (H, W, 3) float32 in [0, 1], the same everywhere: the hardest texture to keep."""
    styles = {
        "ink on paper": ((250, 248, 240), (25, 25, 30)),
        "light on dark": ((20, 24, 40), (235, 235, 220)),
        "faint on colour": ((120, 150, 170), (165, 175, 150)),
    }
    words = "Expert-quality retouching keeps\nevery letter: {}()[] 0123456789\nThe quick brown fox jumps over\n"
    drawn = {}
    for name, (ground, ink) in styles.items():
        canvas = Image.new("RGB", (384, 256), ground)
        pen = ImageDraw.Draw(canvas)
        for size, top in ((22, 8), (15, 110), (10, 185)):
            pen.multiline_text((10, top), words, fill=ink, font=ImageFont.load_default(size))
        drawn[name] = np.asarray(canvas, dtype=np.float32) / 255
    return drawn


def _measure_text(tools: _Instruments) -> tuple[dict[str, dict[str, float]], Sheet]:
    """{text picture: {method: texture agreement}} at c = 0, and the pictures."""
    measured, pictures = {}, {}
    for name, picture in text_pictures().items():
        made = {"c = 0": next(tools.retouch(picture, [[0.0] * len(ATTRIBUTES)], [DEFAULT_SEED]))}
        if tools.decode is not None:
            made["decoded"] = tools.decode(picture, DEFAULT_SEED)
        measured[name] = {method: texture_agreement(one, picture) for method, one in made.items()}
        pictures[name] = {"input": _small(picture), **{method: _small(one) for method, one in made.items()}}
    return measured, pictures


def _measure_speed(pipe: Any, photo: _Photo, num_inference_steps: int | None) -> dict[str, float]:
    """Median seconds of one grid and of applying it, per megapixel, on this machine as busy as it is."""
    view = np.round(photo.picture * 255).astype(np.uint8)
    repeats = (math.ceil(SPEED_SIDE / view.shape[0]), math.ceil(SPEED_SIDE / view.shape[1]), 1)
    large = np.tile(view, repeats)[:SPEED_SIDE, :SPEED_SIDE]
    grid_seconds, apply_seconds = [], []
    for _ in range(SPEED_REPEATS):
        started = time.perf_counter()
        (grid,) = predict_grids(
            pipe, view, [[0.0] * len(ATTRIBUTES)], [DEFAULT_SEED], num_inference_steps=num_inference_steps
        )
        between = time.perf_counter()
        grid.apply(large)
        grid_seconds.append(between - started)
        apply_seconds.append(time.perf_counter() - between)
    return {
        "grid_seconds": float(np.median(grid_seconds)),
        "apply_seconds_per_megapixel": float(np.median(apply_seconds)) / (SPEED_SIDE**2 / 1e6),
    }


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
    baselines: Mapping[str, Baseline] | None = None,
    beside: Mapping[str, Any] | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Measure a pipeline and the baselines on the rows of one split.

    Pictures are compared at their stored size, unrounded; attribute scores are taken on the 512 x 512 view. Means run
    over the experts of a photo first, then over photos; intervals are 95% percentile bootstraps over photos.

    Args:
        pipe: a `DiffRetouchPipeline`, used on the device it is on.
        rows: list of dicts or `datasets.Dataset` with the columns of `COLUMNS`: `input` and `target` PIL images of
            equal size, `condition` four numbers in the order of `ATTRIBUTES`. A photo's rows have different experts.
        seed: non-negative; with it and the photo's name the variants are fixed. All else has `DEFAULT_SEED`.
        num_inference_steps: None for the checkpoint's default.
        num_photos: at most so many photos, evenly spaced over the split; None for all.
        batch_size: retouches per pipeline call.
        progress: called as `progress(done, total)` after every photo.
        baselines: retouches to measure beside `BASELINES` and `find_learned`, by their names.
        beside: other pipelines to measure at c = 0 with the same seeds, by their names, each on its device and with
            its checkpoint's default number of steps. A name may be none that this module gives to anything else.
        folder: where records and pictures are kept; an evaluation that was interrupted goes on from them. A record is
            used again where model, settings and photo are the same, whatever else changed. None keeps nothing.

    Returns:
        Plain numbers, lists, dicts and strings, ready for JSON:

        - `settings`
        - `quality[method]`: overall `psnr` (dB), `ssim`, `delta_e`, `delta_e_ratio` (to no change) and
          `delta_e_ratio_interval` (None for one photo); the same means per expert under `experts`
        - `control[slider]`: `spearman`; `right_way` and `monotone`, shares of photos (in all three, a slider
          too weak to see by `DEAD_SLIDER` counts as one without effect); `curve`, own attribute per
          position; `range`, own attribute from -1 to +1; `expert_range`, between a photo's experts; `range_ratio`
          (None where every photo has one expert)
        - `spread[attribute]`: its standard deviation over the split's inputs and targets, None where all score alike
        - `crosstalk[slider][attribute]`: mean signed change from -1 to +1 in units of `spread`;
          `crosstalk_absolute`: mean size of that change (both None where there is no unit)
        - `diversity`: mean pairwise `delta_e` of `seeds` seeds at c = 0, its `interval`, the `least` and `most` of a
          photo
        - `coverage`: `delta_e` of the nearest of `variants` variants at c = 0, `ratio` to no change, `ratio_interval`;
          the mean of every expert under `experts`; `worse`: share of the variants that are more than `WORSE` farther
          from their nearest expert than the input is
        - `coverage_beside[name]`: the same for every model of `beside`, with its own `diversity`
        - `texture`: `texture_agreement` with the input at `c = 0` and, with a VAE, `decoded` (z_0 decoded instead of a
          grid applied): mean and `least` over the photos, and for each of `text_pictures`
        - `natural[method]`: mean of each metric without a reference that is at hand
        - `speed`: `grid_seconds`, `apply_seconds_per_megapixel` on this machine
        - `missing`: {metric or baseline: why it was not measured}
        - `pictures`: files in `folder`/pictures with what the report shows, a photo each
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
    chosen = evenly_spaced(list(numbers), num_photos)
    compare, judge, missing = find_optional()
    learned, missing_baselines = find_learned()
    beside = dict(beside or {})
    tools = _Instruments(
        retouch=_make_retouch(pipe, num_inference_steps, batch_size),
        decode=_make_decode(pipe, num_inference_steps),
        beside={name: _make_retouch(other, None, batch_size) for name, other in beside.items()},
        baselines={**BASELINES, **learned, **(baselines or {})},
        compare={**METRICS, **compare},
        judge=judge,
        seed=seed,
    )
    _check_names(beside, tools.baselines)
    kept = None if folder is None else _Kept(folder, _fingerprint(pipe, beside, tools, num_inference_steps))
    shown = set(evenly_spaced(chosen, NUM_SHOWN))
    records, sheets = [], []
    for photo_id in chosen:
        photo = _read_photo(photo_id, _decoded_rows(rows, numbers[photo_id], photo_id))
        record = kept.find(photo, photo_id in shown) if kept is not None else None
        if record is None:
            record, pictures = _measure_photo(tools, photo)
            _require_finite(record, f"photo {photo_id!r}")
            if kept is not None:
                kept.add(photo, record, pictures if photo_id in shown else {})
        records.append(record)
        if kept is not None and photo_id in shown:
            sheets.append(kept.sheet_name(photo))
        if progress is not None:
            progress(len(records), len(chosen))
    settings = {
        "seed": seed,
        "num_inference_steps": num_inference_steps,
        "num_photos": len(chosen),
        "num_photos_in_split": len(numbers),
        "experts": sorted({expert for record in records for expert in record["expert_scores"]}),
        "beside": list(beside),
        "positions": list(POSITIONS),
        "monotone_tolerance": MONOTONE_TOLERANCE,
        "dead_slider": DEAD_SLIDER,
    }
    result = {
        "settings": settings,
        **_summarise(records, seed),
        "speed": _measure_speed(pipe, photo, num_inference_steps),
        "missing": missing | missing_baselines,
        "pictures": sheets,
        "photos": records,
    }
    result["texture"]["text"], writing = _measure_text(tools)
    if folder is not None:
        save_sheet(folder / "pictures" / TEXT, writing)
    _require_finite(result, "result")
    return result


class _Kept:
    """Records and pictures of an evaluation in a folder: what an interrupted one has done already.

    Args:
        folder: made if missing; gets `records.jsonl` and `pictures/`.
        fingerprint: of all that a record depends on beside its photo.
    """

    def __init__(self, folder: Path, fingerprint: str):
        self._folder, self._fingerprint = folder, fingerprint
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._log = folder / "records.jsonl"
        text = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # a kill may have left half a line
        if whole != text:
            write_atomically(self._log, whole.encode())
        self._known = {entry["key"]: entry["record"] for entry in map(json.loads, whole.splitlines())}

    def find(self, photo: _Photo, shown: bool) -> dict[str, Any] | None:
        """The record of a photo; None if there is none, or its pictures are to be shown and were not kept."""
        if shown and not (self._folder / "pictures" / self.sheet_name(photo)).is_file():
            return None
        return self._known.get(self._key(photo))

    def sheet_name(self, photo: _Photo) -> str:
        """The file of a photo's pictures: another one for each model, as for the record."""
        return f"{self._key(photo)[:16]}.jpg"

    def add(self, photo: _Photo, record: dict[str, Any], pictures: dict[str, np.ndarray]) -> None:
        """Keep a record, and the pictures if there are any: these first, so that no record is without them."""
        if pictures:
            sheet = {photo.photo_id: {name: _small(picture) for name, picture in pictures.items()}}
            save_sheet(self._folder / "pictures" / self.sheet_name(photo), sheet)
        with open(self._log, "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": self._key(photo), "record": record}) + "\n")

    def _key(self, photo: _Photo) -> str:
        digest = hashlib.sha256(f"{self._fingerprint}/{photo.photo_id}/{photo.conditions}".encode())
        for picture in (photo.picture, *photo.targets.values()):
            digest.update(picture.tobytes())
        return digest.hexdigest()


def _fingerprint(pipe: Any, beside: Mapping[str, Any], tools: _Instruments, num_inference_steps: int | None) -> str:
    """Changes with the models' weights and configurations, the settings, and what is measured."""
    settings = {"version": _RECORD_VERSION, "seed": tools.seed, "steps": num_inference_steps}
    digest = hashlib.sha256(f"{settings} {[*tools.compare, *tools.judge]}".encode())
    # A baseline may be fitted to data, so that its name does not tell it from another one.
    probe = np.random.default_rng(0).random((32, 32, 3), np.float32)
    for name, baseline in tools.baselines.items():
        digest.update(name.encode() + np.round(baseline(probe) * 255).astype(np.uint8).tobytes())
    for name, model in {"": pipe, **beside}.items():
        digest.update(name.encode())
        _add_model(digest, model)
    return digest.hexdigest()


def _add_model(digest: Any, pipe: Any) -> None:
    # Names that begin with _ say where a model lies and who saved it.
    configs = [{k: v for k, v in part.config.items() if k[0] != "_"} for part in (pipe, pipe.scheduler)]
    digest.update(f"{type(pipe.scheduler).__name__} {configs}".encode())
    for model in (pipe.unet, pipe.grid_head, pipe.vae):
        for value in model.state_dict().values() if model is not None else ():
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())


def _small(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(np.round(picture * 255).astype(np.uint8))
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` has to be an integer of at least {least}, got {value!r}.")


def _check_names(beside: Iterable[str], baselines: Iterable[str]) -> None:
    """Names become rows of tables and captions of pictures, where each has to be told from all others."""
    taken = {*baselines, "c = 0", "oracle c", "decoded", "input"}
    starts = tuple(f"{word} " for word in ("target", "oracle", "seed", *ATTRIBUTES))
    for name in beside:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or "|" in name:
            raise ValueError(f"Every name in `beside` has to be printable text without |, got {name!r}.")
        if name in taken or name.startswith(starts):
            raise ValueError(f"Every name in `beside` has to be one that nothing else has, got {name!r}.")


def evenly_spaced(items: list[Any], count: int | None) -> list[Any]:
    """At most `count` of the items, evenly spread over them; all for None."""
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


def _judge(judge: Judge, picture: np.ndarray) -> float | None:
    """What `judge` says; None, of which JSON knows, where it can say nothing of such a picture."""
    judged = judge(picture)
    return judged if np.isfinite(judged) else None


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
        "worse": float(np.mean([_worse(record) for record in records])),
    }


def _records_beside(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """{model beside: the records, with its variants instead of the model's}."""
    return {name: [record | record["beside"][name] for record in records] for name in records[0]["beside"]}


def _worse(record: dict[str, Any]) -> float:
    """Share of a photo's variants that are farther from the expert nearest to them than the input is."""
    names = list(record["variants"])
    errors = np.asarray([record["variants"][name] for name in names])  # (experts, variants)
    before = np.asarray([record["quality"]["no change"][name]["delta_e"] for name in names])
    nearest = errors.argmin(0)
    return float(np.mean(errors.min(0) > (1 + WORSE) * before[nearest]))


# ---- showing and keeping the result --------------------------------------------------------------------------------


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
    return found | ({"texture": _texture_table(result)} if "texture" in result else {})


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


def save_json(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `result` as indented JSON: whole or not at all, so that an interrupted run never leaves half a file.

    Raises:
        OSError: if the folder does not exist or cannot be written.
        ValueError: if `result` holds NaN or infinity, which JSON has no word for.
    """
    write_atomically(Path(path), (json.dumps(result, indent=2, allow_nan=False) + "\n").encode())
